"""What both frontends compose of several ops, because the graph has no op of that meaning.

The Python layers and the ONNX importer check their arguments, each with errors of its own, and say how an op is applied
to their values; what is made of that is said here. `einsum` is the same for Einstein's summation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from glulam.compiler import ops
from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.op import Op

V = TypeVar("V", bound=Value)
Made = TypeVar("Made", bound=Value, covariant=True)


class Apply(Protocol[Made]):
    """Makes a node. `part` says which step of the whole it is, for nodes that are named by it."""

    def __call__(self, op: Op, *inputs: Value | None, part: str = "") -> Made: ...


def moments(x: Value, axes: Sequence[int], apply: Apply[V]) -> tuple[V, V, V]:
    """The mean over the axes, which stay with extent 1; x less that mean; the variance."""
    mean_of = ops.Reduce("mean", tuple(axes), True)
    mean = apply(mean_of, x, part="mean")
    centred = apply(ops.Sub(), x, mean, part="centred")
    variance = apply(mean_of, apply(ops.Mul(), centred, centred, part="square"), part="variance")
    return mean, centred, variance


def mean_variance_norm(x: Value, axes: Sequence[int], epsilon: Value, apply: Apply[V]) -> V:
    """(x - mean) / (deviation + epsilon) over the axes, as the ONNX text composes it."""
    _, centred, variance = moments(x, axes, apply)
    deviation = apply(ops.Sqrt(), variance, part="deviation")
    return apply(ops.Div(), centred, apply(ops.Add(), deviation, epsilon, part="add"))


def depth_to_space(x: Value, block: int, apply: Apply[V], *, channels_first: bool) -> V:
    """[N, C b^2, H, W] becomes [N, C, H b, W b]: channels are [C, b, b] (PyTorch's and CRD), or [b, b, C] (DCR)."""
    n, c, h, w = x.shape
    deep = c // (block * block)
    if channels_first:
        shape, perm = (n, deep, block, block, h, w), (0, 1, 4, 2, 5, 3)
    else:
        shape, perm = (n, block, block, deep, h, w), (0, 3, 4, 1, 5, 2)
    split = apply(ops.Reshape(shape), x, part="split")
    moved = apply(ops.Transpose(perm), split, part="transpose")
    return apply(ops.Reshape((n, deep, h * block, w * block)), moved)


def space_to_depth(x: Value, block: int, apply: Apply[V], *, channels_first: bool) -> V:
    """[N, C, H b, W b] becomes [N, C b^2, H, W], the inverse of `depth_to_space`."""
    n, c, h, w = x.shape
    split = apply(ops.Reshape((n, c, h // block, block, w // block, block)), x, part="split")
    perm = (0, 1, 3, 5, 2, 4) if channels_first else (0, 3, 5, 1, 2, 4)
    moved = apply(ops.Transpose(perm), split, part="transpose")
    return apply(ops.Reshape((n, c * block * block, h // block, w // block)), moved)


def sliced(x: V, ranges: Sequence[range], apply: Apply[V]) -> V:
    """The elements with these indices along each axis; x itself if that is all of them in order."""
    starts = tuple(r.start if len(r) else 0 for r in ranges)
    steps = tuple(r.step if len(r) > 1 else 1 for r in ranges)
    sizes = tuple(map(len, ranges))
    if sizes == x.shape and all(step > 0 for step in steps):
        return x
    return apply(ops.Slice(starts, steps, sizes), x)


def lp_pool(x: Value, mean: ops.AveragePool, power: Value, count: Value, root: Value, apply: Apply[V]) -> V:
    """(sum |x|^p)^(1/p) over windows: `power` is p, `root` 1/p, `count` of how many elements each mean was taken."""
    powers = apply(ops.Pow(), apply(ops.Abs(), x, part="abs"), power, part="pow")
    total = apply(ops.Mul(), apply(mean, powers), count, part="mul")
    return apply(ops.Pow(), total, root, part="pow")
