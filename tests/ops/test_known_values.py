"""Values worked out by hand, for the places where compilers are known to go wrong: windows, resize, NaN, infinities."""

import math
import warnings

import numpy as np
import pytest

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.types import DType, TensorType, f32

INF, NAN = math.inf, math.nan


def run(op, *arrays):
    arrays = [
        None if a is None else np.asarray(a, np.float32 if np.asarray(a).dtype == np.float64 else None) for a in arrays
    ]
    types = op.infer(*(None if a is None else TensorType.of(a) for a in arrays))
    outputs = op.reference(*arrays)
    assert tuple(TensorType.of(o) for o in outputs) == types
    return outputs[0] if len(outputs) == 1 else outputs


def line(*values):
    return np.array(values, np.float32)[None, None]


def same(got, *expected):
    np.testing.assert_allclose(np.ravel(got), np.array(expected, np.float32), rtol=1e-6, atol=1e-7)


# ---- windows


def test_ceil_mode_divides_by_the_padded_window_only():
    # windows of 3, stride 2, over [0 1 2 3 4 0] + one place beyond: the last sees 4, 0 and nothing
    pool = ops.AveragePool((3,), (2,), ((1, 1),), (1,), ceil_mode=True, count_include_pad=True)
    same(run(pool, line(1, 2, 3, 4)), 3 / 3, 9 / 3, 4 / 2)
    pool = ops.AveragePool((3,), (2,), ((1, 1),), (1,), ceil_mode=True, count_include_pad=False)
    same(run(pool, line(1, 2, 3, 4)), 3 / 2, 9 / 3, 4 / 1)


def test_ceil_window_that_starts_in_the_end_padding_is_dropped():
    # extent 4, stride 2, kernel 2, pads (0, 1): ceil gives 3 windows, the third would start at 4, beyond the input
    for op in (ops.MaxPool, ops.AveragePool):
        assert op((2,), (2,), ((0, 1),), (1,), True).infer(f32(1, 1, 4)) == (f32(1, 1, 2),)
    same(run(ops.MaxPool((2,), (2,), ((0, 1),), (1,), True), line(1, 2, 3, 4)), 2, 4)


@pytest.mark.parametrize(
    ("extent", "kernel", "stride", "pads", "ceil", "expected"),
    [
        (7, 3, 2, (0, 0), False, 3),
        (6, 3, 2, (0, 0), True, 3),
        (6, 3, 2, (0, 0), False, 2),
        (112, 3, 2, (1, 1), False, 56),
        (112, 3, 2, (0, 0), True, 56),
        (5, 1, 3, (0, 0), True, 2),
        (1, 1, 2, (0, 0), True, 1),
        (2, 1, 3, (0, 0), True, 1),
        (1, 2, 2, (0, 0), True, 1),
        (2, 5, 4, (0, 0), True, 1),
    ],
)
def test_pool_extents(extent, kernel, stride, pads, ceil, expected):
    assert ops.MaxPool((kernel,), (stride,), (pads,), (1,), ceil).infer(f32(1, 1, extent)) == (f32(1, 1, expected),)


@pytest.mark.parametrize(("kernel", "stride", "ceil"), [(2, 2, False), (2, 1, True), (5, 3, True)])
def test_a_window_without_a_place_is_refused(kernel, stride, ceil):
    with pytest.raises(ShapeError, match="exceeds the padded extent of axis 2"):
        ops.MaxPool((kernel,), (stride,), ((0, 0),), (1,), ceil).infer(f32(1, 1, 1))


def test_end_pads_belong_to_the_end():
    same(run(ops.MaxPool((2,), (1,), ((0, 1),), (1,)), line(-1, -2, -3)), -1, -2, -3)
    same(run(ops.MaxPool((2,), (1,), ((1, 0),), (1,)), line(-1, -2, -3)), -1, -1, -2)
    conv = ops.Conv((1, 1), ((0, 0), (0, 1)), (1, 1))
    same(run(conv, [[[[1, 2], [3, 4.0]]]], [[[[1, 10.0]]]]), 21, 2, 43, 4)


def test_same_lower_average_counts_its_padding():
    pool = ops.AveragePool((2,), (1,), ((1, 0),), (1,), count_include_pad=True)
    same(run(pool, line(2, 4, 6)), 1, 3, 5)


def test_pads_may_exceed_the_kernel():
    same(run(ops.Conv((1,), ((2, 3),), (1,)), line(5), line(1, 10)), 0, 50, 5, 0, 0)
    assert ops.MaxPool((2,), (1,), ((3, 0),), (1,)).infer(f32(1, 1, 4)) == (f32(1, 1, 6),)
    same(run(ops.MaxPool((2,), (1,), ((3, 0),), (1,)), line(1, 2)), -INF, -INF, 1, 2)
    with pytest.raises(ShapeError, match="mean is undefined"):
        ops.AveragePool((2,), (1,), ((3, 0),), (1,)).infer(f32(1, 1, 4))


def test_transposed_convolution_pads_and_output_padding():
    x, w = line(1, 2, 3), line(1, 10, 100)
    full = [1, 10, 102, 20, 203, 30, 300]
    same(run(ops.ConvTranspose((2,), ((0, 0),), (1,), (0,)), x, w), *full)
    same(run(ops.ConvTranspose((2,), ((1, 0),), (1,), (0,)), x, w), *full[1:])  # SAME_LOWER cuts the front
    same(run(ops.ConvTranspose((2,), ((0, 1),), (1,), (0,)), x, w), *full[:-1])  # SAME_UPPER cuts the end
    same(run(ops.ConvTranspose((2,), ((1, 1),), (1,), (1,)), x, w), *full[1:])
    same(run(ops.ConvTranspose((2,), ((0, 0),), (1,), (1,)), x, w, [7.0]), *(v + 7 for v in full), 7)


def test_width_pads_with_one_channel_and_grouped_weights():
    conv = ops.Conv((1, 1), ((0, 0), (1, 1)), (1, 1), groups=2)
    x = np.array([[[[1, 2]], [[3, 4]]]], np.float32)
    w = np.array([[[[1, 10, 100]]], [[[1, 1, 1]]]], np.float32)
    same(run(conv, x, w), 210, 21, 7, 7)


def test_size_one_and_huge_pads():
    conv = ops.Conv((1, 1), ((9, 9), (0, 0)), (1, 1))
    out = run(conv, np.full((1, 1, 1, 1), 2.0), np.full((1, 1, 1, 1), 3.0))
    assert out.shape == (1, 1, 19, 1)
    assert out.sum() == out[0, 0, 9, 0] == 6


# ---- resize


def resize(x, size, scale=None, mode="nearest", **attributes):
    x = line(*x)
    return run(ops.Resize((1, 1, size), (1.0, 1.0, scale or size / x.shape[2]), mode, **attributes), x)


def test_ties_round_as_asked():
    # 4 -> 2 asymmetric at scale 2/3: places 0, 1.5
    for rounding, second in (("round_prefer_floor", 2), ("round_prefer_ceil", 3), ("floor", 2), ("ceil", 3)):
        same(resize([1, 2, 3, 4], 2, 2 / 3, coordinates="asymmetric", rounding=rounding), 1, second)


def test_scale_that_is_not_the_ratio_of_the_sizes():
    # scale 0.6 of 4: floor(2.4) = 2 outputs at (i + 0.5) / 0.6 - 0.5 = 1/3 and 2
    same(resize([1, 2, 3, 4], 2, 0.6, "linear"), 1 + 1 / 3, 3)
    # 3 -> 4 at its own ratio: places -0.125, 0.625, 1.375, 2.125
    same(resize([1, 2, 3], 4, None, "linear"), 1, 1.625, 2.375, 3)
    # the onnx backend's resize_downsample_scales_linear_align_corners: length 2.4, so the second place is 3 / 1.4
    same(resize([1, 2, 3, 4], 2, 0.6, "linear", coordinates="align_corners"), 1, 1 + 3 / 1.4)


def test_output_of_length_one():
    same(resize([1, 2, 3], 1, None, "linear", coordinates="align_corners"), 1)
    same(resize([1, 2, 3], 1, None, "linear", coordinates="pytorch_half_pixel"), 1)
    same(resize([1, 2, 3], 1, None, "linear", coordinates="half_pixel"), 2)


def test_batch_and_channel_are_not_resampled():
    x = np.arange(2 * 3 * 2, dtype=np.float32).reshape(2, 3, 2)
    op = ops.Resize((2, 3, 4), (1.0, 1.0, 2.0), "nearest", "tf_half_pixel_for_nn", "ceil")
    same(run(op, x)[:, :, 0], *x[:, :, 1].ravel())
    assert not op.touches(0, 2)
    assert not op.touches(1, 3)


def test_integer_upsampling_meets_its_corners_exactly():
    for size in range(2, 40):
        out = resize([0, 1, 2, 3, 4, 5, 6], size, None, "nearest", coordinates="align_corners", rounding="floor")
        assert out.ravel()[-1] == 6
        assert out.ravel()[0] == 0


def test_cubic_at_the_middle():
    # Keys' kernel with a = -0.75 at distance 1/2: 0.59375, at 3/2: -0.09375
    same(run(ops.Resize((7,), (7 / 4,), "cubic", "align_corners"), np.arange(4.0) ** 2)[3], 5 * 0.59375 - 9 * 0.09375)
    same(resize([0, 0, 1, 0], 2, 2 / 3, "cubic", coordinates="asymmetric"), 0, 0.59375)


# ---- values


@pytest.mark.parametrize("place", range(17))
def test_reduce_max_finds_nan_everywhere(place):
    x = np.ones((1, 17), np.float32)
    x[0, place] = NAN
    for kind in ("max", "min", "sum", "mean", "log_sum_exp"):
        assert np.isnan(run(ops.Reduce(kind, (1,)), x)).all()
    assert run(ops.ArgReduce("max", 1), x) == place


def test_nan_survives_activations():
    gates = [ops.Sigmoid(), ops.HardSigmoid(), ops.Tanh(), ops.Silu(), ops.HardSwish(), ops.Mish(), ops.Gelu()]
    ramps = [ops.Relu(), ops.LeakyRelu(), ops.Clip(0, 6), ops.Elu(), ops.Celu(), ops.Selu(), ops.Softplus(), ops.Sign()]
    kept = [*gates, *ramps, ops.Gelu("tanh")]
    for op in kept:
        assert np.isnan(run(op, [NAN])).all(), op


def test_pool_of_nan_and_of_infinities():
    pool = ops.MaxPool((2,), (2,), ((0, 0),), (1,))
    same(run(pool, line(NAN, NAN, -INF, -INF, 1, NAN)), NAN, -INF, NAN)


@pytest.mark.parametrize(
    ("op", "low", "high", "at_minus_infinity", "at_infinity"),
    [
        (ops.Sigmoid(), 0, 1, 0, 1),
        (ops.Tanh(), -1, 1, -1, 1),
        (ops.Exp(), 0, INF, 0, INF),
        (ops.Relu(), 0, 1e38, 0, INF),
        (ops.Softplus(), 0, 1e38, 0, INF),
        (ops.Softplus(threshold=20.0), 0, 1e38, 0, INF),
        (ops.Elu(), -1, 1e38, -1, INF),
        (ops.Celu(2.0), -2, 1e38, -2, INF),
        (ops.Silu(), 0, 1e38, NAN, INF),
        (ops.Mish(), 0, 1e38, NAN, INF),
        (ops.HardSwish(), 0, 1e38, NAN, INF),
        (ops.Gelu(), 0, 1e38, NAN, INF),
        (ops.Gelu("tanh"), 0, 1e38, NAN, INF),
        (ops.Softsign(), -1, 1, NAN, NAN),
        (ops.HardSigmoid(), 0, 1, 0, 1),
        (ops.ThresholdedRelu(), 0, 1e38, 0, INF),
        (ops.Shrink(), -1e38, 1e38, -INF, INF),
    ],
    ids=lambda value: str(value) if isinstance(value, ops.Pointwise) else "",
)
def test_extreme_values(op, low, high, at_minus_infinity, at_infinity):
    same(run(op, [-1e38, 1e38, -INF, INF]), low, high, at_minus_infinity, at_infinity)


def test_softmax_of_extreme_values():
    same(run(ops.Softmax(0), [1e38, -1e38, 1e38]), 0.5, 0, 0.5)
    same(run(ops.Softmax(0), [-INF, 0, 0.0]), 0, 0.5, 0.5)
    same(run(ops.LogSoftmax(0), [0, -1e38]), 0, -1e38)
    same(run(ops.Reduce("log_sum_exp", (0,)), [-INF, 3.0]), 3)
    same(run(ops.Reduce("log_sum_exp", (0,)), [-INF, -INF]), -INF)


def test_small_values_keep_their_accuracy():
    same(np.log(run(ops.Softplus(), [-30.0, -80.0])), -30, -80)
    same(run(ops.Mish(), [-30.0]) / np.exp(-30.0), -30)


def test_formulas_agree_with_float64():
    x = np.linspace(-30, 30, 401)
    every = (cls for cls in ops.ALL_OPS if issubclass(cls, ops.Pointwise) and cls is not ops.Formula)
    coarse = ops.BitCast | ops.RoundBfloat16 | ops.Cast | ops.Round | ops.Floor | ops.Ceil | ops.Sign
    for op in (op for cls in every for op in cls.samples() if cls.arity == 1):
        if DType.F32 not in op.accepts or isinstance(op, coarse):
            continue
        (single,) = op.reference(x.astype(np.float32))
        (double,) = op.reference(x.astype(np.float32).astype(np.float64))
        assert double.dtype == np.float64
        np.testing.assert_allclose(single, double, rtol=2e-5, atol=1e-6, err_msg=str(op))


def test_integer_division_and_remainder():
    x, y = np.array([7, -7, 7, -7, 5]), np.array([2, 2, -2, -2, 0])
    assert run(ops.Div(), x, y).tolist() == [3, -3, -3, 3, 0]
    assert run(ops.Mod(), x[:4], y[:4]).tolist() == [1, 1, -1, -1]
    assert run(ops.Mod(True), x[:4], y[:4]).tolist() == [1, -1, 1, -1]


def test_clip_of_integers_rounds_its_bounds_inwards():
    x = np.array([-3, 0, 1, 9])
    assert run(ops.Clip(0.5, 6.5), x).tolist() == [1, 1, 1, 6]


def test_scale_shift_rounds_once():
    x = np.float32(1 + 2**-12)
    assert run(ops.ScaleShift(), [x], [x], [-1 - 2**-11]) == np.float32(2.0**-24)


# ---- shapes


def test_pad_crops_before_it_mirrors():
    x = np.arange(5, dtype=np.float32)
    same(run(ops.Pad(((-1, 2),), "reflect"), x), 1, 2, 3, 4, 3, 2)
    same(run(ops.Pad(((2, -2),), "edge"), x), 0, 0, 0, 1, 2)
    same(run(ops.Pad(((-2, 1),), "wrap"), x), 2, 3, 4, 2)
    same(run(ops.Pad(((-2, 1),), value=9), x), 2, 3, 4, 9)
    same(run(ops.Pad(((5, 0),), "reflect"), x[:3]), 1, 0, 1, 2, 1, 0, 1, 2)


def test_slices_far_and_backwards():
    x = np.arange(5, dtype=np.float32)
    same(run(ops.Slice((4,), (-2,), (3,)), x), 4, 2, 0)
    same(run(ops.Slice((1,), (2**30,), (1,)), x), 1)
    with pytest.raises(ShapeError, match="leave axis 0"):
        ops.Slice((0,), (2,), (4,)).infer(f32(5))


def test_nothing_and_scalars():
    assert run(ops.MatMul(), np.zeros((2, 0)), np.zeros((0, 3))).tolist() == [[0, 0, 0], [0, 0, 0]]
    same(run(ops.Reduce("prod", (0,)), np.zeros((0, 2))), 1, 1)
    same(run(ops.Reduce("sum", (), False), np.float32(3)), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(run(ops.Reduce("mean", (0,)), np.zeros((0, 1))), NAN)


X = f32(1, 4, 7, 7)
ILLEGAL = [
    (ops.Conv((1, 1), ((0, 0),), (1, 1)), (X, f32(4, 4, 3, 3)), "pads has 1 entries"),
    (ops.Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), (X, f32(4, 3, 3, 3)), "groups=1"),
    (ops.Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 3), (X, f32(4, 4, 3, 3)), "groups=3"),
    (ops.Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 0), (X, f32(4, 4, 3, 3)), "below 1"),
    (ops.Conv((0, 1), ((0, 0), (0, 0)), (1, 1)), (X, f32(4, 4, 3, 3)), "strides"),
    (ops.Conv((1, 1), ((0, -1), (0, 0)), (1, 1)), (X, f32(4, 4, 3, 3)), "pads"),
    (ops.Conv((1, 1), ((0, 0), (0, 0)), (1, 4)), (X, f32(4, 4, 3, 3)), "exceeds the padded extent of axis 3"),
    (ops.Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), (X, f32(4, 4, 3, 3), f32(3)), "the bias has shape"),
    (ops.Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), (X, None), "input 1 is missing"),
    (ops.Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), (X,), "takes 2 to 3 inputs"),
    (ops.Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), (X, TensorType(DType.F64, (4, 4, 3, 3))), "cast them"),
    (ops.ConvTranspose((1,), ((2, 2),), (1,), (0,)), (f32(1, 1, 2), f32(1, 1, 2)), "leave nothing"),
    (ops.MatMul(), (f32(2, 3), f32(4, 5)), "inner extents 3 and 4"),
    (ops.MatMul(), (f32(), f32(4, 5)), "scalar"),
    (ops.Linear(), (f32(2, 3), f32(4, 5)), r"\[out, in\]"),
    (ops.MaxPool((3,), (1,), ((0, 0),), (1,)), (X,), "kernel has 1 entries"),
    (ops.Add(), (f32(3), f32(4)), "do not broadcast"),
    (ops.Add(), (f32(3), TensorType(DType.I64, (3,))), "cast one"),
    (ops.Exp(), (TensorType(DType.I64, (3,)),), "not defined for i64"),
    (ops.Gelu("fast"), (f32(3),), "'none' or 'tanh'"),
    (ops.Where(), (f32(3), f32(3), f32(3)), "not defined for f32"),
    (ops.Softmax(-1), (f32(3),), "negative axes"),
    (ops.Reduce("sum", (1, 0)), (f32(3, 3),), "sorted"),
    (ops.Reduce("median", (1,)), (f32(3, 3),), "unknown"),
    (ops.ArgReduce("max", 0), (f32(0, 3),), "empty"),
    (ops.Reshape((4, 2)), (f32(3, 3),), "9 elements"),
    (ops.Transpose((0, 0)), (f32(3, 3),), "not an order"),
    (ops.Concat(0), (f32(3, 3), f32(3, 4)), "more than axis 0"),
    (ops.Concat(0), (), "at least one"),
    (ops.Split(0, (1, 1)), (f32(3),), "add up"),
    (ops.Pad(((-2, -2),)), (f32(3),), "crop more"),
    (ops.Pad(((-3, 1),), "edge"), (f32(3),), "no element"),
    (ops.Pad(((0, 1),), value=2**63), (TensorType(DType.I64, (3,)),), "value 9223372036854775808 is no i64"),
    (ops.Pad(((0, 1),), value=math.nan), (TensorType(DType.I64, (3,)),), "value nan is no i64"),
    (ops.Expand((2,)), (f32(3),), "broadcast"),
    (ops.Gather(0), (f32(3), f32(3)), "not defined for f32"),
    (ops.Resize((3,), (0.0,)), (f32(3),), "positive"),
    (ops.Resize((3,), (1.0,), "lanczos"), (f32(3),), "mode 'lanczos'"),
    (ops.BatchNorm(), (f32(1, 3, 2), f32(2), f32(3), f32(3), f32(3)), "the scale"),
    (ops.LayerNorm(1), (f32(1, 3), f32(1)), "the scale"),
]


@pytest.mark.parametrize(("op", "types", "reason"), ILLEGAL, ids=lambda v: v.name if hasattr(v, "name") else "")
def test_illegal_inputs_are_refused_with_a_reason(op, types, reason):
    with pytest.raises(ShapeError, match=reason):
        op.infer(*types)
