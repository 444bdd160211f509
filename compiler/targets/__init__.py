"""Part of glulam: compiler targets."""
