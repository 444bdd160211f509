"""Every layer that glulam promises, as a table: the layer, the test that shows it, and whether it holds.

    python tests/layers_table.py

Each row is a small network from the Python API whose native result is compared with an independent one: ONNX Runtime on
the exported graph, or a formula in numpy. `test_layers_table.py` runs every row as a test.
"""

from __future__ import annotations

import ctypes
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import glulam as gl

L = gl.layers
M = gl.math
TOLERANCE = 1e-4
SOBEL = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], np.float32).reshape(1, 1, 3, 3)
MEAN, STD = np.array([0.5, 0.4, 0.3], np.float32), np.array([0.2, 0.3, 0.1], np.float32)


@dataclass(frozen=True)
class Row:
    """`build` makes the results from inputs of the given shapes (without the batch); `by` is their meaning in numpy.

    Native code runs fused and unfused, and with `saved` from a file, too.
    """

    group: str
    layer: str
    shapes: tuple[tuple[int, ...], ...]
    build: Callable[..., Any]
    by: Callable[..., Any] | None = None
    normalize: Any = None
    low: float = -2.0
    dtype: str = "float32"
    saved: bool = False

    @property
    def reference(self) -> str:
        return "ONNX Runtime" if self.by is None else "numpy"

    @property
    def id(self) -> str:
        return f"{self.group}: {self.layer}"

    @property
    def test(self) -> str:
        return f"tests/test_layers_table.py::test_layer[{self.id}]"

    def check(self) -> None:
        """Raises AssertionError unless the native result is the independent one."""
        inputs = [
            L.Input(shape, name=f"x{i}", normalize=self.normalize, batch=2, dtype=self.dtype)
            for i, shape in enumerate(self.shapes)
        ]
        made = self.build(*inputs)
        outputs = {f"y{i}": tensor for i, tensor in enumerate(_flat(made))}
        graph = gl.Graph.of(inputs, outputs)
        rng = np.random.default_rng(len(self.layer))
        feeds = {name: rng.uniform(self.low, 2, v.shape).astype(v.type.dtype.numpy) for name, v in graph.inputs.items()}
        wanted = self.expected(graph, feeds)
        for fuse in (True, False):
            with gl.compile(graph, fuse=fuse) as model:
                runs = [model.run(feeds)]
                if self.saved:
                    runs.append(_reloaded(model, feeds))
            for name, expected in zip(outputs, wanted, strict=True):
                for native in runs:
                    _close(native[name], expected)

    def expected(self, graph: gl.Graph, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        if self.by is not None:
            return _flat(self.by(*feeds.values()))
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        model = gl.to_onnx(graph, opset=20).SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return session.run(None, feeds)


def _reloaded(model: gl.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "net.glulam")
        with gl.load(Path(folder) / "net.glulam") as loaded:
            return loaded.run(feeds)


def _flat(made: Any) -> list[Any]:
    return [part for each in made for part in _flat(each)] if isinstance(made, tuple | list) else [made]


def _close(actual: np.ndarray, expected: np.ndarray) -> None:
    expected = np.asarray(expected)
    assert actual.shape == expected.shape, f"{actual.shape} instead of {expected.shape}"
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE * scale)


def _mean_of(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return x.mean(axes, keepdims=True)


def _windows(kind: str, rank: int, **more: Any) -> Callable[..., Any]:
    return lambda x: getattr(L, f"{kind}{rank}d")(3, **more)(x)


@gl.layer
def _gated(x, *, gain=gl.Weight("channels", init=0.5)):
    return gain * x * M.sigmoid(x)


@gl.layer
def _normed(x):
    return x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + 1e-3)


class _Residual(L.Block):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = L.Conv2d(channels, 3, padding=1), L.Conv2d(channels, 1)

    def forward(self, x: Any) -> Any:
        return x + self.second(L.ReLU()(self.first(x)))


S1, S2, S3 = (5, 17), (5, 9, 11), (3, 5, 7, 6)
SPATIAL = {1: S1, 2: S2, 3: S3}


def _inputs() -> list[Row]:
    column = (3, 1, 1)
    mean, std = MEAN.reshape(column), STD.reshape(column)
    element = np.arange(3 * 6 * 6, dtype=np.float32).reshape(3, 6, 6)
    conv = lambda x: L.Conv2d(4, 1, weight=np.ones((4, 3, 1, 1), np.float32), bias=np.zeros(4, np.float32))(x)  # noqa: E731
    summed = lambda x: np.repeat(x.sum(1, keepdims=True), 4, 1)  # noqa: E731
    normal = [
        ("zero-centre, per channel", L.ZeroCenter(MEAN.reshape(column)), lambda x: summed(x - mean)),
        ("zero-centre, scalar", L.ZeroCenter(0.5), lambda x: summed(x - 0.5)),
        ("zero-centre, per element", L.ZeroCenter(element), lambda x: summed(x - element)),
        ("z-score, per channel", L.ZScore(mean, std), lambda x: summed((x - mean) / std)),
        ("z-score, scalar", L.ZScore(0.5, 2.0), lambda x: summed((x - 0.5) / 2)),
        ("rescale to [0, 1]", L.Rescale01(-2.0, 2.0), lambda x: summed((x + 2) / 4)),
        ("rescale to any range", L.Rescale(-2.0, mean + 3, 1, -3), lambda x: summed(1 - 4 * (x + 2) / (mean + 5))),
        ("rescale to [-1, 1]", L.RescaleSymmetric(mean - 3, mean + 3), lambda x: summed((x - mean) / 3)),
    ]
    return [
        Row("Input", "sequence", (S1,), lambda x: L.Conv1d(4, 3)(x)),
        Row("Input", "image", (S2,), lambda x: L.Conv2d(4, 3)(x)),
        Row("Input", "volume", (S3,), lambda x: L.Conv3d(4, 3)(x)),
        *(Row("Input", what, ((3, 6, 6),), conv, by, normalize) for what, normalize, by in normal),
    ]


def _convolutions() -> list[Row]:
    rows = []
    for rank, shape in SPATIAL.items():
        conv, transposed = getattr(L, f"Conv{rank}d"), getattr(L, f"ConvTranspose{rank}d")
        wide = (6, *shape[1:])
        rows += [
            Row("Convolution", f"{rank}-D", (shape,), lambda x, conv=conv: conv(7, 3, padding=1)(x)),
            Row("Convolution", f"{rank}-D grouped", (wide,), lambda x, conv=conv: conv(9, 3, groups=3)(x)),
            Row("Convolution", f"{rank}-D depthwise", (wide,), lambda x, conv=conv: conv(6, 3, groups=6, padding=1)(x)),
            Row(
                "Convolution", f"{rank}-D transposed, output padding, groups", (wide,),
                lambda x, t=transposed: t(8, 3, stride=2, padding=1, output_padding=1, groups=2)(x),
            ),
        ]  # fmt: skip
    return [
        *rows,
        Row("Convolution", "stride and dilation", (S2,), lambda x: L.Conv2d(7, 3, stride=2, dilation=2, padding=2)(x)),
        Row("Convolution", "asymmetric padding", (S2,), lambda x: L.Conv2d(7, 3, padding=((0, 2), (1, 0)))(x)),
        Row("Convolution", "SAME padding", (S2,), lambda x: L.Conv2d(7, 4, stride=2, padding="same")(x)),
        Row(
            "Convolution", "hand-crafted filter", ((1, 9, 9),),
            lambda x: L.Conv2d(1, 3, weight=SOBEL, bias=False)(x),
        ),
    ]  # fmt: skip


def _activations() -> list[Row]:
    made = {
        "sigmoid": lambda: L.Sigmoid(), "tanh": lambda: L.Tanh(), "ReLU": lambda: L.ReLU(),
        "leaky ReLU": lambda: L.LeakyReLU(0.2), "parametric ReLU": lambda: L.PReLU(5), "ReLU6": lambda: L.ReLU6(),
        "clipped ReLU": lambda: L.Clip(0, 0.7), "ELU": lambda: L.ELU(0.5), "SELU": lambda: L.SELU(),
        "CELU": lambda: L.CELU(0.5), "GELU, erf form": lambda: L.GELU(), "GELU, tanh form": lambda: L.GELU("tanh"),
        "SiLU / Swish": lambda: L.SiLU(), "hard sigmoid": lambda: L.Hardsigmoid(), "hard swish": lambda: L.Hardswish(),
        "softplus": lambda: L.Softplus(), "softsign": lambda: L.Softsign(), "mish": lambda: L.Mish(),
        "softmax": lambda: L.Softmax(1), "log-softmax": lambda: L.LogSoftmax(1),
    }  # fmt: skip
    return [
        Row("Activation", what, (S2,), lambda x, make=make: make()(L.Conv2d(5, 3)(x))) for what, make in made.items()
    ]


def _rms(x: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt(_mean_of(x * x, (-1,)) + eps)


def _normalisations() -> list[Row]:
    def instance(x: np.ndarray) -> np.ndarray:
        return (x - _mean_of(x, (2, 3))) / np.sqrt(x.var((2, 3), keepdims=True) + 1e-5)

    def grouped(x: np.ndarray) -> np.ndarray:
        g = x.reshape(2, 3, 2, 9, 11)
        return ((g - _mean_of(g, (2, 3, 4))) / np.sqrt(g.var((2, 3, 4), keepdims=True) + 1e-5)).reshape(x.shape)

    def across(x: np.ndarray) -> np.ndarray:
        padded = np.pad(x * x, ((0, 0), (1, 1), (0, 0), (0, 0)))
        return x / (1 + 0.01 / 3 * sum(padded[:, i : i + 5] for i in range(3))) ** 0.75

    def normed(x: np.ndarray, p: int) -> np.ndarray:
        return x / np.maximum((np.abs(x) ** p).sum(1, keepdims=True) ** (1 / p), 1e-12)

    def forward(x: Any) -> Any:
        return L.Conv2d(4, 1)(L.BatchNorm()(x))

    return [
        Row("Normalisation", "batch, behind a convolution", (S2,), lambda x: L.BatchNorm()(L.Conv2d(6, 3)(x))),
        Row("Normalisation", "batch, in front of one", (S2,), forward),
        Row("Normalisation", "layer", (S1,), lambda x: L.LayerNorm(17)(x)),
        Row(
            "Normalisation", "cross-channel (local response)", (S2,), lambda x: L.LocalResponseNorm(3, 0.01)(x), across
        ),
        Row("Normalisation", "instance", (S2,), lambda x: L.InstanceNorm2d()(x), instance),
        Row("Normalisation", "group", ((6, 9, 11),), lambda x: L.GroupNorm(3, affine=False)(x), grouped),
        Row("Normalisation", "RMS", (S1,), lambda x: L.RMSNorm(17, 1e-5, False)(x), lambda x: _rms(x, 1e-5)),
        Row("Normalisation", "L2", (S2,), lambda x: L.LpNormalize(2.0, 1)(x), lambda x: normed(x, 2)),
        Row("Normalisation", "Lp", (S2,), lambda x: L.LpNormalize(1.0, 1)(x), lambda x: normed(x, 1)),
    ]


def _dropout() -> list[Row]:
    same = lambda x: x  # noqa: E731

    def live(x: Any) -> Any:
        """Two layers with one seed give one mask: the quotient of their results is 1 or 0 / 0."""
        return L.Dropout(0.5, monte_carlo=True, seed=3)(x) - L.Dropout(0.5, monte_carlo=True, seed=3)(x)

    return [
        Row("Dropout", "removed at inference", (S2,), lambda x: L.Dropout(0.5)(x), same),
        Row("Dropout", "Monte-Carlo, seeded", (S2,), live, lambda x: x * 0),
        Row("Dropout", "AlphaDropout", (S2,), lambda x: L.AlphaDropout(0.5)(x), same),
    ]


def _crops() -> list[Row]:
    return [
        Row("Crop", "2-D, offsets", (S2,), lambda x: L.Crop2d((3, 4), offset=(1, 2))(x), lambda x: x[:, :, 1:4, 2:6]),
        Row("Crop", "2-D, centre", (S2,), lambda x: L.Crop2d((3, 5))(x), lambda x: x[:, :, 3:6, 3:8]),
        Row(
            "Crop", "3-D, offsets", (S3,),
            lambda x: L.Crop3d((2, 3, 4), offset=(1, 2, 0))(x), lambda x: x[:, :, 1:3, 2:5, :4],
        ),
        Row("Crop", "3-D, centre", (S3,), lambda x: L.Crop3d((3, 3, 2))(x), lambda x: x[:, :, 1:4, 2:5, 2:4]),
        Row(
            "Crop", "to a feature map", (S2, (2, 5, 7)),
            lambda x, y: L.Crop2d()(x, y), lambda x, y: x[:, :, 2:7, 2:9],
        ),
    ]  # fmt: skip


def _resizes() -> list[Row]:
    rows = []
    for rank, shape in SPATIAL.items():
        linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[rank]
        for mode in ("nearest", linear):
            rows.append(
                Row("Resize", f"{rank}-D {mode}", (shape,), lambda x, m=mode: L.Upsample(scale_factor=2, mode=m)(x))
            )
    return [
        *rows,
        Row("Resize", "cubic", (S2,), lambda x: L.Upsample(scale_factor=2, mode="bicubic")(x)),
        *(
            Row("Resize", f"coordinates {rule}", (S2,), _resized(coordinates=rule))
            for rule in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
        ),
        Row(
            "Resize", "coordinates tf_crop_and_resize", (S2,),
            _resized(coordinates="tf_crop_and_resize", roi=(0.1, -0.2, 0.8, 1.1)),
        ),
        Row("Resize", "to a size", (S2,), lambda x: L.Resize((7, 20), mode="bilinear")(x)),
        Row("Resize", "aligned corners", (S2,), lambda x: L.Resize((7, 20), mode="bilinear", align_corners=True)(x)),
        Row(
            "Resize", "to a feature map", (S2, (2, 18, 22)),
            lambda x, y: L.Resize()(x, y), lambda x, y: x.repeat(2, 2).repeat(2, 3),
        ),
    ]  # fmt: skip


def _resized(**how: Any) -> Callable[..., Any]:
    return lambda x: L.Resize((7, 20), mode="linear", **how)(x)


def _pools() -> list[Row]:
    rows = []
    for rank, shape in SPATIAL.items():
        spatial = tuple(range(2, 2 + rank))
        rows += [
            Row("Pooling", f"{rank}-D average", (shape,), _windows("AvgPool", rank, stride=2, padding=1)),
            Row("Pooling", f"{rank}-D max", (shape,), _windows("MaxPool", rank, stride=2, padding=1)),
            Row("Pooling", f"{rank}-D Lp", (shape,), lambda x, r=rank: getattr(L, f"LPPool{r}d")(2, 3)(x)),
            Row(
                "Pooling", f"{rank}-D adaptive average", (shape,),
                lambda x, r=rank: getattr(L, f"AdaptiveAvgPool{r}d")(1)(x), lambda x, s=spatial: _mean_of(x, s),
            ),
            Row(
                "Pooling", f"{rank}-D adaptive max", (shape,),
                lambda x, r=rank: getattr(L, f"AdaptiveMaxPool{r}d")(1)(x),
                lambda x, s=spatial: x.max(s, keepdims=True),
            ),
            Row("Pooling", f"{rank}-D max with indices", (shape,), _windows("MaxPool", rank, return_indices=True)),
            Row("Unpooling", f"{rank}-D max", ((5, 8, 10, 6)[: rank + 1],), _unpool(rank)),
        ]  # fmt: skip
    return [
        *rows,
        Row("Pooling", "global average", (S2,), lambda x: L.GlobalAvgPool()(x), lambda x: _mean_of(x, (2, 3))),
        Row("Pooling", "global max", (S2,), lambda x: L.GlobalMaxPool()(x), lambda x: x.max((2, 3), keepdims=True)),
        Row("Pooling", "adaptive, uneven windows", (S2,), lambda x: L.AdaptiveAvgPool2d((4, 3))(x), _uneven),
        Row("Pooling", "ceil mode", (S2,), lambda x: L.MaxPool2d(2, 2, ceil_mode=True)(x)),
        Row(
            "Pooling", "padding left out of the mean", (S2,), _windows("AvgPool", 2, padding=1, count_include_pad=False)
        ),
        Row("Pooling", "dilation", (S2,), _windows("MaxPool", 2, stride=1, dilation=2)),
    ]


def _uneven(x: np.ndarray) -> np.ndarray:
    for axis, want in ((2, 4), (3, 3)):
        have = x.shape[axis]
        cuts = [np.arange(i * have // want, -(-(i + 1) * have // want)) for i in range(want)]
        x = np.concatenate([x.take(cut, axis).mean(axis, keepdims=True) for cut in cuts], axis)
    return x


def _unpool(rank: int) -> Callable[..., Any]:
    def build(x: Any) -> Any:
        y, places = getattr(L, f"MaxPool{rank}d")(2, return_indices=True)(x)
        return getattr(L, f"MaxUnpool{rank}d")(2)(y, places)

    return build


def _outputs() -> list[Row]:
    return [
        Row("Output", "softmax", (S1,), lambda x: L.Softmax()(L.Linear(10)(x))),
        Row("Output", "sigmoid", (S1,), lambda x: L.Sigmoid()(L.Linear(10)(x))),
        Row("Output", "identity", (S1,), lambda x: L.Identity()(L.Linear(10)(x))),
        Row("Output", "arg-max", (S1,), lambda x: L.ArgMax(-1)(x), lambda x: x.argmax(-1)),
        Row(
            "Output", "top-k", (S1,),
            lambda x: L.TopK(3)(x), lambda x: (-np.sort(-x)[..., :3], np.argsort(-x, kind="stable")[..., :3]),
        ),
    ]  # fmt: skip


def _structure() -> list[Row]:
    def last(x: np.ndarray) -> np.ndarray:
        return x[:, :, ::2, 1:4]

    return [
        Row("Structure", "linear", (S1,), lambda x: L.Linear(7)(x)),
        Row("Structure", "add", (S1, S1), lambda x, y: L.Add()(x, y), lambda x, y: x + y),
        Row("Structure", "multiply", (S1, S1), lambda x, y: L.Mul()(x, y), lambda x, y: x * y),
        Row("Structure", "concat", (S2, S2), lambda x, y: L.Concat()(x, y), lambda x, y: np.concatenate([x, y], 1)),
        Row("Structure", "split", (S2,), lambda x: L.Split([2, 3])(x), lambda x: (x[:, :2], x[:, 2:])),
        Row("Structure", "slice", (S2,), lambda x: x[:, :, ::2, 1:4], last),
        Row("Structure", "flatten", (S2,), lambda x: L.Flatten()(x), lambda x: x.reshape(2, -1)),
        Row("Structure", "reshape", (S2,), lambda x: L.Reshape(2, 45, 11)(x), lambda x: x.reshape(2, 45, 11)),
        Row("Structure", "transpose", (S2,), lambda x: L.Permute(0, 2, 3, 1)(x), lambda x: x.transpose(0, 2, 3, 1)),
        Row("Structure", "pad", (S2,), lambda x: L.Pad((1, 2, 0, 3), mode="reflect")(x)),
        Row("Structure", "pixel shuffle", ((8, 3, 5),), lambda x: L.PixelShuffle(2)(x)),
        Row("Structure", "pixel unshuffle", ((2, 6, 4),), lambda x: L.PixelUnshuffle(2)(x)),
        Row("Structure", "embedding", ((7,),), lambda x: L.Embedding(3, 5)(x), low=0, dtype="int64"),
        Row("Structure", "gather", ((6,), (4,)), _gather, low=0),
        Row("Structure", "matmul", (S1, (17, 3)), lambda x, y: L.Matmul()(x, y), lambda x, y: x @ y),
        Row("Structure", "attention", ((9, 16),), lambda x: L.MultiheadAttention(16, 4)(x, x, x)),
        Row("Structure", "LSTM", ((7, 5),), lambda x: L.LSTM(6, batch_first=True, bidirectional=True)(x)),
        Row("Structure", "LSTM with projections", ((7, 5),), lambda x: L.LSTM(6, batch_first=True, proj_size=3)(x)),
        Row("Structure", "GRU", ((7, 5),), lambda x: L.GRU(6, batch_first=True)(x)),
        Row("Structure", "RNN", ((7, 5),), lambda x: L.RNN(6, batch_first=True)(x)),
    ]


def _gather(x: Any, y: Any) -> Any:
    return L.Gather(1)(x, L.ArgMax(1, True)(y))


@ctypes.CFUNCTYPE(None, *[ctypes.POINTER(ctypes.POINTER(ctypes.c_float))] * 2, ctypes.c_void_p)
def _halve(inputs: Any, outputs: Any, user: Any) -> None:
    for i in range(2 * math.prod(S2)):
        outputs[0][i] = inputs[0][i] / 2


def _customs() -> list[Row]:
    def reversed_rows(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x[:, :, ::-1])

    return [
        Row("Custom", "a block composed of layers", (S2,), lambda x: _Residual(5)(x), saved=True),
        Row("Custom", "a formula", (S2,), lambda x: _gated()(L.Conv2d(6, 3)(x)), saved=True),
        Row("Custom", "a formula with sums over axes", (S2,), lambda x: _normed()(x), saved=True),
        Row(
            "Custom", "an external function in Python", (S2,),
            lambda x: gl.external(reversed_rows, x, outputs=x.shape) * 2, lambda x: x[:, :, ::-1] * 2,
        ),
        Row(
            "Custom", "an external function in C", (S2,),
            lambda x: gl.external(_halve, x, outputs=x.shape) * 4, lambda x: x * 2,
        ),
    ]  # fmt: skip


ROWS: tuple[Row, ...] = (
    *_inputs(), *_convolutions(), *_activations(), *_normalisations(), *_dropout(), *_crops(), *_resizes(), *_pools(),
    *_outputs(), *_structure(), *_customs(),
)  # fmt: skip


def verdict(row: Row) -> str:
    """`ok`, or what is wrong in one line."""
    try:
        row.check()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]
    return "ok"


def table(verdicts: dict[Row, str]) -> str:
    """The rows with their verdicts, and the sum."""
    lines = [f"{'group':15}{'layer':42}{'reference':14}{'test':96}ok"]
    for row, said in verdicts.items():
        lines.append(f"{row.group:15}{row.layer:42}{row.reference:14}{row.test:96}{said}")
    good = sum(said == "ok" for said in verdicts.values())
    return "\n".join([*lines, f"{good} of {len(verdicts)} rows are ok"])


def main() -> int:
    verdicts = {row: verdict(row) for row in ROWS}
    print(table(verdicts))
    return 0 if all(said == "ok" for said in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
