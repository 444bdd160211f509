"""What `run` has measured, as Markdown.

python -m glulam.benchmarks.report out/bench.json
python -m glulam.benchmarks.report --compact out/some.json out/others.json     a row for each model
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from glulam.console import exit_with

OURS = "glulam"


def markdown(result: Mapping[str, Any]) -> str:
    """One table with a row per model and thread count, then what it was measured with."""
    peers = [label for label in result["versions"] if label != OURS]
    head = ["model", "batch", "threads", "ratio to the faster peer", *(f"{label}, ms" for label in (OURS, *peers))]
    head += ["load, ms", "peak memory, MB"]
    lines = [_row(head), _row("---" if i == 0 else "---:" for i in range(len(head)))]
    lines += [_row(_cells(case, peers)) for case in result["cases"]]
    order = " / ".join((OURS, *peers))
    note = f"{_measured(result)}; the range is that of the quartiles. Load and memory: {order}. {_versions(result)}."
    return "\n".join([*lines, "", note + _instructions(result, peers), ""])


def _measured(result: Mapping[str, Any]) -> str:
    return f"Medians over rounds in which the engines took turns, each in its own process, float32, on {result['cpu']}"


def _versions(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{label} {version.partition('-')[0]}" for label, version in result["versions"].items())


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


def compact(results: Sequence[Mapping[str, Any]]) -> str:
    """One table with a row for each model: ratios to the faster peer and milliseconds for each number of threads."""
    cases = [case for result in results for case in result["cases"]]
    threads = sorted({case["threads"] for case in cases})
    by_model: dict[str, dict[int, Mapping[str, Any]]] = {}
    for case in cases:
        by_model.setdefault(case["model"], {})[case["threads"]] = case
    engines = list(cases[0]["engines"])
    head = ["model"]
    for count in threads:
        head += [f"ratio, {count} thread{'s' * (count > 1)}", *engines]
    rows: list[list[str]] = []
    ratios: dict[int, list[float]] = {count: [] for count in threads}
    for model, found in by_model.items():
        cells = [model]
        for count in threads:
            case = found[count]
            ratios[count].append(case["ratios"]["fastest"]["median"])
            cells.append(f"{ratios[count][-1]:.2f}")
            cells += [f"{case['engines'][label]['seconds']['median'] * 1e3:.2f}" for label in engines]
        rows.append(cells)
    last = ["geometric mean"]
    for count in threads:
        last += [f"{statistics.geometric_mean(ratios[count]):.3f}", *[""] * len(engines)]
    aligned = ["---", *["---:"] * (len(head) - 1)]
    notes = dict.fromkeys(f"{_measured(result)}. {_versions(result)}." for result in results)
    return "\n".join([*map(_row, [head, aligned, *rows, last]), "", *notes])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m glulam.benchmarks.report", description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json", help="what `run --json` has written")
    parser.add_argument("--compact", action="store_true", help="a row for each model, its threads side by side")
    options = parser.parse_args(arguments)
    try:
        results = [json.loads(path.read_text(encoding="utf-8")) for path in options.files]
    except (OSError, ValueError) as error:
        parser.error(f"no measurements of `run --json`: {error}")
    if options.compact:
        print(compact(results))
    else:
        print("\n".join(map(markdown, results)))
    return 0


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    exit_with(main)
