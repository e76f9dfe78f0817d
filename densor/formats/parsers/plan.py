"""Cuts a file into segments: which stretch is coded as which kind of tensor, or as bytes."""

import functools
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from densor.codec.kind import BYTES, Segment, kind_of
from densor.codec.levels import DEFAULT_LEVEL, Level, level_settings
from densor.dtypes import SIZES, parse_dtype
from densor.errors import ArgumentError, FormatError, LimitError, TruncatedError
from densor.formats.io.sources import RandomSource, Source
from densor.formats.parsers.contents import Contents, Head, Stretch, plain
from densor.formats.parsers.groups import Group, coded, groups_of, groups_of_table
from densor.formats.parsers.raw import segments_of
from densor.formats.tensors import TensorInfo, as_other, is_listable
from densor.runtime.gc_pause import collection_paused


def _parser(module: str, name: str = "find") -> Callable[[Head], Contents | None]:
    """What a module calls so, which is imported when it is first asked: few files need many."""

    @functools.cache
    def parser() -> Callable[[Head], Contents | None]:
        found: Callable[[Head], Contents | None] = getattr(
            importlib.import_module(f"densor.formats.parsers.{module}"), name
        )
        return found

    def find(head: Head) -> Contents | None:
        return parser()(head)

    return find


def _table(name: str) -> Callable[[Head], Contents | None]:
    """Likewise what finds a table of one format."""

    @functools.cache
    def finder() -> Callable[[Head], Contents | None]:
        tabular = importlib.import_module("densor.formats.parsers.tabular")
        found: Callable[[Head], Contents | None] = tabular.find_of(name)
        return found

    def find(head: Head) -> Contents | None:
        return finder()(head)

    return find


# In the order in which they are tried; each begins with a look at the first bytes.
FORMATS: tuple[tuple[str, Callable[[Head], Contents | None]], ...] = (
    ("safetensors", _parser("safetensors")),
    ("gguf", _parser("gguf")),
    ("npy", _parser("npy")),
    ("npz", _parser("npy", "find_npz")),
    ("torch", _parser("torch_zip")),
    ("torch-legacy", _parser("torch_legacy")),
    ("ctranslate2", _parser("ctranslate2")),
    ("msgpack", _parser("msgpack")),
    ("pickle", _parser("numpy_pickle")),
    ("onnx", _parser("onnx")),
    ("netpbm", _parser("netpbm")),
    ("bmp", _parser("bmp")),
    ("idx", _parser("idx")),
    ("tiff", _parser("tiff")),
    ("arrow", _parser("arrow")),
    ("parquet", _parser("parquet")),
    ("wav", _parser("riff")),
    ("aiff", _parser("aiff")),
    ("au", _parser("au")),
    ("flac", _parser("flac")),
    ("png", _parser("png")),
    ("gzip", _parser("gzip")),
    ("zip", _parser("zip_members")),
    ("base64", _parser("base64_text")),
    ("jsonl", _table("jsonl")),
    ("fixed-width", _table("fixed-width")),
    ("csv", _table("csv")),
)

# By their first bytes, with which no other format of these begins: asked before all others.
_SOUND = {b"RIFF": "wav", b"RF64": "wav", b"BW64": "wav", b"FORM": "aiff", b".snd": "au"}

_MIN_SEGMENT = 2048  # bytes between other bytes that are worth frames of their own


class Plan(NamedTuple):
    """A file about to be packed. `source` stands again at the first byte.

    `others`: tensors that cannot be read as they lie, which are to be listed all the same.
    """

    format: str | None
    source: Source
    segments: list[Segment]
    tensors: Sequence[TensorInfo]
    others: list[TensorInfo] = []  # noqa: RUF012
    lossy: bool = False  # whether the file says that it only approximates another
    given_up: Sequence[str] = ()  # formats that it begins as and could not be followed in, and why

    @property
    def listed(self) -> Sequence[TensorInfo]:
        """All that an index is to list."""
        return [*self.tensors, *self.others] if self.others else self.tensors


def plan_file(
    source: Source,
    size: int | None,
    dtype: str | None = None,
    level: int = DEFAULT_LEVEL,
    *,
    random: RandomSource | None = None,
    name: str = "array",
    told: list[TensorInfo] | None = None,
    raw: str | None = None,
) -> Plan:
    """Looks at the start of a file. `size` in bytes, None if unknown; `dtype` as told by the user.

    With `dtype`, all bytes are elements of that type, with `raw` samples (`raw.py`). Otherwise a
    file of a known format is taken apart, and everything else is bytes. Where `level` has one class
    per plane, only small tensors share chunks. `random`: the same file for formats that need not be
    read in order, whose reading must not move `source`. `name`: what the array in a .npy file is
    called.
    `told`: the tensors in it, where another file tells them.
    """
    if raw is not None:
        if dtype is not None:
            raise ArgumentError("samples of sound or images have no dtype beside that")
        return Plan(None, source, segments_of(raw, size), [])
    if dtype is not None:
        kind_name = parse_dtype(dtype)
        whole = (size or 0) // SIZES[kind_name] * SIZES[kind_name]
        kind = kind_of(kind_name, (whole,))
        segments = [Segment(kind, whole), Segment(BYTES, None)] if whole else [Segment(kind, None)]
        return Plan(None, source, segments, [])
    head = Head(source, size, random, name)
    formats = _likely(head)
    if told is not None:  # but by safetensors files, which tell of their own
        formats = (FORMATS[0], ("onnx-data", lambda head: plain(told)))
    given_up: list[str] = []
    with collection_paused():
        for format_name, find in formats:
            try:
                contents = _sound(find, head)
            except (FormatError, LimitError, TruncatedError) as error:
                given_up.append(f"{format_name}: {error}")
                continue
            if contents is not None:
                plan = plan_contents(format_name, contents, head.rewound(), level)
                return plan._replace(given_up=given_up)
    return Plan(None, head.rewound(), [Segment(BYTES, None)], [], given_up=given_up)


def _likely(head: Head) -> Iterable[tuple[str, Callable[[Head], Contents | None]]]:
    """The formats, that of the first bytes before all others."""
    first = _SOUND.get(head.first(4))
    return FORMATS if first is None else sorted(FORMATS, key=lambda one: one[0] != first)


def plan_contents(name: str, contents: Contents, source: Source, level: int) -> Plan:
    """The plan of a file of the format `name` whose contents are known and sound: all within the
    file, of types that are known, stretches in order."""
    with collection_paused():
        settings = level_settings(level)
        table = contents.table
        if table is not None:
            groups = groups_of_table(table, settings)
        else:
            stretches = (coded(s) for s in contents.stretches if s.size and _is_undone(s, settings))
            groups = groups_of(stretches, settings)
        segments = list(_segments(list(groups)))
    tensors = contents.tensors if table is None else table
    return Plan(name, source, segments, tensors, contents.others, contents.lossy)


def _sound(find: Callable[[Head], Contents | None], head: Head) -> Contents | None:
    """What a parser finds in a file, without what cannot be true; stretches by offset.

    Of stretches that overlap, the later one is given up; of one that reaches beyond the end of the
    file, what does. A tensor that cannot be read is listed among the others.
    """
    contents = find(head)
    if contents is None or contents.table is not None:
        return contents
    end = 0
    stretches: list[Stretch] = []
    for stretch in sorted(coded(s) for s in contents.stretches if s.size > 0 and s.offset >= 0):
        stretch = _within(stretch, head.size)
        if stretch.offset >= end and stretch.size:
            stretches.append(stretch)
            end = stretch.offset + stretch.size
    listed, others = _listed(contents, head.size)
    return Contents(listed, stretches, others, contents.lossy)


def _within(stretch: Stretch, size: int | None) -> Stretch:
    """The part of a stretch that a file of this size has: whole elements, blocks or rows."""
    if size is None or stretch.offset + stretch.size <= size:
        return stretch
    unit = sum(field.size for field in stretch.fields) or SIZES[stretch.dtype]
    rows = stretch.audio or stretch.image
    unit = unit if rows is None else rows.stride
    return stretch._replace(size=max(0, size - stretch.offset) // unit * unit)


def _listed(contents: Contents, size: int | None) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """The tensors that an index can list as what they are, and all others that have names.

    Of two of the same name the later one counts, but something is listed for every name.
    """
    tensors: dict[str, TensorInfo] = {}
    others: dict[str, TensorInfo] = {}
    found = sorted(contents.tensors + contents.others, key=lambda t: (t.offset, t.size))
    for tensor in found:
        inside = size is None or tensor.offset + tensor.size <= size
        if inside and is_listable(tensor):
            tensors[tensor.name] = tensor
        else:
            tensor = as_other(tensor, inside)
            others[tensor.name] = tensor
    return list(tensors.values()), [t for name, t in others.items() if name not in tensors]


def _segments(groups: list[Group]) -> Iterator[Segment]:
    """Header, groups and whatever lies between and behind them, in order."""
    at = 0
    for i, (begin, end, kind) in enumerate(groups):
        apart = begin > at or i + 1 == len(groups) or groups[i + 1].begin > end
        if end - begin < _MIN_SEGMENT and apart:
            continue  # goes with the bytes beside it
        if begin > at:
            yield Segment(BYTES, begin - at)
        yield Segment(kind(), end - begin)
        at = end
    yield Segment(BYTES, None)


def _is_undone(stretch: Stretch, level: Level) -> bool:
    """Whether a level takes a stretch for what it is, which all but streams are."""
    stream = stretch.stream
    return stream is None or level.streams == "all" or (stream.row > 0 and level.streams != "none")
