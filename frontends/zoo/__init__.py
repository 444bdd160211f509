"""Part of glulam: frontends zoo."""
