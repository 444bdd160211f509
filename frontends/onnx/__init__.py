"""Part of glulam: frontends onnx."""
