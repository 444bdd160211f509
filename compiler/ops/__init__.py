"""Part of glulam: compiler ops."""
