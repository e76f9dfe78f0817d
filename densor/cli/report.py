"""Measured rows as a table and as bar charts, in the terminal or as a PNG."""

import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from densor.cli import console, table
from densor.errors import UnsupportedError

if TYPE_CHECKING:
    from densor.compare.timing import Result

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_MAX_COLUMNS = 100


def rows_table(rows: Sequence["Result"]) -> str:
    """The table of ratio and speed."""
    cells = [
        [
            row.codec,
            f"{row.ratio:.2%}",
            *("-" if speed is None else console.speed(speed) for speed in _both(row)),
        ]
        for row in rows
    ]
    return table.render(["codec", "ratio", "compress MB/s", "decompress MB/s"], cells)


def _both(row: "Result") -> tuple[float | None, float | None]:
    """Speeds of compression and decompression, None where there is no such thing."""
    return (row.compress_mb_s, row.decompress_mb_s) if row.ok else (None, None)


def bars(rows: Sequence["Result"]) -> str:
    """Two bar charts: ratio, and speed of decompression."""
    columns = min(shutil.get_terminal_size().columns, _MAX_COLUMNS)
    ratios = [(row.codec, row.ratio, f"{row.ratio:.2%}") for row in rows]
    speeds = [(name, speed, console.speed(speed)) for name, speed in _speeds(rows)]
    lines = ["size, less is better", *_chart(ratios, columns)]
    return "\n".join([*lines, "", "MB/s decompressed, more is better", *_chart(speeds, columns)])


def _speeds(rows: Sequence["Result"]) -> list[tuple[str, float]]:
    """Names and speeds of decompression, without memcpy, beside which no bar would be seen."""
    return [(row.codec, row.decompress_mb_s) for row in rows if row.ok and row.codec != "memcpy"]


def _chart(items: Sequence[tuple[str, float, str]], columns: int) -> Iterator[str]:
    names = max(len(name) for name, _, _ in items)
    labels = max(len(label) for _, _, label in items)
    width = max(columns - names - labels - 4, 8)
    most = max(value for _, value, _ in items) or 1.0
    for name, value, label in items:
        yield f"{name:{names}}  {_bar(value / most, width)} {label:>{labels}}".rstrip()


def _bar(share: float, width: int) -> str:
    """A bar of `share` of `width` columns, in eighths of a column where blocks can be shown."""
    if not _shows_blocks():
        return ("#" * round(share * width)).ljust(width)
    whole, eighths = divmod(round(share * width * 8), 8)
    return (_EIGHTHS[-1] * whole + _EIGHTHS[eighths] * (eighths > 0)).ljust(width)


def _shows_blocks() -> bool:
    try:
        _EIGHTHS.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def require_matplotlib() -> None:
    """UnsupportedError where pictures cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UnsupportedError("--plot needs matplotlib: pip install densor[plot]") from None


def save_png(path: str, results: Sequence[tuple[str, Sequence["Result"]]], overwrite: bool) -> None:
    """A picture with both charts for each of the `results`, a title and its rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from densor.files.opened import open_output
    from densor.formats.io.outputs import write_all

    figure: Any = Figure(figsize=(11, 1 + 3 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(results), 2, squeeze=False)
    for (title, rows), (left, right) in zip(results, axes, strict=True):
        ratios = [(row.codec, 100 * row.ratio) for row in rows]
        _draw(left, f"{title}: size in %", ratios, "%.2f")
        _draw(right, "MB/s decompressed", _speeds(rows), "%.0f")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    with open_output(path, overwrite) as file:
        write_all(file, image.getvalue())


def _draw(axis: Any, title: str, items: Sequence[tuple[str, float]], form: str) -> None:
    names = [name for name, _ in items]
    colours = ["tab:blue" if name.startswith("densor") else "tab:gray" for name in names]
    drawn = axis.barh(names, [value for _, value in items], color=colours)
    axis.bar_label(drawn, fmt=form, padding=3)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_title(title)
