"""A page about two checkpoints: which tensors have changed, and how much."""

from collections.abc import Sequence
from typing import Any

from densor.cli import console, tensor_page
from densor.cli.archive_page import MAX_ROWS
from densor.cli.tensor_page import share, size_of, text_of
from densor.codec.delta.compare import NOTHING
from densor.files.diff import Difference
from densor.version import __version__

_COLUMNS = [
    *(text_of("name"), text_of("type", "dtype"), text_of("shape")),
    size_of("size"),
    share("changed", "changed", "numbers"),
    share("bits", "bits", "all_bits"),
    {"title": "max ulp", "key": "distance", "kind": "count"},
    share("delta", "coded", "size"),
    text_of("note"),
]
_EXPLAINED = (
    "Changed: numbers with other bits. Bits: of all bits, those that differ. Max ulp: the largest "
    "step in numeric order. Delta: what B takes coded against A, estimated from samples."
)
_NOTES = {"old": "only in A", "new": "only in B", "both": "not compared"}


def page(old: str, new: str, pairs: Sequence[Difference], lossy: Sequence[str] = ()) -> str:
    """The page as HTML. `old`, `new`: what the checkpoints are called; `lossy`: those that are."""
    largest = sorted(pairs, key=lambda one: -one.size)
    rows = [_row(one) for one in largest[:MAX_ROWS]]
    left = len(pairs) - len(rows)
    total = NOTHING
    for one in pairs:
        total += one.changes or NOTHING
    size = sum(one.size for one in pairs if one.changes is not None)
    data: dict[str, Any] = {
        "name": f"{new} against {old}",
        "about": f"the {left} smallest tensors are not listed" if left else "",
        "facts": [
            [console.percent(total.changed, total.numbers), "of all numbers changed"],
            [console.percent(total.bits, 8 * size), "of all bits changed"],
            [console.percent(round(total.coded), size), "of its size, coded against A"],
            [console.size(size), "compared"],
            [str(sum(one.changes is not None for one in pairs)), "tensors compared"],
            [str(sum(one.changes is None for one in pairs)), "not compared"],
            *([console.escape(name), "lossy"] for name in lossy),
        ],
        "legend": "Area: bytes. Colour: share of numbers that changed. A click opens a group.",
        "all": "100 % changed",
        "explained": _EXPLAINED,
        "map": {
            "area": "size",
            "part": "changed",
            "whole": "numbers",
            "word": "changed",
            "more": ["dtype", "shape", "note"],
        },
        "columns": _COLUMNS,
        "sorted": 4,
        "tensors": rows,
        "codecs": [],
        "codec_columns": [],
        "histograms": [],
        "sampled": "",
        "views": [],
        "footer": f"Written by densor {__version__}.",
    }
    return tensor_page.page(data)


def _row(one: Difference) -> dict[str, Any]:
    found = one.changes
    return {
        "name": console.escape(one.name),
        "dtype": one.dtype,
        "shape": "×".join(map(str, one.shape)),
        "size": one.size,
        "numbers": None if found is None else found.numbers,
        "changed": None if found is None else found.changed,
        "bits": None if found is None else found.bits,
        "all_bits": 8 * one.size,
        "distance": None if found is None else found.distance,
        "coded": None if found is None else round(found.coded),
        "note": _NOTES[one.only or "both"] if found is None else "",
    }
