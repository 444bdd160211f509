"""Find the text lines on a scanned page with PP-OCRv4's trained detector, compiled ahead of time.

    python examples/ocr.py                      the whole demonstration: what `make demo` runs
    python examples/ocr.py find MODEL.glulam    only the second half: load, run, write out/ocr.png

The first half fetches the model (a file inside the rapidocr-onnxruntime package, by its hash), compiles it for this
CPU, saves the artifact, and starts the second half in a fresh process, which needs neither the ONNX file nor the
compiler. At last the same model is built with fusion off and on, and both are timed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy.spatial import ConvexHull, QhullError
from skimage import data, draw, io, measure, morphology, transform

import glulam as gl
from glulam.benchmarks.fusion import compare, comparison_table
from glulam.benchmarks.models import fetch

OUT = Path("out")
SHORT_SIDE = 480  # of the picture as the network sees it

# What the detector was trained and published with (rapidocr-onnxruntime 1.4.4, config.yaml and ch_ppocr_det/utils.py).
MEAN, STD = 0.5, 0.5
PIXEL_THRESHOLD, BOX_THRESHOLD = 0.3, 0.5
UNCLIP_RATIO = 1.6
MIN_SIDE = 3.0


def network_size(picture: np.ndarray) -> tuple[int, int]:
    """Height and width, multiples of 32 as the network needs them, with the proportions of the picture."""
    height, width = picture.shape[:2]
    scale = SHORT_SIDE / min(height, width)
    return round(height * scale / 32) * 32, round(width * scale / 32) * 32


def prepare(picture: np.ndarray) -> np.ndarray:
    """A grey or RGB picture of bytes as the network's input: float32 [1, 3, height, width], blue first."""
    rgb = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture
    resized = transform.resize(rgb / 255.0, network_size(picture), order=1, anti_aliasing=False)
    planes = ((resized - MEAN) / STD)[:, :, ::-1].transpose(2, 0, 1)
    return np.ascontiguousarray(planes[None], dtype=np.float32)


def smallest_rectangle(points: np.ndarray) -> np.ndarray:
    """Corners [4, 2] of the rectangle of least area around the points [n, 2]; one of its sides lies on their hull."""
    hull = points[ConvexHull(points).vertices].astype(float)
    edges = np.roll(hull, -1, axis=0) - hull
    angles = np.unique(np.mod(np.arctan2(edges[:, 1], edges[:, 0]), np.pi / 2))
    axes = np.stack([np.cos(angles), np.sin(angles), -np.sin(angles), np.cos(angles)], axis=1).reshape(-1, 2, 2)
    turned = np.einsum("aij,nj->ani", axes, hull)
    low, high = turned.min(axis=1), turned.max(axis=1)
    best = int(np.argmin(np.prod(high - low, axis=1)))
    (left, top), (right, bottom) = low[best], high[best]
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) @ axes[best]


def grown(rectangle: np.ndarray, ratio: float) -> np.ndarray:
    """The rectangle with every side moved outward by area x ratio / perimeter: the network marks shrunken text."""
    across, down = rectangle[1] - rectangle[0], rectangle[3] - rectangle[0]
    width, height = np.linalg.norm(across), np.linalg.norm(down)
    distance = width * height * ratio / (2 * (width + height))
    a, d = across / width * distance, down / height * distance
    return rectangle + np.array([-a - d, a - d, a + d, -a + d])


def text_boxes(probability: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Corners [boxes, 4, 2] as (x, y) in a picture of that height and width, from the network's map [height, width].

    The post-processing of Differentiable Binarization (Liao et al. 2020, section 3.5).
    """
    mask = morphology.dilation(probability > PIXEL_THRESHOLD, np.ones((2, 2)))
    scale = np.array(size[::-1]) / np.array(probability.shape[::-1])
    boxes = []
    for region in measure.regionprops(measure.label(mask, connectivity=2)):
        try:
            rectangle = smallest_rectangle(region.coords[:, ::-1])
        except QhullError:  # all pixels on one line: too thin for text
            continue
        if _short_side(rectangle) < MIN_SIDE:
            continue
        if probability[tuple(region.coords.T)].mean() < BOX_THRESHOLD:
            continue
        boxes.append(grown(rectangle, UNCLIP_RATIO) * scale)
    return np.array(boxes).reshape(-1, 4, 2)


def _short_side(rectangle: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(rectangle[:3], axis=0), axis=1).min())


def drawn(picture: np.ndarray, boxes: np.ndarray, zoom: int = 3) -> np.ndarray:
    """The picture, enlarged, in colour, with a red frame around each box."""
    canvas = np.repeat(np.repeat(picture, zoom, axis=0), zoom, axis=1)
    canvas = np.repeat(canvas[..., None], 3, axis=2) if canvas.ndim == 2 else canvas.copy()
    last = np.array(canvas.shape[1::-1]) - 1
    for box in boxes * zoom:
        for shift in (0, 1):
            corners = np.clip(box + shift, 0, last).round().astype(int)
            for (x, y), (to_x, to_y) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                canvas[draw.line(y, x, to_y, to_x)] = (220, 30, 30)
    return canvas


def compile_ahead(console: Console, picture: np.ndarray, artifact: Path) -> gl.Graph:
    """Fetch, import and compile the detector for pictures of this size, and save it; the graph as imported."""
    with console.status("fetching the model: 14 MB, once"):
        file = fetch("ppocrv4-det")
    graph = gl.from_onnx(file, shapes={"x": (1, 3, *network_size(picture))})
    begin = time.perf_counter()
    with console.status(f"compiling {len(graph.nodes)} nodes"):
        gl.compile(graph).save(artifact)
    size = artifact.stat().st_size / 1e6
    console.print(
        f"compiled {len(graph.nodes)} nodes in {time.perf_counter() - begin:.1f} s to {artifact} ({size:.1f} MB)"
    )
    return graph


def find(console: Console, artifact: Path) -> None:
    """Load the artifact, find the text lines of the page, and write the picture with a frame around each."""
    picture = data.page()
    pixels = prepare(picture)
    begin = time.perf_counter()
    model = gl.load(artifact)
    loaded = time.perf_counter()
    probability = model(pixels)
    ran = time.perf_counter()
    boxes = text_boxes(probability[0, 0], picture.shape[:2])
    io.imsave(OUT / "ocr.png", drawn(picture, boxes), check_contrast=False)
    console.print(
        f"a fresh process loaded it in {(loaded - begin) * 1e3:.0f} ms, ran it in {(ran - loaded) * 1e3:.0f} ms, "
        f"and found [bold]{len(boxes)} lines of text[/bold]: see {OUT / 'ocr.png'}"
    )


def main(arguments: list[str]) -> int:
    console = Console()
    OUT.mkdir(exist_ok=True)
    try:
        if arguments[:1] == ["find"] and len(arguments) == 2:
            find(console, Path(arguments[1]))
            return 0
        if arguments:
            console.print(__doc__)
            return 2
        artifact = OUT / "ocr.glulam"
        graph = compile_ahead(console, data.page(), artifact)
        subprocess.run([sys.executable, __file__, "find", str(artifact)], check=True)
        with console.status("the same model with fusion off and on, in turns"):
            report = compare(graph, {"x": prepare(data.page())}, passes=False)
        console.print(comparison_table(report, "ppocrv4-det, fused against unfused"))
        console.print("more, with each pass alone: .venv/bin/glulam bench ppocrv4-det")
    except (gl.errors.GlulamError, subprocess.CalledProcessError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
