"""Part of glulam: compiler kernels."""
