"""Part of glulam: runtime."""
