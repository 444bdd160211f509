"""What `run` has measured, as Markdown.

python -m glulam.benchmarks.report out/bench.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

OURS = "glulam"


def markdown(result: Mapping[str, Any]) -> str:
    """One table with a row per model and thread count, then what it was measured with."""
    peers = [label for label in result["versions"] if label != OURS]
    head = ["model", "batch", "threads", "ratio to the faster peer", *(f"{label}, ms" for label in (OURS, *peers))]
    head += ["load, ms", "peak memory, MB"]
    lines = [_row(head), _row("---" if i == 0 else "---:" for i in range(len(head)))]
    lines += [_row(_cells(case, peers)) for case in result["cases"]]
    versions = ", ".join(f"{label} {version.partition('-')[0]}" for label, version in result["versions"].items())
    order = " / ".join((OURS, *peers))
    return "\n".join(
        [
            *lines,
            "",
            f"Medians over rounds in which the engines took turns, each in its own process, float32, on "
            f"{result['cpu']}; the range is that of the quartiles. Load and memory: {order}. {versions}."
            f"{_instructions(result, peers)}",
            "",
        ]
    )


def _instructions(result: Mapping[str, Any], peers: Sequence[str]) -> str:
    """To which instructions the engines were held, if they were."""
    case = result["cases"][0]
    if case.get("isa", "native") == "native":
        return ""
    held = ", ".join(f"{label} {case['engines'][label]['instructions']}" for label in (OURS, *peers))
    return f" Instructions: {held}."


def _cells(case: Mapping[str, Any], peers: Sequence[str]) -> list[str]:
    engines = [case["engines"][label] for label in (OURS, *peers)]
    ratio = case["ratios"].get("fastest")
    return [
        case["model"],
        str(case.get("batch", 1)),
        str(case["threads"]),
        f"**{ratio['median']:.2f}** ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "-",
        *(f"{engine['seconds']['median'] * 1e3:.2f}" for engine in engines),
        " / ".join(f"{engine['load_seconds'] * 1e3:.0f}" for engine in engines),
        " / ".join(f"{engine['peak_rss'] / 1e6:.0f}" for engine in engines),
    ]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m glulam.benchmarks.report FILE.json")
    print(markdown(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
