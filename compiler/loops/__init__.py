"""Part of glulam: compiler loops."""
