"""What the tests of traps share: a graph as text, through the whole compiler, against its reference."""

from __future__ import annotations

import numpy as np
from executors import TARGETS, check, native
from rewrites import graph_of, random

from glulam.compiler.options import Options

PLAIN = "{strides=(1, 1), pads=((0, 0), (0, 0)), dilations=(1, 1), groups=1}"
PADDED = "{strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=1}"


def moderate(text):
    """The graph, its convolutions scaled so that values keep their size."""
    graph = graph_of(text)
    for value in graph.constants():
        if value.type.rank >= 4 and value.type.size:
            value.data[:] /= np.sqrt(np.prod(value.shape[1:]))
    return graph


def through(text, tolerance=1e-4, **feeds):
    """The native outputs; those of the best target, fused and not, and of the plainest one are the reference's."""
    graph = moderate(text) if isinstance(text, str) else text
    given = {
        name: np.asarray(feeds[name], value.type.dtype.numpy) if name in feeds else random(value.type, name)
        for name, value in graph.inputs.items()
    }
    with np.errstate(all="ignore"):
        check(graph, given, targets=TARGETS[:1], tolerance=tolerance)
        check(graph, given, targets=TARGETS[-1:], fuse=(True,), tolerance=tolerance)
        return native(graph, given, Options(target=TARGETS[0]))
