"""ONNX nodes for recurrent layers."""

from __future__ import annotations

from typing import Any

from glulam.compiler import ops
from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.graph import Node
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType
from glulam.compiler.ops.recurrent import ACTIVATIONS
from glulam.frontends.onnx.proto import elem_type_of
from glulam.frontends.onnx.writer import Export, Writer


def recurrent(w: Writer, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Lstm | ops.Gru | ops.Rnn)
    if op.projected:
        raise UnsupportedError("its input weights are a layer of their own; export the graph before it is optimised")
    inputs = w.inputs(node)
    lengths = node.inputs[4] if len(node.inputs) > 4 else None
    if lengths is not None and lengths.type.dtype is not DType.I32:
        inputs[4] = w.call("Cast", inputs[4], to=elem_type_of(DType.I32))
    attributes: dict[str, Any] = {"clip": op.clip} if op.clip else {}
    if isinstance(op, ops.Lstm):
        attributes["input_forget"] = int(op.input_forget)
    if isinstance(op, ops.Gru):
        attributes["linear_before_reset"] = int(op.linear_before_reset)
    names = [name for name, _, _ in op.activations]
    if names != [*op.default_activations] * op.directions:
        taken = [ACTIVATIONS[name][3] for name in names]
        attributes["activations"] = names
        alphas = [alpha for (_, alpha, _), n in zip(op.activations, taken, strict=True) if n]
        betas = [beta for (_, _, beta), n in zip(op.activations, taken, strict=True) if n > 1]
        attributes |= {"activation_alpha": alphas} if alphas else {}
        attributes |= {"activation_beta": betas} if betas else {}
    assert node.inputs[2] is not None
    w.emit(op.name.upper(), inputs, w.outputs(node), hidden_size=node.inputs[2].shape[2], direction=op.direction,
           **attributes)  # fmt: skip


TABLE: dict[type[Op], Export] = {ops.Lstm: recurrent, ops.Gru: recurrent, ops.Rnn: recurrent}
