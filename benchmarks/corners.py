"""Single layers of every shape against ONNX Runtime and OpenVINO: where is there a slow corner?

python -m glulam.benchmarks.corners --only grouped,depthwise --threads 1 --json out/corners.json

The layers are those of `corner_cases`, or so many drawn at random by `random_layers` with `--random 100 --seed 1`; the
engines take turns as in `run`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

from glulam.arguments import not_negative, output_file, positive, seconds
from glulam.benchmarks.corner_cases import CORNERS, Corner
from glulam.benchmarks.peers import PEERS, installed_peers
from glulam.benchmarks.random_layers import random_corners
from glulam.benchmarks.run import Setup, measure, table_of
from glulam.console import exit_with, wide_console, write_json
from glulam.runtime.cpu import processor_name
from glulam.runtime.errors import GlulamError


def chosen(only: str | None, drawn: int = 0, seed: int = 0) -> dict[str, Corner]:
    """The corners, named by group and layer, whose name has any of the texts between commas. Raises GlulamError.

    With a number of `drawn` layers they are among those, of this seed.
    """
    names = {f"{group}: {name}": corner for group, corners in CORNERS.items() for name, corner in corners.items()}
    if drawn:
        names = random_corners(seed, drawn)
    texts = only.lower().split(",") if only else [""]
    found = {name: corner for name, corner in names.items() if any(text in name.lower() for text in texts)}
    if not found:
        groups = dict.fromkeys(name.partition(":")[0] for name in names)
        raise GlulamError(f"no corner has {only!r} in its name; groups are {', '.join(groups)}")
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m glulam.benchmarks.corners", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="TEXTS", help="corners whose name has any of these, by commas (all)")
    parser.add_argument("--random", type=positive, default=0, metavar="N", help="N layers drawn at random instead")
    parser.add_argument("--seed", type=not_negative, default=1, metavar="N", help="of the draw (1)")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="threads of one inference (1)")
    parser.add_argument(
        "--numerics", default="fast", choices=("fast", "strict"), help="strict: add up as defined (fast)"
    )
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="rounds of one turn each (5)")
    parser.add_argument("--turn", type=seconds, default=0.05, metavar="SECONDS", help="length of a turn (0.05)")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write everything that was measured here")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    console = wide_console()
    peers = installed_peers()
    if not peers:
        raise GlulamError(f"neither of {', '.join(PEERS)} is installed: pip install 'glulam[bench]'")
    setup = Setup(peers, options.threads, options.numerics, rounds=options.rounds, turn_seconds=options.turn)
    measured: list[dict[str, Any]] = []
    corners = chosen(options.only, options.random, options.seed)
    with console.status("corners") as status:
        for name, corner in corners.items():
            status.update(f"{len(measured) + 1} of {len(corners)}: {name}")
            measured.append(measure(corner.case(name), setup))
    if options.json:
        write_json(options.json, {"cpu": processor_name(), "cases": measured})
    console.print(table_of(measured, peers, f"{processor_name()}, worst first", worst_first=True))
    ratios = [case["ratios"]["fastest"]["median"] for case in measured]
    console.print(
        f"geometric mean {statistics.geometric_mean(ratios):.3f}; {sum(r > 1 for r in ratios)} of {len(ratios)} above 1"
    )
    return 0


if __name__ == "__main__":
    exit_with(main)
