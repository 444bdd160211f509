"""Networks of 8-bit codes for `benchmarks.run`: ONNX Runtime's quantisation of a network, as a file.

    python -m glulam.benchmarks.quantise resnet18 mobilenet_v2 --output DIRECTORY
    python -m glulam.benchmarks.run --models DIRECTORY/resnet18.qdq.onnx,DIRECTORY/mobilenet_v2.qdq.onnx --peers

Activations become U8 (or I8, with `--signed`), weights I8 with a scale for each channel, or U8 with a zero point (with
`--unsigned-weights`). The ranges are those that random inputs give, so the results mean no more than those of untrained
networks do; the work is that of any others. With `--format dynamic` each run finds the ranges of its activations.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

from glulam.benchmarks.cases import Case, open_case
from glulam.console import exit_with
from glulam.runtime.arrays import Array
from glulam.runtime.errors import GlulamError

FORMATS = {"qdq": "QDQ", "qoperator": "QOperator", "dynamic": None}
"""What the files are named, and what ONNX Runtime calls them: floats between codes, or operators on codes.

None stands for its dynamic quantisation, of weights alone.
"""

_RUNS = 2  # whose values calibrate the ranges


def quantise(case: Case, path: Path, kind: str, signed: bool = False, unsigned_weights: bool = False) -> None:
    """Writes the quantised network, its activations I8 if `signed`, and its weights U8 if these are not.

    Raises GlulamError without ONNX Runtime's tools.
    """
    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise GlulamError(f"ONNX Runtime's quantisation is needed ({error}); pip install onnx onnxruntime") from error

    class Feeds(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Random inputs, one after the other."""

        def __init__(self) -> None:
            self.left = [case.feeds(seed) for seed in range(_RUNS)]

        def get_next(self) -> Mapping[str, Array] | None:
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as directory:
        source, prepared = (Path(directory) / name for name in ("network.onnx", "prepared.onnx"))
        case.write_onnx(source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        weights = quantization.QuantType.QUInt8 if unsigned_weights else quantization.QuantType.QInt8
        if (name := FORMATS[kind]) is None:
            quantization.quantize_dynamic(prepared, path, weight_type=weights)
            return
        quantization.quantize_static(
            prepared, path, Feeds(), quant_format=quantization.QuantFormat[name],
            activation_type=quantization.QuantType.QInt8 if signed else quantization.QuantType.QUInt8,
            weight_type=weights, per_channel=not unsigned_weights,
        )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m glulam.benchmarks.quantise",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="networks of the zoo, real models, or ONNX files")
    parser.add_argument("--format", choices=FORMATS, default="qdq", help="default: %(default)s")
    parser.add_argument("--signed", action="store_true", help="activations from -128 to 127, not from 0 to 255")
    parser.add_argument("--unsigned-weights", action="store_true", help="from 0 to 255, with a zero point")
    parser.add_argument("--output", type=Path, default=Path("out"), metavar="DIRECTORY", help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.signed and options.format == "dynamic":
        parser.error("--signed: each run finds U8 codes for its activations with --format dynamic")
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.models:
        kind = f"{options.format}{'.s8' * options.signed}{'.u8w' * options.unsigned_weights}"
        path = options.output / f"{Path(name).stem}.{kind}.onnx"
        quantise(open_case(name), path, options.format, options.signed, options.unsigned_weights)
        print(path)


if __name__ == "__main__":
    exit_with(main)
