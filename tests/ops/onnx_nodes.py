"""How ONNX writes each op: a case becomes a small model that ONNX Runtime can run beside the reference.

`model_of(case)` gives the model and its feeds, or None where ONNX has no such op or no such type.
"""

import numpy as np
from onnx import helper, numpy_helper

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import TensorType
from glulam.compiler.ops import OPS_BY_NAME
from glulam.frontends.onnx import to_onnx

OPSET = 20
PLAIN = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "maximum": "Max", "minimum": "Min",
    "equal": "Equal", "less": "Less", "less_or_equal": "LessOrEqual", "greater": "Greater",
    "greater_or_equal": "GreaterOrEqual", "not": "Not", "and": "And", "or": "Or", "xor": "Xor", "where": "Where",
    "neg": "Neg", "abs": "Abs", "sign": "Sign", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal",
    "floor": "Floor", "ceil": "Ceil", "round": "Round", "erf": "Erf", "sin": "Sin", "cos": "Cos", "relu": "Relu",
    "prelu": "PRelu", "sigmoid": "Sigmoid", "tanh": "Tanh", "hard_swish": "HardSwish", "mish": "Mish",
    "softsign": "Softsign", "matmul": "MatMul", "identity": "Identity", "shape": "Shape",
}  # fmt: skip


EXPORTED = {
    "group_norm", "rms_norm", "lp_normalize", "local_response_norm", "gather_elements", "gather_nd", "scatter_elements",
    "scatter_nd", "top_k", "cumulative", "grid_sample", "roi_align", "det", "tan", "asin", "acos", "atan", "sinh",
    "cosh", "asinh", "acosh", "atanh", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "bit_shift",
}  # fmt: skip
"""Ops for which the exporter is trusted to say what they mean."""


def exported(case):
    """The model that `to_onnx` writes; None if ONNX has no such op at this opset."""
    graph, feeds, values = Graph("case"), {}, []
    for i, array in enumerate(case.arrays()):
        if array is None or i in case.constants:
            values.append(None if array is None else graph.constant(array))
        else:
            feeds[f"x{i}"] = array
            values.append(graph.input(f"x{i}", TensorType.of(array)))
    for i, value in enumerate(graph.add(case.op, *values)):
        graph.output(f"y{i}", value)
    try:
        return to_onnx(graph, opset=OPSET), feeds
    except UnsupportedError:
        return None


def model_of(case):
    arrays = case.arrays()
    types = [t.dtype.numpy for t in case.op.infer(*(None if a is None else TensorType.of(a) for a in arrays))]
    build = Build(case.op, arrays)
    if case.op.name in PLAIN:
        build.node(PLAIN[case.op.name])
    elif case.op.name in BUILDERS:
        if BUILDERS[case.op.name](build, case.op) is NotImplemented:
            return None
    else:
        return exported(case) if case.op.name in EXPORTED else None
    outputs = [helper.make_tensor_value_info(n, _proto(t), None) for n, t in zip(build.outputs, types, strict=True)]
    inputs = [
        helper.make_tensor_value_info(name, _proto(array.dtype), array.shape) for name, array in build.feeds.items()
    ]
    graph = helper.make_graph(build.nodes, "case", inputs, outputs, build.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 9
    return model, build.feeds


def _proto(dtype):
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


class Build:
    """The nodes and initializers of one model; x0, x1, ... are the inputs."""

    def __init__(self, op, arrays):
        self.nodes, self.initializers = [], []
        self.arrays = arrays
        self.names = ["" if a is None else f"x{i}" for i, a in enumerate(arrays)]
        while self.names and not self.names[-1]:
            self.names.pop()
        self.feeds = {f"x{i}": a for i, a in enumerate(arrays) if a is not None}
        self.outputs = []
        self.op = op

    def node(self, kind, inputs=None, outputs=("y",), **attributes):
        names = self.names if inputs is None else inputs
        self.outputs = list(outputs)
        self.nodes.append(helper.make_node(kind, names, self.outputs, **attributes))
        return self.outputs[0]

    def const(self, values, dtype=np.int64):
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name


def _sides(pads):
    return [before for before, _ in pads] + [after for _, after in pads]


def _window(op):
    return {"strides": op.strides, "pads": _sides(op.pads), "dilations": op.dilations}


def _conv(b, op):
    b.node("Conv", group=op.groups, **_window(op))


def _conv_transpose(b, op):
    b.node("ConvTranspose", group=op.groups, output_padding=op.output_padding, **_window(op))


def _max_pool(b, op):
    b.node("MaxPool", kernel_shape=op.kernel, ceil_mode=int(op.ceil_mode), **_window(op))


def _average_pool(b, op):
    b.node(
        "AveragePool",
        kernel_shape=op.kernel,
        ceil_mode=int(op.ceil_mode),
        count_include_pad=int(op.count_include_pad),
        **_window(op),
    )


def _linear(b, op):
    names = list(b.names)
    transposed = b.node("Transpose", [names[1]], ["wt"], perm=[1, 0])
    b.node("MatMul", [names[0], transposed], ["p" if len(names) > 2 else "y"])
    if len(names) > 2:
        b.node("Add", ["p", names[2]])


def _batch_norm(b, op):
    b.node("BatchNormalization", epsilon=op.epsilon)


def _layer_norm(b, op):
    if len(b.names) == 1:
        b.names.append(b.const(np.ones(b.arrays[0].shape[op.axis :]), b.arrays[0].dtype))
    b.node("LayerNormalization", axis=op.axis, epsilon=op.epsilon)


def _softmax(b, op):
    b.node("Softmax" if op.name == "softmax" else "LogSoftmax", axis=op.axis)


def _reduce(b, op):
    kinds = {
        "sum": "Sum", "mean": "Mean", "max": "Max", "min": "Min", "prod": "Prod", "l1": "L1", "l2": "L2",
        "sum_square": "SumSquare", "log_sum": "LogSum", "log_sum_exp": "LogSumExp",
    }  # fmt: skip
    if not op.axes:
        return NotImplemented  # ONNX reads no axes as all, or as no operation at all
    return b.node("Reduce" + kinds[op.kind], [b.names[0], b.const(op.axes)], keepdims=int(op.keepdims))


def _arg_reduce(b, op):
    kind = "ArgMax" if op.kind == "max" else "ArgMin"
    b.node(kind, axis=op.axis, keepdims=int(op.keepdims), select_last_index=int(op.select_last))


def _reshape(b, op):
    b.node("Reshape", [b.names[0], b.const(op.shape)], allowzero=1)


def _slice(b, op):
    ends = [s + n * d for s, n, d in zip(op.starts, op.sizes, op.steps, strict=True)]
    ends = [e if e >= 0 else -(2**62) for e in ends]
    if not op.starts:
        return NotImplemented
    axes = list(range(len(ends)))
    return b.node("Slice", [b.names[0], b.const(op.starts), b.const(ends), b.const(axes), b.const(op.steps)])


def _pad(b, op):
    if not op.pads:
        return NotImplemented
    names = [b.names[0], b.const(_sides(op.pads))]
    if op.mode == "constant":
        names.append(b.const(op.value, b.arrays[0].dtype))
    return b.node("Pad", names, mode=op.mode)


def _gather(b, op):
    b.node("Gather", axis=op.axis)


def _split(b, op):
    names = [b.names[0], b.const(op.sizes)]
    b.node("Split", names, [f"y{i}" for i in range(len(op.sizes))], axis=op.axis)


def _resize(b, op):
    roi = b.const(op.roi, np.float32) if op.roi else ""
    extents = b.arrays[0].shape
    exact = all(abs(n / e - s) < 1e-6 for n, e, s in zip(op.sizes, extents, op.scales, strict=True) if e)
    if not exact and op.coordinates == "align_corners":
        return NotImplemented  # ONNX Runtime takes the rounded length where ONNX's own reference takes extent * scale
    tail = ["", b.const(op.sizes)] if exact and 0 not in extents else [b.const(op.scales, np.float32)]
    return b.node(
        "Resize",
        [b.names[0], roi, *tail],
        mode=op.mode,
        coordinate_transformation_mode=op.coordinates,
        nearest_mode=op.rounding,
        cubic_coeff_a=op.cubic_coeff,
        exclude_outside=int(op.exclude_outside),
        extrapolation_value=op.extrapolation_value,
        antialias=int(op.antialias),
    )


def _clip(b, op):
    low, high, dtype = op.low, op.high, b.arrays[0].dtype
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low = -np.inf if low < limits.min else int(np.ceil(min(low, limits.max)))
        high = np.inf if high > limits.max else int(np.floor(max(high, limits.min)))
    bounds = [b.const(v, dtype) if np.isfinite(v) else "" for v in (low, high)]
    b.node("Clip", [b.names[0], *bounds])


def _softplus(b, op):
    if op.beta != 1 or np.isfinite(op.threshold):
        return NotImplemented
    return b.node("Softplus")


def _silu(b, op):
    b.node("Sigmoid", outputs=["s"])
    b.node("Mul", [b.names[0], "s"])


def _cast(b, op):
    b.node("Cast", to=_proto(op.dtype.numpy))


def _mod(b, op):
    if not op.fmod and b.arrays[0].dtype.kind == "f":
        return NotImplemented
    return b.node("Mod", fmod=int(op.fmod))


def _scale_shift(b, op):
    b.node("Mul", b.names[:2], ["p"])
    b.node("Add", ["p", b.names[2]])


BUILDERS = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": _linear,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "reduce": _reduce,
    "arg_reduce": _arg_reduce,
    "dropout": lambda b, op: b.node("Dropout"),
    "reshape": _reshape,
    "transpose": lambda b, op: b.node("Transpose", perm=op.perm) if op.perm else NotImplemented,
    "slice": _slice,
    "pad": _pad,
    "expand": lambda b, op: b.node("Expand", [b.names[0], b.const(op.shape)]),
    "tile": lambda b, op: b.node("Tile", [b.names[0], b.const(op.repeats)]),
    "concat": lambda b, op: b.node("Concat", axis=op.axis),
    "split": _split,
    "gather": _gather,
    "resize": _resize,
    "leaky_relu": lambda b, op: b.node("LeakyRelu", alpha=op.alpha),
    "thresholded_relu": lambda b, op: b.node("ThresholdedRelu", alpha=op.alpha),
    "clip": _clip,
    "elu": lambda b, op: b.node("Elu", alpha=op.alpha),
    "celu": lambda b, op: b.node("Celu", alpha=op.alpha),
    "selu": lambda b, op: b.node("Selu", alpha=op.alpha, gamma=op.gamma),
    "hard_sigmoid": lambda b, op: b.node("HardSigmoid", alpha=op.alpha, beta=op.beta),
    "silu": _silu,
    "gelu": lambda b, op: b.node("Gelu", approximate=op.approximate),
    "softplus": _softplus,
    "shrink": lambda b, op: b.node("Shrink", bias=op.bias, lambd=op.lambd),
    "cast": _cast,
    "mod": _mod,
    "scale_shift": _scale_shift,
}
assert not (set(BUILDERS) | set(PLAIN)) - set(OPS_BY_NAME)
