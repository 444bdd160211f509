"""Bad arguments and misfitting tensors: one typed error that names the layer and the reason."""

from __future__ import annotations

import numpy as np
import pytest

from glulam.compiler.errors import GlulamError, GraphError, ShapeError
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.frontends import layers as L

ARGUMENTS = [
    (lambda: L.Conv2d(4, -3), "Conv2d: kernel_size is -3; it must be at least 1"),
    (lambda: L.Conv2d(4, (3, 3, 3)), "Conv2d: kernel_size is .* one per spatial axis"),
    (lambda: L.Conv2d(4, 3.0), "Conv2d: kernel_size is 3.0, not an integer"),
    (lambda: L.Conv2d(4, True), "not an integer"),
    (lambda: L.GRU(10**400), "GRU: hidden_size is beyond 64 bits"),
    (lambda: L.Conv2d(0, 3), "Conv2d: out_channels is 0"),
    (lambda: L.Conv2d(4, 3, stride=0), "Conv2d: stride is 0"),
    (lambda: L.Conv2d(4, 3, dilation=0), "Conv2d: dilation is 0"),
    (lambda: L.Conv2d(4, 3, groups=3), "4 output channels do not divide into 3 groups"),
    (lambda: L.Conv2d(4, 3, padding="full"), "Conv2d: padding is 'full'"),
    (lambda: L.Conv2d(4, 3, padding=-1), "Conv2d: padding is -1"),
    (lambda: L.Conv2d(4, 3, padding=((1, 2, 3), (0, 0))), "before, after"),
    (lambda: L.Conv2d(4, 3, padding_mode="mirror"), "padding_mode is 'mirror'"),
    (lambda: L.ConvTranspose2d(4, 3, padding="same"), "ConvTranspose2d: padding 'same'"),
    (lambda: L.ConvTranspose2d(4, 3, 2, output_padding=2), "output_padding 2 must be smaller"),
    (lambda: L.MaxPool2d(0), "MaxPool2d: kernel_size is 0"),
    (lambda: L.MaxPool2d(2, padding=2), "MaxPool2d: padding is 2 before and 2 after, .* over 2; it must be at most 1"),
    (lambda: L.MaxPool1d(3, padding=2, return_indices=True), "MaxPool1d: padding is 2 .* at most 1"),
    (lambda: L.MaxPool1d(3, padding=((0, 3),)), "MaxPool1d: padding is 0 before and 3 after, .* at most 2"),
    (lambda: L.AdaptiveAvgPool2d(0), "output_size is 0"),
    (lambda: L.AdaptiveAvgPool2d((1, 2, 3)), "one per spatial axis"),
    (lambda: L.Linear("ten"), "Linear: out_features is 'ten'"),
    (lambda: L.Clip(2, 1), "lower bound 2.0 is above"),
    (lambda: L.GELU("fast"), "approximate is 'fast'"),
    (lambda: L.CELU(0), "alpha is 0"),
    (lambda: L.BatchNorm(-1.0), "eps is -1.0"),
    (lambda: L.BatchNorm(affine=False, weight=[1]), "affine=False"),
    (lambda: L.BatchNorm(64), "BatchNorm: eps is 64; .* inferred"),
    (lambda: L.BatchNorm1d(1), "BatchNorm1d: eps is 1; .* inferred"),
    (lambda: L.BatchNorm2d(64, 1e-3), "BatchNorm2d: eps is 64; it is below 1 .* leave it out"),
    (lambda: L.GroupNorm(2, 4), "GroupNorm: eps is 4; .* inferred"),
    (lambda: L.InstanceNorm2d(4), "InstanceNorm2d: eps is 4; .* inferred"),
    (lambda: L.LSTM(10, 20, 2), "LSTM: bias is 2; it is True or False .* inferred"),
    (lambda: L.GRU(10, 20, 1), "GRU: bias is 1; .* leave it out"),
    (lambda: L.Linear(16, 8), r"Linear: bias is 8; .* an array \(in_features is inferred: leave it out\)"),
    (lambda: L.Conv2d(3, 64, 7, 2, 3, 1, 1), r"Conv2d: bias is 1; .* \(in_channels is inferred: leave it out\)"),
    (lambda: L.LayerNorm(8, bias=2), "LayerNorm: bias is 2; it is True, False or an array$"),
    (lambda: L.Conv2d(in_channels=3, out_channels=4, kernel_size=3), "Conv2d takes no in_channels: it is inferred"),
    (lambda: L.Linear(in_features=3, out_features=4), "Linear takes no in_features: .* leave it out"),
    (lambda: L.BatchNorm2d(num_features=3), "BatchNorm2d takes no num_features"),
    (lambda: L.InstanceNorm1d(num_features=3), "InstanceNorm1d takes no num_features"),
    (lambda: L.GroupNorm(2, num_channels=4), "GroupNorm takes no num_channels"),
    (lambda: L.LSTM(input_size=3, hidden_size=4), "LSTM takes no input_size"),
    (lambda: L.Input(3, 16, 16), r"Input: name is 16; .* give the shape as a tuple: Input\(\(3, 16, 16\)\)"),
    (lambda: L.LayerNorm(elementwise_affine=False, weight=[1]), "LayerNorm: elementwise_affine=False leaves no place"),
    (lambda: L.LayerNorm(elementwise_affine=False, bias=[1]), "LayerNorm: elementwise_affine=False leaves no place"),
    (lambda: L.RMSNorm(elementwise_affine=False, weight=[1]), "RMSNorm: elementwise_affine=False leaves no place"),
    (lambda: L.ELU("x"), "ELU: alpha is 'x', not a number"),
    (lambda: L.ELU("3"), "ELU: alpha is '3', not a number"),
    (lambda: L.ELU(10**400), "ELU: alpha is beyond the largest float"),
    (lambda: L.CELU(None), "CELU: alpha is None, not a number"),
    (lambda: L.LeakyReLU([1]), r"LeakyReLU: negative_slope is \[1\], not a number"),
    (lambda: L.Softplus(1, "x"), "Softplus: threshold is 'x', not a number"),
    (lambda: L.ReLU6(name=6), "ReLU6: name is 6; it must be a text"),
    (lambda: L.Hardtanh("a"), "Hardtanh: the lower bound is 'a', not a number"),
    (lambda: L.GELU([]), r"GELU: approximate is \[\]; it must be one of"),
    (lambda: L.PReLU(init="x"), "PReLU: init is 'x', not a number"),
    (lambda: L.BatchNorm(eps="x"), "BatchNorm: eps is 'x', not a number"),
    (lambda: L.BatchNorm(init_gain="x"), "BatchNorm: init_gain is 'x', not a number"),
    (lambda: L.BatchNorm(np.nan), "BatchNorm: eps is nan; it must be at least 0"),
    (lambda: L.LayerNorm(eps="x"), "LayerNorm: eps is 'x', not a number"),
    (lambda: L.RMSNorm(eps="x"), "RMSNorm: eps is 'x', not a number"),
    (lambda: L.GroupNorm(1, eps="x"), "GroupNorm: eps is 'x', not a number"),
    (lambda: L.InstanceNorm2d(eps="x"), "InstanceNorm2d: eps is 'x', not a number"),
    (lambda: L.LpNormalize(eps="x"), "LpNormalize: eps is 'x', not a number"),
    (lambda: L.LpNormalize("3"), "LpNormalize: p is '3', not a number"),
    (lambda: L.MeanVarianceNorm(eps="x"), "MeanVarianceNorm: eps is 'x', not a number"),
    (lambda: L.LocalResponseNorm(3, beta="x"), "LocalResponseNorm: beta is 'x', not a number"),
    (lambda: L.LPPool2d("3", 2), "LPPool2d: norm_type is '3', not a number"),
    (lambda: L.Dropout("x"), "Dropout: p is 'x', not a number"),
    (lambda: L.GRU(4, dropout="x"), "GRU: dropout is 'x', not a number"),
    (lambda: L.GRU(4, dropout=2), r"GRU: dropout is 2; it must be in \[0, 1\]"),
    (lambda: L.GRU(4, weights=1), "GRU: weights is 1; it must map names"),
    (lambda: L.RNN(4, nonlinearity=[]), "RNN: nonlinearity is"),
    (lambda: L.MultiheadAttention(8, 2, dropout="x"), "MultiheadAttention: dropout is 'x', not a number"),
    (lambda: L.MultiheadAttention(8, 2, weights=1), "MultiheadAttention: weights is 1; it must map names"),
    (lambda: L.MultiheadAttention(8, 2, kdim="x"), "MultiheadAttention: kdim is 'x', not an integer"),
    (lambda: L.ScaledDotProductAttention(scale="x"), "scale is 'x', not a number"),
    (lambda: L.Conv2d(4, 3, init_gain=-1), "Conv2d: init_gain is -1; it must be at least 0"),
    (lambda: L.Conv2d(4, 3, init_gain="x"), "Conv2d: init_gain is 'x', not a number"),
    (lambda: L.Linear(4, init_gain=-1), "Linear: init_gain is -1; it must be at least 0"),
    (lambda: L.Conv2d(4, 3, padding_mode=[]), r"Conv2d: padding_mode is \[\]; it must be one of"),
    (lambda: L.Pad(1, mode=[]), r"Pad: mode is \[\]; it must be one of"),
    (lambda: L.Pad(1, value="x"), "Pad: value is 'x', not a number"),
    (lambda: L.Resize(2, mode=[]), r"Resize: mode is \[\]; it must be one of"),
    (lambda: L.Resize(2, cubic_coeff="x"), "Resize: cubic_coeff is 'x', not a number"),
    (lambda: L.Resize(2, coordinates="tf_crop_and_resize", roi=3), "Resize: roi is 3; it must be a sequence"),
    (lambda: L.Upsample(scale_factor="2"), "Upsample: scale_factor is '2'"),
    (lambda: L.Upsample(scale_factor=np.ones(2)), "Upsample: scale_factor is array"),
    (lambda: L.Einsum(None), "Einsum: equation is None; it must be a text"),
    (lambda: L.Slice(1, start="x"), "Slice: start is 'x', not an integer"),
    (lambda: L.Slice(1, 0.5), "Slice: start is 0.5, not an integer"),
    (lambda: L.Slice(1, step="x"), "Slice: step is 'x', not an integer"),
    (lambda: L.Scatter(1, []), "Scatter: reduction is"),
    (lambda: L.Mean(0.5), "Mean: dim is 0.5, not an integer"),
    (lambda: L.Max((1, "2")), "Max: dim is '2', not an integer"),
    (lambda: L.Squeeze("a"), "Squeeze: dim is 'a', not an integer"),
    (lambda: L.MaxPool2d(2, ceil_mode="False"), "MaxPool2d: ceil_mode is 'False'; it must be True or False"),
    (lambda: L.AvgPool1d(2, count_include_pad=2), "AvgPool1d: count_include_pad is 2; it must be True or False"),
    (
        lambda: L.GlobalAvgPool(np.array([1, 2])),
        r"GlobalAvgPool: keepdim is array\(\[1, 2\]\); it must be True or False",
    ),
    (lambda: L.Mean(1, "yes"), "Mean: keepdim is 'yes'; it must be True or False"),
    (lambda: L.ArgMin(1, None), "ArgMin: keepdim is None; it must be True or False"),
    (lambda: L.TopK(1, largest=1.0), "TopK: largest is 1.0; it must be True or False"),
    (lambda: L.CumSum(reverse=[]), r"CumSum: reverse is \[\]; it must be True or False"),
    (lambda: L.BatchNorm2d(affine="False"), "BatchNorm2d: affine is 'False'; it must be True or False"),
    (lambda: L.InstanceNorm1d(affine=3), "InstanceNorm1d: affine is 3; it must be True or False"),
    (lambda: L.LayerNorm(8, elementwise_affine="no"), "LayerNorm: elementwise_affine is 'no'; it must be True or"),
    (lambda: L.LSTM(4, batch_first="x"), "LSTM: batch_first is 'x'; it must be True or False"),
    (lambda: L.RNN(4, return_state=2), "RNN: return_state is 2; it must be True or False"),
    (lambda: L.MultiheadAttention(8, 2, bias=np.zeros(3)), "MultiheadAttention: bias is array.*; it must be True or"),
    (lambda: L.Dropout(monte_carlo="no"), "Dropout: monte_carlo is 'no'; it must be True or False"),
    (lambda: L.Upsample(2, mode="bilinear", align_corners="no"), "Upsample: align_corners is 'no'; it must be True or"),
    (lambda: L.Resize(2, recompute_scale_factor=2), "Resize: recompute_scale_factor is 2; it must be True or False"),
    (lambda: L.Resize(2, antialias=None), "Resize: antialias is None; it must be True or False"),
    (lambda: L.Dropout(1.5), "p is 1.5"),
    (lambda: L.Upsample(), "either size or scale_factor"),
    (lambda: L.Upsample(2, mode="area"), "mode is 'area'"),
    (lambda: L.Upsample(2, align_corners=True), "align_corners has no meaning"),
    (lambda: L.Upsample(scale_factor=-1.0), "factors are positive"),
    (lambda: L.Slice(1, step=0), "step is 0"),
    (lambda: L.Pad((1, 2, 3)), "odd number"),
    (lambda: L.Pad(1, "mirror"), "mode is 'mirror'"),
    (lambda: L.Reshape(-1, -1), "one extent at most"),
    (lambda: L.Input((3, 0)), "Input 'input': an extent is 0"),
    (lambda: L.Input((3, 4), batch=0), "batch is 0"),
    (lambda: L.Input((3, 4), dtype="complex64"), "complex64"),
    (lambda: L.Input((3, 4), normalize="zscore"), "normalize is 'zscore'"),
    (lambda: L.ZScore(0.0, 0.0), "ZScore would divide by 0.0"),
    (lambda: L.Rescale01(1.0, 1.0), "Rescale01 would divide"),
    (lambda: L.Rescale(1.0, 1.0), "Rescale would divide"),
    (lambda: L.Rescale(0.0, 1.0, 2, 2), "a range without width"),
    (lambda: L.ZeroCenter(np.nan), "not finite"),
    (lambda: L.Input(None), "Input 'input': shape is None; give extents"),
    (lambda: L.Input((3,), dtype="foo"), "'foo' is no dtype of numpy; give one of"),
    (lambda: L.Input((3,), dtype="bfloat16"), "bfloat16.* one of"),
    (lambda: L.Input((3,), name=3), "Input: name is 3; it must be a text"),
    (lambda: L.ZScore(0, np.nan), "finite and non-zero"),
    (lambda: L.ZScore([1, [2, 3]], 1), "ZScore: mean: not an array"),
    (lambda: L.ZScore(0, True), "ZScore: std is True; numbers are needed"),
    (lambda: L.Rescale01([1, 2], [3, 4, 5]), r"Rescale01: the shapes do not go together: min \(2,\), max \(3,\)"),
    (lambda: L.ZScore(np.ma.array([1.0], mask=[True]), 1), "ZScore: mean: masked arrays are refused"),
    (lambda: L.Rescale(0, 1, 0, np.ma.array(1.0, mask=True)), "Rescale: high: masked arrays are refused"),
    (lambda: L.ZeroCenter("mean"), "ZeroCenter: mean: an array of <U4; numbers are needed"),
]


@pytest.mark.parametrize(("make", "message"), ARGUMENTS, ids=range(len(ARGUMENTS)))
def test_bad_arguments(make, message):
    with pytest.raises(GlulamError, match=message):
        make()


def image(channels=3, size=8, **options):
    return L.Input((channels, size, size), **options)


CALLS = [
    (lambda: L.Conv2d(4, 3, weight=np.zeros((4, 3, 3)))(image()), r"Conv2d 'conv2d': weight: shape \(4, 3, 3\)"),
    (lambda: L.Conv2d(4, 3, bias=np.zeros(3))(image()), r"bias: shape \(3,\), but \(4,\) is needed"),
    (lambda: L.Conv2d(4, 3, weight=[["a"]])(image()), "numbers are needed"),
    (lambda: L.Conv2d(4, 3, weight=[[1, 2], [3]])(image()), "not an array"),
    (lambda: L.Conv1d(4, 3)(image()), "Conv1d takes .* rank 3"),
    (lambda: L.Conv2d(4, 1, groups=2)(image()), "3 input channels of 'input' do not divide into 2 groups"),
    (
        lambda: L.Conv2d(4, 9)(image()),
        r"Conv2d 'conv2d': the kernel reaches over \(9, 9\), .* extents \(8, 8\) of 'input' \(in_channels is inferred",
    ),
    (lambda: L.Conv2d(3, 64, 7, 2, 3)(image()), "Conv2d 'conv2d': .*190.* .in_channels is inferred: leave it out"),
    (lambda: L.MaxPool2d(9)(image()), "MaxPool2d 'max_pool2d': max_pool: kernel 9"),
    (lambda: L.LSTM(4)(image()), r"LSTM takes \[T, N, features\], rank 3"),
    (lambda: L.GRU(4, batch_first=True)(image()), r"GRU takes \[N, T, features\] \(batch_first\), rank 3"),
    (lambda: L.MultiheadAttention(4, 2)(image()), r"MultiheadAttention takes \[L, N, features\], rank 3"),
    (lambda: L.Embedding(4, 2)(image()), r"Embedding 'embedding' takes integers, .* Input\(\.\.\., dtype=\"int64\"\)"),
    (lambda: L.BatchNorm1d()(image()), "BatchNorm1d takes"),
    (lambda: L.BatchNorm3d()(image()), "BatchNorm3d takes"),
    (lambda: L.BatchNorm(running_var=[1.0])(image()), "running_var: shape"),
    (lambda: L.LayerNorm((8, 9))(image()), "does not fit the last axes"),
    (lambda: L.Concat()(image(), image(size=9)), "Concat along axis 1: 'input'"),
    (lambda: L.Concat(4)(image()), "axis 4 of a tensor of rank 4"),
    (lambda: L.Add()(image()), "Add takes two tensors or more"),
    (lambda: L.Add()(image(3), image(2)), "add"),
    (lambda: L.Split([1, 1])(image()), r"sections \(1, 1\) do not add up to the 3"),
    (lambda: L.Reshape(1, 5)(image()), "does not fit the 192 elements"),
    (lambda: L.Reshape(7, -1)(image()), "does not fit the 192 elements"),
    (lambda: L.Permute(0, 1, 1, 2)(image()), "does not name each axis"),
    (lambda: L.Squeeze(1)(image()), "extent 3, not 1"),
    (lambda: L.Flatten(3, 1)(image()), "lies behind"),
    (lambda: L.PixelShuffle(2)(image()), r"3 channels of 'input' do not divide by 2\^2"),
    (lambda: L.ChannelShuffle(2)(image()), "do not divide into 2"),
    (lambda: L.Crop(9)(image()), "leave the 8"),
    (lambda: L.Crop()(image()), "give a size"),
    (lambda: L.Upsample(scale_factor=0.01)(image()), "leaves nothing"),
    (lambda: L.Upsample(4, mode="linear")(image()), "does not fit"),
    (lambda: L.PReLU(2)(image()), "2 slopes for the 3 channels"),
    (lambda: L.Softmax(7)(image()), "axis 7"),
    (lambda: L.ReLU()(L.Input((2,), normalize=L.ZScore([1, 2, 3], 1))), "fit neither one number"),
    (lambda: image()[:, 5], "index 5 is outside axis 1"),
    (lambda: image()[0, 0, 0, 0, 0], "5 subscripts"),
    (lambda: image()[..., ...], "one `...` at most"),
    (lambda: image()["a"], "integers, slices"),
    (lambda: image()[True], "integers, slices"),
    (lambda: image()[:, ::0], "input: subscript .*a step is not 0"),
    (lambda: image()["a":], "input: subscript .*bounds are integers"),
    (lambda: L.Upsample(scale_factor=1e308)(image()), "makes too much"),
    (lambda: L.Upsample(5)(image()[:, :, :0]), "Upsample: there is nothing to resample"),
    (lambda: L.Resize(5)(image()[:, :, :0]), "Resize: there is nothing to resample"),
    (lambda: L.AdaptiveAvgPool2d(None)(image()[:, :, :0]), "there is nothing to pool"),
    (lambda: L.ReLU()(image(), image()), r"ReLU 'relu' was called on 2 tensors; it takes \(x"),
    (lambda: L.Matmul()(image()), r"Matmul 'matmul' was called on 1 tensors; it takes \(left"),
    (
        lambda: L.Sequential([image(4), L.Split(2, name="halves"), L.ReLU(name="last")]).graph(),
        "ReLU 'last' does not take the 2 results of Split 'halves' before it; write a Block",
    ),
    (lambda: image()[np.array([0, 1])], "integers, slices"),
    (lambda: L.PReLU(weight=[0.5])(image(dtype="int64")), "PReLU 'prelu': weight is a float, but 'input' is i64"),
    (
        lambda: L.RMSNorm(elementwise_affine=False)(image(dtype="int64")),
        "RMSNorm 'rmsnorm': rms_norm: is not defined for i64",
    ),
    (lambda: L.Pad(1, value=1.5)(image(dtype="int64")), "value 1.5 is no i64; give one that the elements can have"),
    (lambda: image() + None, "'input' with NoneType: an array of object"),
    (lambda: image() * "2", "'input' with str: .* numbers are needed"),
    (lambda: image(dtype="int64") * 0.5, r"'input' is i64\[1,3,8,8\], and 0.5 is no constant of this type"),
    (lambda: image(dtype="uint8") - np.array([[1.0], [-1.0]]), "an array of float64 is no constant of this type"),
    (lambda: image() + np.ma.array([1.0], mask=[True]), "masked arrays are refused"),
    (lambda: L.Linear(1, weight=np.ma.array(np.ones((1, 8)), mask=True))(image()), "weight: masked arrays are refused"),
    (lambda: L.LSTM(4, weights={"weight_ih_10": 0})(L.Input((2, 3))), "LSTM 'lstm' has no parameter 'weight_ih_10'"),
    (lambda: L.GRU(4, bias=False, weights={"bias_ih_l0": 0})(L.Input((2, 3))), "has no parameter 'bias_ih_l0'"),
    (
        lambda: L.MultiheadAttention(4, 2, weights={"in_proj": 0})(L.Input((2, 4))),
        "no parameter 'in_proj'; it has .*'in_pr",
    ),
]


@pytest.mark.parametrize(("call", "message"), CALLS, ids=range(len(CALLS)))
def test_misfits(call, message):
    with pytest.raises(ShapeError, match=message):
        call()


def test_what_is_not_a_tensor_is_refused():
    with pytest.raises(GraphError, match=r"ReLU was called on ndarray.*compiled model"):
        L.ReLU()(np.zeros(3))
    with pytest.raises(GraphError, match="without a tensor"):
        L.ReLU()()
    with pytest.raises(TypeError, match="cannot be iterated"):
        list(image())


def test_misused_sequentials_are_refused():
    with pytest.raises(GraphError, match="no Input in front"):
        L.Sequential([L.ReLU()]).graph()
    with pytest.raises(GraphError, match="an Input stands in front only"):
        L.Sequential([L.ReLU(), image()])
    with pytest.raises(GraphError, match="a layer object is needed"):
        L.Sequential([image(), L.ReLU])
    with pytest.raises(GraphError, match="two parts named 'a'"):
        L.Sequential([L.ReLU(name="a"), L.ReLU(name="a")])
    with pytest.raises(GraphError, match="not ReLU"):
        L.as_graph(L.ReLU())
    with pytest.raises(GraphError, match="from_onnx makes one"):
        L.as_graph("model.onnx")
    with pytest.raises(GraphError, match="an Input of its own"):
        L.Sequential([image(), L.ReLU()]).graph(image())


def test_a_block_without_forward_is_refused():
    class Empty(L.Block):
        pass

    with pytest.raises(GraphError, match=r"Empty has no forward; define `def forward\(self, x\)`"):
        Empty().graph(image())
    with pytest.raises(GraphError, match="Empty has no forward"):
        L.Sequential([image(), L.Split(1), Empty()]).graph()


def test_a_graph_without_one_of_its_inputs_is_refused():
    a, b = L.Input((3,), name="a"), L.Input((3,), name="b")
    with pytest.raises(GraphError, match="'b' is needed"):
        Graph.of(a, a + b)


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize(
    "make",
    [lambda bias: L.Conv2d(4, 3, bias=bias), lambda bias: L.Linear(4, bias), lambda bias: L.LayerNorm(bias=bias)],
)
def test_a_bias_may_be_a_truth_value_of_numpy(make, value):
    layer = make(np.bool_(value))
    layer(image())
    assert ("bias" in layer.parameters()) == value


@pytest.mark.parametrize("value", [True, np.True_, 1, np.int64(1)], ids=repr)
def test_a_flag_may_be_a_truth_value_of_numpy_or_a_number(value):
    assert L.MaxPool2d(2, ceil_mode=value).ceil_mode is True


def test_one_axis_of_a_mean_variance_norm_needs_no_tuple():
    assert L.MeanVarianceNorm(axes=2).axes == (2,)


def test_normalising_no_channels_gives_no_channels():
    assert L.InstanceNorm(affine=True)(image()[:, :0]).shape == (1, 0, 8, 8)


def test_a_masked_feed_is_refused():
    x = image()
    graph = Graph.of([x], {"y": L.ReLU()(x)})
    with pytest.raises(GraphError, match="input 'input': masked arrays are refused"):
        evaluate(graph, {"input": np.ma.zeros((1, 3, 8, 8), np.float32)})


def test_a_layer_of_ones_own_may_take_what_others_infer():
    class Pointwise(L.Conv2d):
        def __init__(self, in_channels, out_channels):
            super().__init__(out_channels, 1)
            self.expected = in_channels

    assert Pointwise(in_channels=3, out_channels=4)(image()).shape == (1, 4, 8, 8)
