"""1x1 convolutions read channels where they lie, instead of their being joined, interleaved or taken apart before.

Concats, splits, slices and shuffles of channels that do not fill whole blocks are copies. A 1x1 convolution can look up
where each of its input channels is, so copies that only such convolutions read are not made; whoever else reads what
several of them make gets it by a single copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Concat, Conv, Slice, Split
from glulam.compiler.ops.channels import ConvChannels, SelectChannels
from glulam.compiler.ops.movement import ChannelShuffle
from glulam.compiler.ops.tiled import TiledConv
from glulam.compiler.passes.convolutions import is_pointwise
from glulam.compiler.passes.manager import Decision, Pass
from glulam.compiler.passes.sides import comes_plain
from glulam.compiler.targets import Target

Channels = Sequence[tuple[Value, int]]
"""For each channel of a tensor, a tensor that is computed and not moved, and the channel of it."""

_COPIED = 2.0  # elements a cycle, between tensors that stay in the second-level cache
_LOOKED_UP = 0.04  # of a convolution's time that it takes longer, at most
_MOST_SOURCES = 16  # each of them has code of its own


@dataclass(eq=False)
class _Cluster:
    """Movements that are connected, the convolutions that can do without them, and what others read of them."""

    moves: list[Node] = field(default_factory=list)
    layers: list[Node] = field(default_factory=list)
    needed: list[Value] = field(default_factory=list)


@dataclass(frozen=True)
class _Origins:
    """Channels as they were traced before the pass changed anything, and what stands for tensors since."""

    traced: Mapping[Value, Channels]
    replaced: Mapping[Value, Value]

    def of(self, value: Value) -> Channels:
        return [(self.replaced.get(source, source), channel) for source, channel in self.traced[value]]


@dataclass(frozen=True)
class ChosenChannels(Pass):
    """For each cluster of movements if, by estimate, what is copied less takes longer than looking channels up."""

    target: Target

    name = "chosen_channels"

    def proposals(self, graph: Graph, uses: Uses) -> Iterator[Patch | Decision]:
        traced = self.origins(graph)
        replaced: dict[Value, Value] = {}  # what convolutions of one cluster compute, another one may move
        for cluster in _clusters(graph, uses, traced):
            if cluster.layers:
                proposal = self.proposal(graph, uses, cluster, _Origins(traced, replaced))
                yield proposal
                if isinstance(proposal, Patch):
                    replaced |= {old: new for old, new in proposal.replaced.items() if uses.has(new)}

    def proposal(self, graph: Graph, uses: Uses, cluster: _Cluster, current: _Origins) -> Patch | Decision:
        at = cluster.moves[0].name
        inputs = [next(node.present_inputs()) for node in cluster.layers]
        origins = {value: current.of(value) for value in (*inputs, *cluster.needed)}
        sources = dict.fromkeys(source for value in (*inputs, *cluster.needed) for source, _ in origins[value])
        for source in sources:
            if (why := _unsuitable(uses, source)) is not None:
                return Decision(at, False, why)
        copied = sum(v.type.size for node in cluster.moves if self.copies(node) for v in node.outputs)
        left = sum(value.type.size for value in cluster.needed)
        saved, spent = (copied - left) / _COPIED, sum(map(self.longer, cluster.layers))
        told = f"{left / 1e3:.0f}k elements to move, not {copied / 1e3:.0f}k, in {saved / 1e3:.0f}k cycles"
        told = f"{told}; {len(cluster.layers)} convolutions look channels up, in {spent / 1e3:.0f}k cycles"
        if saved <= spent:
            return Decision(at, False, told)
        patch = Patch(graph, told, at=at)
        for value in cluster.needed:
            _select(patch, value, origins[value])
        for node, x in zip(cluster.layers, inputs, strict=True):
            _convolve(patch, node, origins[x])
        return patch

    def origins(self, graph: Graph) -> dict[Value, Channels]:
        """The channels of what movements make, but for those that are views of tensors that are computed."""
        found: dict[Value, Channels] = {}
        for node in graph.nodes:
            made = _moved(node, found)
            if made is not None and (self.copies(node) or any(value in found for value in node.inputs)):
                found.update(zip(node.outputs, made, strict=True))
        return found

    def copies(self, node: Node) -> bool:
        """Whether a movement is a copy between tensors in channel blocks."""
        match node.op:
            case Concat():
                return any(value.shape[1] % self.target.lanes for value in list(node.present_inputs())[:-1])
            case Split(_, sizes):
                return any(size % self.target.lanes for size in sizes[:-1])
        return True

    def longer(self, node: Node) -> float:
        """Estimated cycles that a convolution takes longer if it looks its channels up."""
        x = next(node.present_inputs())
        products = node.output.type.size * x.shape[1]
        return _LOOKED_UP * products / self.target.lanes / self.target.fmas_per_cycle


def _moved(node: Node, origins: Mapping[Value, Channels]) -> list[Channels] | None:
    """The channels of each output of a node that does nothing but move them; None of others."""
    if not isinstance(node.op, Concat | ChannelShuffle | Split | Slice):
        return None
    inputs = list(node.present_inputs())
    if any(v.is_constant or v.type.dtype is not DType.F32 or v.type.rank < 3 for v in inputs):
        return None
    channels: list[Channels] = [origins.get(v) or [(v, c) for c in range(v.shape[1])] for v in inputs]
    first = channels[0]
    match node.op:
        case Concat(1):
            return [[channel for each in channels for channel in each]]
        case ChannelShuffle(groups):
            return [[first[c] for c in np.arange(len(first)).reshape(groups, -1).T.ravel().tolist()]]
        case Split(1, sizes):
            ends = np.cumsum(sizes).tolist()
            return [first[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        case Slice(starts, steps, sizes) if steps[0] == 1 and set(steps[2:]) == {1}:
            (x,) = inputs
            if (sizes[0], *sizes[2:]) == (x.shape[0], *x.shape[2:]):
                return [[first[starts[1] + k * steps[1]] for k in range(sizes[1])]]
    return None


def _clusters(graph: Graph, uses: Uses, origins: Mapping[Value, Channels]) -> list[_Cluster]:
    found: dict[Node, _Cluster] = {}
    for node in graph.nodes:
        if any(value in origins for value in node.outputs):
            before = [found[v.producer] for v in node.present_inputs() if v.producer in found]
            cluster, *others = [*dict.fromkeys(before), _Cluster()]
            for other in others:
                cluster.moves += other.moves
                found.update(dict.fromkeys(other.moves, cluster))
            cluster.moves.append(node)
            found[node] = cluster
    clusters = list(dict.fromkeys(found.values()))
    for cluster in clusters:
        for value in (value for node in cluster.moves for value in node.outputs):
            readers = [user for user in dict.fromkeys(uses.users(value)) if user not in found]
            few = len({source for source, _ in origins[value]}) <= _MOST_SOURCES
            if uses.is_output(value) or (readers and not few) or not all(map(_looks_up, readers)):
                cluster.needed.append(value)
            else:
                cluster.layers += readers
    return clusters


def _looks_up(node: Node) -> bool:
    """Whether the node is a direct 1x1 convolution, whose kernel can look its channels up."""
    if type(node.op) not in (Conv, TiledConv):
        return False
    return node.parameters_are_known and is_pointwise(node)


def _unsuitable(uses: Uses, source: Value) -> str | None:
    """Why convolutions had better not read a tensor where it lies."""
    if comes_plain(source):
        return f"%{source.name} does not come in channel blocks"
    for user in uses.users(source):
        padding = user.op.padding(list(user.inputs).index(source), user.input_types)
        if padding is not None and not padding.or_none and any(map(any, padding.spans)):
            return f"%{source.name} has padding around it for {user.name!r}, and its pixels make no single row"
    return None


def _select(patch: Patch, value: Value, channels: Channels) -> None:
    """Let the patch have one copy make a value."""
    numbers = {source: k for k, source in enumerate(dict.fromkeys(source for source, _ in channels))}
    op = SelectChannels(tuple((numbers[source], channel) for source, channel in channels))
    node = value.producer
    assert node is not None
    name = node.name if len(node.outputs) == 1 else value.name
    patch.replace(value, patch.apply(op, *numbers, name=name))


def _convolve(patch: Patch, node: Node, channels: Channels) -> None:
    """Let the patch have a convolution read its input channels where they are, each tensor's in their order."""
    weights, bias = node.operand(1), node.inputs[2:]
    assert weights.data is not None
    places: dict[Value, list[int]] = {}
    for place, (source, _) in enumerate(channels):
        places.setdefault(source, []).append(place)
    chosen = [sorted(each, key=lambda place: channels[place][1]) for each in places.values()]
    order = [place for each in chosen for place in each]
    own = patch.constant(np.ascontiguousarray(weights.data[:, order]), weights.name)
    tile = (node.op.pixels, node.op.blocks) if isinstance(node.op, TiledConv) else ()
    op = ConvChannels(tuple(tuple(channels[place][1] for place in each) for each in chosen), tile)
    first, *others = places
    patch.replace(node.output, patch.apply(op, first, own, *(bias or [None]), *others, name=node.name))
