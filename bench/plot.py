"""Draws ratio against speed, one picture per input.

    python -m bench.plot DIR

Reads ``DIR/results.csv`` as ``bench.run`` writes it; writes ``DIR/INPUT.png``. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.report import ORDER0

Row = dict[str, str]

OURS = "densor"
LABEL_GAP_POINTS = 11.0
LABEL_OFFSET_POINTS = 9.0

OFF_SCALE = 1.05
"""Codecs whose ratio is more than this many times the order-0 bound are listed, not drawn."""


def read_rows(path: Path) -> dict[str, list[Row]]:
    """The lines of a results file by input, without codecs that failed."""
    inputs: dict[str, list[Row]] = {}
    with path.open(newline="") as f:
        for row in csv.DictReader(f):
            if row["ratio"]:
                inputs.setdefault(row["input"], []).append(row)
    return inputs


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Moves heights apart, upwards in their order, so that neighbours differ by ``gap``.

    Each run of crowded labels is then centred on where its members wanted to be.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    runs: list[list[int]] = []
    bottoms: list[float] = []
    for i in order:
        run, bottom = [i], heights[i]
        while runs and bottoms[-1] + gap * len(runs[-1]) > bottom:
            run = runs.pop() + run
            bottoms.pop()
            bottom = sum(heights[j] - gap * k for k, j in enumerate(run)) / len(run)
        runs.append(run)
        bottoms.append(bottom)
    placed = [0.0] * len(heights)
    for run, bottom in zip(runs, bottoms, strict=True):
        for k, j in enumerate(run):
            placed[j] = bottom + gap * k
    return placed


def label_points(axes: Any, points: Sequence[tuple[str, float, float]]) -> None:
    """Writes each (name, x, y) beside its point, with a thin line where it had to move."""
    scale = 72.0 / axes.figure.dpi
    wanted = [float(axes.transData.transform((x, y))[1]) * scale for _, x, y in points]
    for (name, x, y), want, got in zip(
        points, wanted, spread(wanted, LABEL_GAP_POINTS), strict=True
    ):
        axes.annotate(
            name,
            (x, y),
            xytext=(LABEL_OFFSET_POINTS, got - want),
            textcoords="offset points",
            va="center",
            fontsize=9,
            fontweight="bold" if name.startswith(OURS) else "normal",
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "0.6", "shrinkB": 0},
        )


def partition(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The codecs to draw, and those too far off the order-0 bound to share a scale with them."""
    bound = next(float(r["ratio"]) for r in rows if r["codec"] == ORDER0)
    codecs = [r for r in rows if r["codec"] not in (ORDER0, "memcpy")]
    near = [r for r in codecs if float(r["ratio"]) <= OFF_SCALE * bound]
    return near, [r for r in codecs if r not in near]


def coordinates(rows: Iterable[Row], direction: str) -> list[tuple[str, float, float]]:
    """Name, speed in MB/s and ratio of each codec."""
    return [(r["codec"], float(r[f"{direction}_mb_s"]), float(r["ratio"])) for r in rows]


def draw_panel(axes: Any, rows: Sequence[Row], direction: str) -> None:
    """One scatter plot; ``direction`` is "compress" or "decompress"."""
    from matplotlib.ticker import LogLocator, NullFormatter

    points = coordinates(partition(rows)[0], direction)
    colours = ["#c0392b" if name.startswith(OURS) else "#34618e" for name, _, _ in points]
    axes.scatter([x for _, x, _ in points], [y for _, _, y in points], c=colours, s=28, zorder=3)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.12)
    for r in rows:
        if r["codec"] == ORDER0:
            axes.axhline(float(r["ratio"]), color="0.4", linestyle="--", linewidth=1)
        if r["codec"] == "memcpy":
            axes.axvline(float(r[f"{direction}_mb_s"]), color="0.4", linestyle=":", linewidth=1)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{direction} speed, MB/s, log scale (dotted: memcpy)")
    axes.grid(alpha=0.3, which="both", linewidth=0.5)


def draw_input(name: str, rows: Sequence[Row], path: Path) -> None:
    """Writes the picture of one input as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(13, 6.5), sharey=True, dpi=110)
    threads = next(r["threads"] for r in rows if r["threads"])
    figure.suptitle(f"{name}, {threads} thread{'s' if threads != '1' else ''}: up and right wins")
    for axes, direction in zip(panels, ("compress", "decompress"), strict=True):
        draw_panel(axes, rows, direction)
    panels[0].invert_yaxis()
    panels[0].set_ylabel("compressed ÷ original size (dashed: order-0 bound)")
    near, far = partition(rows)
    if far:
        listed = ", ".join(f"{r['codec']} {float(r['ratio']):.3f}" for r in far)
        figure.text(0.5, 0.015, f"ratio off the scale: {listed}", ha="center", fontsize=9)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.canvas.draw()
    for axes, direction in zip(panels, ("compress", "decompress"), strict=True):
        label_points(axes, coordinates(near, direction))
    figure.savefig(path)
    pyplot.close(figure)


def main(argv: Iterable[str] | None = None) -> int:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.plot")
    parser.add_argument("dir", type=Path)
    args = parser.parse_args(None if argv is None else list(argv))
    for name, rows in read_rows(args.dir / "results.csv").items():
        path = args.dir / f"{name}.png"
        draw_input(name, rows, path)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
