"""The passes in their order, each with its reason."""

from __future__ import annotations

from glulam.compiler.options import Options
from glulam.compiler.passes.average_in_producer import AverageInProducer
from glulam.compiler.passes.batch_across_threads import BatchAcrossThreads
from glulam.compiler.passes.byte_products import ByteProducts
from glulam.compiler.passes.canonical_shuffle import CanonicalShuffle
from glulam.compiler.passes.choose_algorithm import ChooseAlgorithm, Measured
from glulam.compiler.passes.chosen_channels import ChosenChannels
from glulam.compiler.passes.codes_as_floats import CodesAsFloats
from glulam.compiler.passes.common_subexpressions import CommonSubexpressions
from glulam.compiler.passes.constant_folding import ConstantFolding
from glulam.compiler.passes.dead_code import DeadCode
from glulam.compiler.passes.dynamic_weights import DynamicWeights
from glulam.compiler.passes.fold_empty import FoldEmpty
from glulam.compiler.passes.fold_normalisation import FoldNormalisation
from glulam.compiler.passes.fold_padding import FoldPadding
from glulam.compiler.passes.fuse import Fuse
from glulam.compiler.passes.fuse_attention import FuseAttention
from glulam.compiler.passes.fuse_separable import FuseSeparable
from glulam.compiler.passes.identity_elimination import IdentityElimination
from glulam.compiler.passes.layout import ChooseLayout
from glulam.compiler.passes.lookup_tables import LookupTables
from glulam.compiler.passes.manager import Pass
from glulam.compiler.passes.matmul_to_linear import MatMulToLinear
from glulam.compiler.passes.modulate_weights import ModulateWeights
from glulam.compiler.passes.narrow_sums import NarrowSums
from glulam.compiler.passes.own_tiles import OwnTiles
from glulam.compiler.passes.row_times_transposed import RowTimesTransposed
from glulam.compiler.passes.rows_first import RowsFirst
from glulam.compiler.passes.same_codes import SameCodes
from glulam.compiler.passes.scatter_to_slices import ScatterToSlices
from glulam.compiler.passes.sink_concats import SinkConcats
from glulam.compiler.passes.sink_transposes import SinkTransposes
from glulam.compiler.passes.sink_views import SinkViews
from glulam.compiler.passes.sliced_linear import SlicedLinear
from glulam.compiler.passes.split_batch import SplitBatch
from glulam.compiler.passes.split_recurrence import SplitRecurrence
from glulam.compiler.passes.split_strassen import SplitStrassen
from glulam.compiler.passes.split_winograd import SplitWinograd
from glulam.compiler.passes.transposed_blocks import TransposedBlocks
from glulam.compiler.passes.transposed_to_conv import TransposedToConv
from glulam.compiler.passes.trim_taps import TrimTaps
from glulam.compiler.targets import Target, target

# Left out if `Options.fuse` is False, so that every layer keeps a kernel of its own.
FUSIONS = ("fold_normalisation", "modulate_weights", "fuse", "average_in_producer", "fuse_separable", "fuse_attention")

# Left out with `numerics="strict"`: they compute other sums than the definition's.
REORDERING = ("modulate_weights",)


def pipeline(
    machine: Target, measured: Measured | None = None, strict: bool = False, threads: int = 1
) -> tuple[Pass, ...]:
    """What `compile` runs on a graph before it is lowered; `measured` are the times that tuning found.

    With `strict` only algorithms are chosen that add up what the definition does. The passes know of so many `threads`
    only where results do not depend on them.
    """
    return (
        DeadCode(),  # so that nothing is looked at in vain
        FoldEmpty(),  # so that everything which is left has something to compute
        SplitRecurrence(),  # a linear layer like others, whose weights the next passes fold
        ConstantFolding(),  # shape arithmetic; what is constant then folds into weights
        ScatterToSlices(),  # of indices that are constants now, or too large for that
        CodesAsFloats(),  # casts would stand between the layers that fuse
        SameCodes(),  # the next pass finds codes behind pools then
        ByteProducts(machine),  # on codes as they were written, before anything moves between them and the layers
        LookupTables(machine),  # of codes, where bytes are multiplied on both sides of an activation
        SinkTransposes(),  # from between the layers that fuse
        SinkViews(),  # likewise, where transposes stand behind reshapes
        SinkConcats(),  # likewise
        FoldPadding(),  # a Pad of zeros that a convolution reads is the convolution's own
        IdentityElimination(),  # dropout and no-ops would stand between the layers that fuse
        CommonSubexpressions(),  # what is computed twice would look like a second use
        CanonicalShuffle(),  # three movements that need plain tensors are one that does not
        MatMulToLinear(),  # a constant right operand makes it a layer that norms can fold into
        RowTimesTransposed(),  # of what transposes have sunk to
        SlicedLinear(),  # so that what follows a slice folds into its weights
        NarrowSums(),  # of linear layers too; before scales could be folded into what has to stay exact
        FoldNormalisation(strict=strict),  # on layers as they were written, before regions hide them
        TrimTaps(),  # after FoldPadding: taps that meet only that padding go
        SplitBatch(machine),  # before the choice of algorithms, which depends on how many samples there are
        TransposedToConv(machine, strict),  # before the choice of algorithms, which then has one more convolution
        DynamicWeights(),  # after whatever becomes a convolution, before batches are divided
        ChooseAlgorithm(machine, measured or {}, strict),  # before fusion, since not every kernel can pool its result
        ChosenChannels(machine),  # after the choice of algorithms: only a direct convolution can look its channels up
        ModulateWeights(),  # of direct convolutions; before batches are divided, which must not hide a product's reader
        BatchAcrossThreads(machine, threads),  # after the choice of algorithms, which must not depend on threads
        OwnTiles(machine, threads),  # on samples that threads share, before stages are split
        SplitWinograd(machine),  # its last stage then carries the epilogue
        SplitStrassen(),  # likewise
        Fuse(machine),  # before layouts, so that a region gets one layout
        AverageInProducer(machine),  # once it is known what one kernel computes
        FuseSeparable(machine),  # of regions, whose epilogues are known
        FuseAttention(machine),  # likewise
        ChooseLayout(machine),  # kernels are built for what it decides
        TransposedBlocks(),  # of the conversions that it put in
        RowsFirst(threads),  # of the tensors that stay; it makes no difference to any result
    )


def disabled_passes(options: Options) -> tuple[str, ...]:
    """Names of the passes that the options leave out."""
    fusions = () if options.fuse else FUSIONS
    inexact = REORDERING if options.numerics == "strict" else ()
    return tuple(dict.fromkeys((*options.disable, *fusions, *inexact)))


def switchable_passes() -> tuple[str, ...]:
    """Names of the passes that may be disabled."""
    return tuple(each.name for each in pipeline(target("native")) if each.optional)
