"""Part of glulam: compiler codegen."""
