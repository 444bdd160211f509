"""Part of glulam: compiler passes."""
