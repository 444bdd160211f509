"""Part of glulam: compiler graph."""
