"""Draws the pictures of docs/how-it-works.md from the sample model that the package embeds.

python -m bench.pictures        writes docs/pictures/*.svg
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from safetensors import deserialize

OUT = Path(__file__).parents[1] / "docs" / "pictures"
Words = npt.NDArray[np.uint16]
_BLUE, _ORANGE, _GREY = "#3b7dd8", "#e08a3c", "#9aa4b2"


def weights() -> list[Words]:
    """The BF16 matrices of the sample model, as bits."""
    path = files("densor").joinpath("data", "sample", "model.safetensors")
    found = []
    read: Any = deserialize
    for _, tensor in read(path.read_bytes()):
        if tensor["dtype"] == "BF16" and len(tensor["shape"]) == 2:
            found.append(np.frombuffer(tensor["data"], "<u2").reshape(tensor["shape"]))
    return found


def shares(values: npt.NDArray[Any], count: int) -> npt.NDArray[np.float64]:
    """How often each value occurs, as a share."""
    found = np.bincount(values.reshape(-1), minlength=count)
    parts: npt.NDArray[np.float64] = found / max(int(found.sum()), 1)
    return parts


def entropy(parts: npt.NDArray[np.float64]) -> float:
    """Bits that a symbol takes at least, if its share is all that is known."""
    used = parts[parts > 0]
    return float(-(used * np.log2(used)).sum())


def exponents(words: Words) -> npt.NDArray[np.int64]:
    """The eight bits of each number that say how large it is."""
    return ((words >> 7) & 255).astype(np.int64)


def _axes(columns: int, height: float = 2.6) -> tuple[Any, Any]:
    figure: Any = Figure(figsize=(9, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _save(figure: Any, name: str) -> None:
    figure.savefig(OUT / name, metadata={"Date": None, "Creator": None})


def draw_fields(words: Words) -> None:
    """Exponents crowd, mantissas do not."""
    parts = {
        "exponent": shares(exponents(words), 256),
        "mantissa": shares((words & 127).astype(np.int64), 128),
    }
    figure, axes = _axes(2)
    for axis, (name, found), colour in zip(axes, parts.items(), (_BLUE, _GREY), strict=True):
        shown = np.flatnonzero(found > 1e-4)
        axis.bar(shown, 100 * found[shown], width=1, color=colour)
        bits = int(np.log2(found.size))
        axis.set_title(f"{name}: {bits} bits stored, {entropy(found):.2f} needed")
        axis.set_ylabel("% of the weights")
    axes[0].set_xlim(95, 130)
    _save(figure, "fields.svg")


def draw_bits(words: Words) -> None:
    """What becomes of the 16 bits of a weight."""
    needed = entropy(shares(exponents(words), 256))
    figure, (axis,) = _axes(1, 1.7)
    for y, (label, exponent) in enumerate((("packed", needed), ("as it is", 8.0))):
        left = 0.0
        for width, colour in ((1.0, _ORANGE), (exponent, _BLUE), (7.0, _GREY)):
            axis.barh(y, width, left=left, color=colour, edgecolor="white")
            left += width
        axis.text(left + 0.1, y, f"{left:.1f} bits", va="center")
        axis.text(-0.1, y, label, ha="right", va="center")
    axis.set_xlim(-2, 18)
    axis.set_title("a BF16 weight: sign, exponent, mantissa")
    axis.axis("off")
    _save(figure, "bits.svg")


def draw_rows(matrices: list[Words]) -> None:
    """Rows of one matrix differ in scale, so that a code for each kind of row is shorter."""
    matrix = max(matrices, key=lambda m: float(np.std(exponents(m).mean(1))))
    means = exponents(matrix).mean(1)
    order = np.argsort(means)
    low, high = (exponents(matrix[rows]) for rows in np.array_split(order, 2))
    figure, (axis,) = _axes(1)
    together = shares(exponents(matrix), 256)
    for values, label, colour in ((low, "smaller rows", _BLUE), (high, "larger rows", _ORANGE)):
        found = shares(values, 256)
        title = f"{label}: {entropy(found):.2f} bits"
        shown = np.flatnonzero(found > 1e-4)
        axis.bar(shown, 100 * found[shown], width=1, color=colour, alpha=0.6, label=title)
    axis.set_xlim(95, 130)
    axis.set_title(f"exponents of one matrix: {entropy(together):.2f} bits under one code")
    axis.legend()
    _save(figure, "rows.svg")


def main() -> None:
    """Draws all."""
    matplotlib.rcParams["svg.hashsalt"] = "densor"  # the same file every time
    OUT.mkdir(exist_ok=True)
    matrices = weights()
    together = np.concatenate([matrix.reshape(-1) for matrix in matrices])
    draw_fields(together)
    draw_bits(together)
    draw_rows(matrices)


if __name__ == "__main__":
    main()
