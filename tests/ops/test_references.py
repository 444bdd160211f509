"""Every case of every op: the reference has the inferred types, and agrees with ONNX Runtime where ONNX has the op."""

import numpy as np
import pytest

from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import TensorType
from glulam.compiler.ops import ALL_OPS, OPS_BY_NAME

CASES = [pytest.param(case, id=f"{op.name}-{i}") for op in ALL_OPS for i, case in enumerate(op.cases())]

# Where ONNX Runtime treats NaN, infinities or nothing at all otherwise than the definition does: position-dependent
# NaN in max and min, -FLT_MAX instead of -inf, the mean of nothing.
OWN_NONFINITE = {"max_pool", "reduce", "arg_reduce", "clip"}
# Legal here, refused by ONNX Runtime: pads as wide as the kernel, reflection back and forth.
REFUSED = (
    "pad < kernel",
    "pads[dim] < kernel_shape[dim]",
    "exceeds maximum allowed",
    "smaller than kernel",
    "Only 4-D or 5-D",
)


def types_of(arrays):
    return tuple(None if a is None else TensorType.of(a) for a in arrays)


@pytest.mark.parametrize("case", CASES)
def test_reference_has_the_inferred_types(case):
    arrays = case.arrays()
    before = [None if a is None else a.copy() for a in arrays]
    outputs = case.op.reference(*arrays)
    assert types_of(outputs) == case.op.infer(*types_of(arrays))
    for array, copy in zip(arrays, before, strict=True):
        assert array is None or np.array_equal(array, copy, equal_nan=array.dtype.kind == "f")


# The meaning of an external op is the user's function: tests/frontends/test_external.py.
@pytest.mark.parametrize("op", [op for op in ALL_OPS if op.name != "external"], ids=lambda op: op.name)
def test_enough_cases_and_equal_ops_mean_the_same(op):
    cases = op.cases()
    assert len(cases) >= 3
    assert issubclass(op, Op)
    assert OPS_BY_NAME[op.name] is op
    for case in cases:
        twin = type(case.op)(**case.op.attributes())
        assert twin == case.op
        assert hash(twin) == hash(case.op)
        assert case.constants <= set(range(len(case.inputs)))


def divides_by_zero(case, arrays):
    return case.op.name in ("div", "mod") and arrays[1].dtype.kind == "i" and bool((arrays[1] == 0).any())


def has_no_power(case, arrays):
    return case.op.name == "pow" and arrays[0].dtype.kind == "i" and bool(((arrays[0] == 0) & (arrays[1] < 0)).any())


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_onnx_runtime(case):
    pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    from onnx_nodes import model_of
    from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

    arrays = case.arrays()
    if divides_by_zero(case, arrays):
        pytest.skip("ONNX Runtime dies of an integer division by zero")
    if has_no_power(case, arrays):
        pytest.skip("one over zero is no integer: ONNX leaves it open")
    built = model_of(case)
    if built is None:
        pytest.skip("ONNX has no such op")
    model, feeds = built
    try:
        outputs = session(ort, model).run(None, feeds)
    except (ort_errors.NotImplemented, ort_errors.InvalidGraph, ort_errors.InvalidArgument, ort_errors.Fail) as error:
        text = str(error)
        if "NOT_IMPLEMENTED" in text or "Type Error" in text or any(reason in text for reason in REFUSED):
            pytest.skip(f"ONNX Runtime refuses it: {text[:100]}")
        raise
    for expected, got in zip(outputs, case.op.reference(*arrays), strict=True):
        assert TensorType.of(got) == TensorType.of(expected)
        if case.op.name in OWN_NONFINITE and any(odd(a) for a in (*arrays, got)):
            keep = clean_lines(case, arrays, got)
            expected, got = expected[keep], got[keep]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def odd(array):
    return array is not None and array.dtype.kind == "f" and not np.isfinite(array).all()


def clean_lines(case, arrays, got):
    """Which outputs no NaN or infinity reaches (for the reductions: along axis 1 of a matrix)."""
    (x,) = arrays
    if case.op.name in ("reduce", "arg_reduce"):
        fine = np.isfinite(x).all(1, keepdims=True)
        return np.broadcast_to(fine, got.shape) & np.isfinite(got)
    return np.isfinite(got)


def session(ort, model):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
