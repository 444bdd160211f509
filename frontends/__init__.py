"""Where graphs come from: layers in Python, with the zoo built of them, and ONNX files."""
