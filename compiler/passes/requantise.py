"""What becomes of codes is multiplied by the reciprocal of the next scale, not divided by it.

Between two layers of a quantised network stands a division for each element, which takes as long as the rest of its
epilogue. Only a number next to the middle between two codes may become the other one. Numbers that were no codes, such
as the network's inputs, are still divided.
"""

from __future__ import annotations

import numpy as np

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Cast, Div, Mul
from glulam.compiler.ops.inputs import INTEGERS
from glulam.compiler.passes.manager import NodePass
from glulam.compiler.passes.whole_numbers import whole_range

_STEPS = 8  # pointwise ops between codes and a division: two scales, zero points and biases, their sum, an activation


class Requantise(NodePass):
    """Looks at divisions of float32 by a constant number."""

    name = "requantise"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | None:
        if not isinstance(node.op, Div) or node.output.type.dtype is not DType.F32:
            return None
        x, scale = node.present_inputs()
        if scale.data is None or scale.type.size != 1 or not _comes_from_codes(x, _STEPS):
            return None
        with np.errstate(all="ignore"):
            reciprocal = (1 / scale.data.astype(np.float64)).astype(np.float32)
        if not (np.isfinite(reciprocal).all() and np.abs(reciprocal).min() >= np.finfo(np.float32).tiny):
            return None
        patch = Patch(graph, f"the scale {float(scale.data.reshape(())):.6g} has a reciprocal", at=node.name)
        result = patch.apply(Mul(), x, patch.constant(reciprocal, f"{node.name}.reciprocal"), name=node.name)
        patch.replace(node.output, result)
        return patch


def _comes_from_codes(value: Value, steps: int) -> bool:
    """Whether pointwise ops compute it from whole numbers and constants alone."""
    node = value.producer
    if value.is_constant:
        return True
    if node is None or not steps:
        return False
    if isinstance(node.op, Cast) and next(node.present_inputs()).type.dtype in INTEGERS:
        return True
    if whole_range(value, 1) is not None:
        return True
    return Trait.POINTWISE in node.op.traits and all(
        _comes_from_codes(each, steps - 1) for each in node.present_inputs()
    )
