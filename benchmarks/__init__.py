"""Part of glulam: benchmarks, real models, and the peers it is measured against."""
