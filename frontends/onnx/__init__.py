"""ONNX in and out: `from_onnx` reads a model into a Graph, `to_onnx` writes a Graph as a model."""

from glulam.frontends.onnx.exporter import to_onnx
from glulam.frontends.onnx.importer import from_onnx

__all__ = ["from_onnx", "to_onnx"]
