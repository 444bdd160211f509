"""Attention: the scaled dot product, and several heads of it with their projections."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.types import DType
from glulam.frontends.layers.arguments import flag, integer, named_arrays, real
from glulam.frontends.layers.initial import constant, uniform
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.tensor import Parameter, Tensor, apply, literal, require_rank, reshape, slice_axis


def attend(
    q: Tensor, k: Tensor, v: Tensor, masks: Sequence[Tensor], path: str, *, scale: float, causal: bool, keeps: bool
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T scale + mask) v of q[..., L, D], k[..., S, D], v[..., S, E]; and the weights [..., L, S].

    A mask of booleans says which pairs count (`keeps`) or do not; any other is added. All shapes broadcast.
    """
    axes = tuple(range(k.rank - 2))
    turned = apply(ops.Transpose((*axes, k.rank - 1, k.rank - 2)), k, name=f"{path}.keys")
    scores = apply(ops.MatMul(), q, turned, name=f"{path}.scores")
    if scale != 1.0:
        scores = apply(ops.Mul(), scores, literal(scale, scores), name=f"{path}.scaled")
    if causal:
        rows, columns = scores.shape[-2:]
        later = np.triu(np.full((rows, columns), -np.inf), 1)
        scores = apply(ops.Add(), scores, literal(later, scores, f"{path}.later"), name=f"{path}.causal")
    for mask in masks:
        if mask.dtype is DType.BOOL:
            never = literal(-np.inf, scores)
            pair = (scores, never) if keeps else (never, scores)
            scores = apply(ops.Where(), mask, *pair, name=f"{path}.masked")
        else:
            scores = apply(ops.Add(), scores, mask, name=f"{path}.masked")
    weights = apply(ops.Softmax(scores.rank - 1), scores, name=f"{path}.weights")
    return apply(ops.MatMul(), weights, v, name=f"{path}.mixed"), weights


class ScaledDotProductAttention(Layer):
    """softmax(q k^T / sqrt(D) + mask) v, called on q[..., L, D], k[..., S, D], v[..., S, E] and maybe a mask.

    PyTorch's functional of that name: a mask of booleans is true where a pair counts, any other is added; is_causal
    lets row i see columns up to i; scale replaces 1 / sqrt(D). A row that sees nothing is NaN.
    """

    def __init__(self, is_causal: bool = False, scale: float | None = None, *, name: str | None = None) -> None:
        super().__init__(name)
        self.is_causal = flag(is_causal, "ScaledDotProductAttention: is_causal")
        self.scale = None if scale is None else real(scale, "ScaledDotProductAttention: scale")

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        path = self.path(q.scope)
        if min(q.rank, k.rank, v.rank) < 2:
            raise ShapeError(f"{path}: attention takes [..., length, features], not {q.type}, {k.type} and {v.type}")
        scale = 1.0 / math.sqrt(q.shape[-1]) if self.scale is None else self.scale
        masks = [] if mask is None else [mask]
        return attend(q, k, v, masks, path, scale=scale, causal=self.is_causal, keeps=True)[0]


class MultiheadAttention(Layer):
    """Attention of num_heads heads over [L, N, embed_dim], or [N, L, embed_dim] with batch_first.

    Called on (query, key, value) or on one tensor for all three, then on a mask, if there is any: [L, S],
    [N * heads, L, S] or what broadcasts to [N, heads, L, S]; booleans are true where a pair does not count, other masks
    are added. With `key_padding_mask`, a mask [N, S] of keys that do not count comes before that one.
    is_causal masks what comes later by itself. kdim, vdim: features of keys and values, embed_dim by default.
    The result is like the query; with need_weights it is (result, weights averaged over the heads, [N, L, S]).
    Parameters have PyTorch's names: in_proj_weight (or q_proj_weight, k_proj_weight, v_proj_weight), in_proj_bias,
    out_proj.weight, out_proj.bias. `dropout` does nothing at inference.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        is_causal: bool = False,
        need_weights: bool = False,
        key_padding_mask: bool = False,
        weights: dict[str, npt.ArrayLike] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.embed_dim = integer(embed_dim, "MultiheadAttention: embed_dim", low=1)
        self.num_heads = integer(num_heads, "MultiheadAttention: num_heads", low=1)
        if self.embed_dim % self.num_heads:
            raise ShapeError(f"MultiheadAttention: {num_heads} heads do not divide embed_dim {embed_dim}")
        real(dropout, "MultiheadAttention: dropout", low=0.0, high=1.0)
        self.has_bias = flag(bias, "MultiheadAttention: bias")
        self.batch_first = flag(batch_first, "MultiheadAttention: batch_first")
        self.kdim = self.embed_dim if kdim is None else integer(kdim, "MultiheadAttention: kdim", low=1)
        self.vdim = self.embed_dim if vdim is None else integer(vdim, "MultiheadAttention: vdim", low=1)
        self.is_causal = flag(is_causal, "MultiheadAttention: is_causal")
        self.need_weights = flag(need_weights, "MultiheadAttention: need_weights")
        self.key_padding_mask = flag(key_padding_mask, "MultiheadAttention: key_padding_mask")
        self._given = named_arrays(weights, "MultiheadAttention: weights")

    def forward(self, query: Tensor, *others: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        path = self.path(query.scope)
        key, value, masks = self._operands(query, others, path)
        sources: list[Tensor] = []
        for x, features in ((query, self.embed_dim), (key, self.kdim), (value, self.vdim)):
            axes = "[N, L, features] (batch_first)" if self.batch_first else "[L, N, features]"
            require_rank(x, 3, "MultiheadAttention", axes)
            if x.shape[2] != features:
                raise ShapeError(f"{path}: {x.name!r} is {x.type}, but {features} features are needed")
            if x is query and sources:
                sources.append(sources[0])
            else:
                sources.append(x if self.batch_first else apply(ops.Transpose((1, 0, 2)), x, name=f"{path}.batch"))
        q, k, v = (self._heads(x, path) for x in self._projected(sources, path))
        scale = 1.0 / math.sqrt(self.embed_dim // self.num_heads)
        masks = [self._for_heads(mask, q.shape[0], path) for mask in masks]
        mixed, weights = attend(q, k, v, masks, path, scale=scale, causal=self.is_causal, keeps=False)
        joined = apply(ops.Transpose((0, 2, 1, 3)), mixed, name=f"{path}.joined")
        joined = reshape(joined, (*joined.shape[:2], self.embed_dim), f"{path}.joined")
        out = self._parameter("out_proj.weight", (self.embed_dim, self.embed_dim), query)
        bias = self._parameter("out_proj.bias", (self.embed_dim,), query) if self.has_bias else None
        self.check_names(self._given)
        y = apply(ops.Linear(), joined, out, bias, name=path)
        y = y if self.batch_first else apply(ops.Transpose((1, 0, 2)), y, name=f"{path}.time")
        if not self.need_weights:
            return y
        return y, apply(ops.Reduce("mean", (1,), False), weights, name=f"{path}.average")

    def _operands(self, query: Tensor, others: Sequence[Tensor], path: str) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Key, value, and the masks, the one of keys as [N, 1, 1, S]."""
        own = int(self.key_padding_mask)
        if len(others) - own not in (0, 1, 2, 3):
            masks_text = "a mask of keys, and maybe another" if own else "maybe a mask"
            raise ShapeError(
                f"{path}: takes a query, or query, key and value; and {masks_text}; not {1 + len(others)} inputs"
            )
        split = 2 if len(others) - own > 1 else 0
        key, value = others[:2] if split else (query, query)
        masks = list(others[split:])
        if own:
            keys = (key.shape[0], key.shape[1]) if self.batch_first else (key.shape[1], key.shape[0])
            if masks[0].shape != keys:
                raise ShapeError(f"{path}: the mask of keys {masks[0].name!r} is {masks[0].type}, not {keys}")
            masks[0] = reshape(masks[0], (keys[0], 1, 1, keys[1]), f"{path}.padding")
        return key, value, masks

    def _for_heads(self, mask: Tensor, batch: int, path: str) -> Tensor:
        """[N * heads, L, S] as [N, heads, L, S]; other masks as they are."""
        if mask.rank != 3 or mask.shape[0] != batch * self.num_heads:
            return mask
        return reshape(mask, (batch, self.num_heads, *mask.shape[1:]), f"{path}.mask")

    def _heads(self, x: Tensor, path: str) -> Tensor:
        """[N, L, heads * D] as [N, heads, L, D]."""
        split = reshape(x, (*x.shape[:2], self.num_heads, self.embed_dim // self.num_heads), f"{path}.split")
        return apply(ops.Transpose((0, 2, 1, 3)), split, name=f"{path}.heads")

    def _projected(self, sources: list[Tensor], path: str) -> list[Tensor]:
        """Query, key and value by their projections: one product for all if they are one tensor."""
        e, query = self.embed_dim, sources[0]
        bias = self._parameter("in_proj_bias", (3 * e,), query) if self.has_bias else None
        own = self.kdim != e or self.vdim != e
        joint = None if own else self._parameter("in_proj_weight", (3 * e, e), query)
        if joint is not None and all(x is query for x in sources):
            y = apply(ops.Linear(), query, joint, bias, name=f"{path}.in_proj")
            return [slice_axis(y, 2, i * e, e, f"{path}.in_proj") for i in range(3)]
        found = []
        for i, (x, letter) in enumerate(zip(sources, "qkv", strict=True)):
            part = ops.Slice((i * e,), (1,), (e,))
            b = None if bias is None else apply(part, bias, name=f"{path}.{letter}_bias", scope=query.scope)
            if joint is None:
                w: Parameter | Tensor = self._parameter(f"{letter}_proj_weight", (e, x.shape[2]), query)
            else:
                rows = ops.Slice((i * e, 0), (1, 1), (e, e))
                w = apply(rows, joint, name=f"{path}.{letter}_weight", scope=query.scope)
            found.append(apply(ops.Linear(), x, w, b, name=f"{path}.{letter}_proj"))
        return found

    def _parameter(self, key: str, shape: tuple[int, ...], like: Tensor) -> Parameter:
        bound = math.sqrt(6.0 / sum(shape)) if len(shape) > 1 else 0.0
        initializer = uniform(-bound, bound) if bound else constant(0.0)
        return self.parameter(key, shape, self._given.get(key), initializer, like)
