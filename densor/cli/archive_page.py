"""A page about an archive: where its bytes are, how each tensor is coded, what numbers it holds."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.cli import archive_views, console, contents, tensor_page
from densor.cli.tensor_page import share, size_of, text_of
from densor.codec.bound import order0_bytes
from densor.dtypes import SIZES, coding_of
from densor.float_formats import number_format
from densor.formats.container.entry import FILE
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.tensors import TensorInfo
from densor.runtime.types import Bytes
from densor.version import __version__

SAMPLED = 64  # tensors, the largest, of which a part is decoded
SAMPLE_BYTES = 1 << 18
MAX_ROWS = 20_000  # tensors that a page lists; it has some 150 bytes for each
_BINS = 64  # of a histogram, at most
_SIZES = [
    size_of("original"),
    size_of("stored"),
    share("ratio", "stored", "original"),
]
_COLUMNS = [
    *(text_of("name"), text_of("type", "dtype"), text_of("shape")),
    *_SIZES,
    {"title": "bits", "key": "bits", "kind": "bits"},
    {"title": "bound", "key": "bound", "kind": "bits"},
    text_of("codec"),
]
_EXPLAINED = (
    "Bits: stored bits per element. Bound: order-0 entropy of the planes of a sample, per element; "
    "what is below it was found by contexts."
)
_IMAGES = "images"  # in the names of codecs of images
_PICTURED = (
    "The first image of each of up to 4 tensors or files, as the fast method (levels 1 to 4) codes "
    "it; its prediction errors and bits are added over channels."
)


class Row(NamedTuple):
    """A tensor, or what an entry holds beside its tensors."""

    name: str
    dtype: str
    shape: str
    original: int
    stored: int
    bits: float | None  # stored, of an element
    bound: float | None  # order-0 entropy of the planes of a sample, of an element
    codec: str


class Part(NamedTuple):
    """Bytes `begin` to `end` of an entry."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    entry: IndexedEntry
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.begin


def page(file: contents.Opened, name: str, recovery: str, source: Any) -> str:
    """The page as HTML. `recovery`: how much recovery data there is, in words.

    `source`: of the archive, from which images are read.
    """
    data = _data(file, name, recovery)
    images = [row["name"] for row in data["tensors"] if _IMAGES in row["codec"]]
    if images:
        from densor.cli.image_maps import pictures

        data["pictures"] = list(pictures(source, images))
        data["pictured"] = _PICTURED
    return tensor_page.page(data)


def _data(file: contents.Opened, name: str, recovery: str) -> dict[str, Any]:
    archive = file.archive
    coded = list(contents.coded(archive, list(archive.models())))
    parts = sorted(_parts(archive.entries), key=lambda part: -part.size)
    samples = dict(_samples(archive, parts))
    rows = [_row(archive, part, coded, samples.get(i)) for i, part in enumerate(parts[:MAX_ROWS])]
    left = len(parts) - len(rows)
    return {
        "name": name,
        "about": f"format version {file.version}"
        + (f"; the {left} smallest tensors are not listed" if left else ""),
        "facts": _facts(file, recovery),
        "legend": "Area: stored bytes. Colour: share of the original size. A click opens a group.",
        "all": "100 % of the original",
        "explained": _EXPLAINED,
        "map": {
            "area": "stored",
            "part": "stored",
            "whole": "original",
            "word": "of the original",
            "more": ["dtype", "shape", "codec"],
        },
        "columns": _COLUMNS,
        "sorted": 4,
        "codec_columns": [
            text_of("codec"),
            {"title": "chunks", "key": "chunks", "kind": "count"},
            *_SIZES,
        ],
        "tensors": [row._asdict() for row in rows],
        "codecs": [
            {"codec": c.codec, "chunks": c.chunks, "original": c.original, "stored": c.stored}
            for c in coded
        ],
        "histograms": list(_histograms([(parts[i], sample) for i, sample in samples.items()])),
        "sampled": f"Of up to {SAMPLE_BYTES >> 10} KiB from the middle of each of the "
        f"{len(samples)} largest tensors; a number's exponent as it is stored, with its bias.",
        "views": archive_views.views(archive),
        "footer": f"Written by densor {__version__}. Small tensors share chunks; each is given its "
        "part of their bytes.",
    }


def _facts(file: contents.Opened, recovery: str) -> list[list[str]]:
    """Figures about the whole archive, each with what it is."""
    archive = file.archive
    entries = len(archive.entries)
    return [
        [console.percent(file.stored, file.original), "of the original size"],
        [console.size(file.original), "original"],
        [console.size(file.stored), "stored"],
        [str(len(archive.tensors())), "tensors"],
        [str(entries), "entry" if entries == 1 else "entries"],
        [recovery, "recovery data"],
        *([names, "lossy"] for names in contents.lossy_names(archive.entries)),
    ]


def _parts(entries: Sequence[IndexedEntry]) -> Iterator[Part]:
    """All tensors, each once, and entries that are none and hold none."""
    for entry in entries:
        meta = entry.meta
        at = 0
        if meta.kind == FILE:
            for tensor in sorted(meta.tensors, key=lambda tensor: tensor.offset):
                end = tensor.offset + tensor.size
                if at <= tensor.offset and end <= entry.size:  # no view of another one's bytes
                    yield _tensor(entry, tensor)
                    at = end
        if not at:
            kind = meta.dtype or meta.format or meta.kind
            yield Part(meta.name or "(object)", kind, meta.shape or (), entry, 0, entry.size)


def _tensor(entry: IndexedEntry, tensor: TensorInfo) -> Part:
    end = tensor.offset + tensor.size
    return Part(tensor.name, tensor.dtype, tensor.shape, entry, tensor.offset, end)


def _row(archive: Any, part: Part, coded: Sequence[contents.Coded], sample: Bytes | None) -> Row:
    first, last = archive.frame_range(part.entry, part.begin, part.end)
    names = [c.codec for c in coded if c.frames[first:last].any()]
    stored = archive.stored_size(part.entry, part.begin, part.end)
    elements = part.size / SIZES[part.dtype] if part.dtype in SIZES else 0
    bound = None
    if sample is not None and sample.size:
        bits = 8 * order0_bytes(sample, coding_of(part.dtype, ())[0])
        bound = round(bits / (sample.size / SIZES[part.dtype]), 3)
    return Row(
        console.escape(part.name),
        part.dtype,
        "×".join(map(str, part.shape)),
        part.size,
        stored,
        round(8 * stored / elements, 3) if elements else None,
        bound,
        ", ".join(names) or "–",
    )


def _samples(archive: Any, parts: Sequence[Part]) -> Iterator[tuple[int, Bytes]]:
    """A stretch from the middle of the largest tensors of a known type, by number of the part."""
    known = (i for i, part in enumerate(parts) if part.dtype in SIZES and part.size)
    readable = (i for i in known if contents.is_readable(archive, parts[i].entry))
    for i in itertools.islice(readable, SAMPLED):
        part = parts[i]
        size = min(part.size, SAMPLE_BYTES)
        begin = (part.size - size) // 2 // 16 * 16
        yield i, archive.read(part.entry, part.begin + begin, part.begin + begin + size)


def _histograms(samples: Sequence[tuple[Part, Bytes]]) -> Iterator[dict[str, Any]]:
    """Shares of the exponents by element type."""
    found: dict[str, npt.NDArray[np.int64]] = {}
    for part, sample in samples:
        exponents = _exponents(part.dtype, sample)
        if exponents is not None:
            counts = np.bincount(exponents, minlength=1)
            total = found.get(part.dtype, np.zeros(0, np.int64))
            longer = np.zeros(max(counts.size, total.size), np.int64)
            longer[: total.size] = total
            longer[: counts.size] += counts
            found[part.dtype] = longer
    for dtype, counts in sorted(found.items()):
        used = np.flatnonzero(counts)
        first = max(int(used[0]), int(used[-1]) - _BINS + 1)
        shares = counts[first : used[-1] + 1] / counts.sum()
        yield {"title": dtype, "first": first, "shares": [round(float(s), 6) for s in shares]}


def _exponents(dtype: str, sample: Bytes) -> npt.NDArray[np.int64] | None:
    """The exponents of numbers, None where these are no floats."""
    form = number_format(dtype)
    if form is None:
        return None
    words = sample[: sample.size - sample.size % form.size].view(f"<u{form.size}")
    kept = (words >> form.mantissa) & ((1 << form.exponent) - 1)
    return np.asarray(kept, np.int64)
