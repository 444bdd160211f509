"""Part of glulam: compiler."""
