"""Part of glulam: frontends."""
