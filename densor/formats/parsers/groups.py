"""Which tensors of a file are coded together: small ones of a type, one behind the other."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np

from densor.codec.choose.sizes import GROUP, matrix_chunk
from densor.codec.kind import (
    Kind,
    kind_of,
    kind_of_array,
    kind_of_audio,
    kind_of_blocks,
    kind_of_image,
    kind_of_notation,
    kind_of_pages,
    kind_of_stream,
    kind_of_table,
    parts_of,
)
from densor.codec.levels import Level
from densor.codec.planes.analyse import MAX_RUN
from densor.dtypes import coding_of
from densor.float_formats import by_rows
from densor.formats.parsers.contents import Stretch
from densor.formats.tensor_table import TensorTable
from densor.formats.tensors import TensorInfo

# Tensors up to so many bytes are joined with neighbours of the same type: matrices and vectors, of
# which rows make good runs, and others, whose content differs more. Floats that are coded by rows
# join up to a chunk.
_MAX_JOINED_MATRIX = 1 << 19
_MAX_JOINED = 1 << 17
_MIN_RUN = 64
_MAX_JOINED_RUN = (
    1024  # elements of a run of tensors that are joined: small enough to tell them apart
)
_ELEMENTS = (None,) * 6  # what says of a stretch that it is more than elements or blocks


class Group(NamedTuple):
    """Stretches that are coded together, mostly one alone; `begin`, `end` in bytes of the file."""

    begin: int
    end: int
    kind: Callable[[], Kind]


def groups_of(stretches: Iterable[Stretch], level: Level) -> Iterator[Group]:
    """Stretches in order, one or more at a time; none is empty."""
    group: list[Stretch] = []
    for stretch in stretches:
        if group and not _joins(group, stretch, level):
            yield _group(group)
            group = []
        group.append(stretch)
    if group:
        yield _group(group)


def _group(group: list[Stretch]) -> Group:
    end = group[-1].offset + group[-1].size
    return Group(group[0].offset, end, partial(kind_of_group, group))


def _joins(group: list[Stretch], stretch: Stretch, level: Level) -> bool:
    last = group[-1]
    if stretch.offset != last.offset + last.size or stretch.dtype != last.dtype:
        return False
    if stretch.fields != last.fields or not _ELEMENTS == stretch[5:] == last[5:]:
        return False
    most, whole = _limits(stretch.dtype, stretch.shape, level, bool(stretch.fields))
    return stretch.size <= most and stretch.offset + stretch.size - group[0].offset <= whole


def _limits(
    dtype: str, shape: tuple[int, ...], level: Level, blocks: bool = False
) -> tuple[int, int]:
    """Bytes of a stretch that may join a group, and of the group, at most, which the type tells."""
    chunk = matrix_chunk(level)
    if chunk and by_rows(dtype) and not blocks:
        return _MAX_JOINED, chunk  # larger ones share tables all the same, by the history
    medium = _MAX_JOINED_MATRIX if level.classes > 1 else _MAX_JOINED
    return _MAX_JOINED if len(shape) > 2 else medium, GROUP


def groups_of_table(table: TensorTable, level: Level) -> Iterator[Group]:
    """Likewise, of tensors that do not overlap."""
    forms = [coding_of(form.dtype, form.shape) for form in table.forms]
    types = {dtype: number for number, (dtype, _) in enumerate(dict(forms).items())}
    sizes = table.sizes
    some = np.flatnonzero(sizes)
    form_of, begins, sizes = table.form_of[some], table.offsets[some], sizes[some]
    ends = begins + sizes
    limits = [_limits(dtype, shape, level) for dtype, shape in forms]
    most, whole = np.array(limits, np.int64).reshape(-1, 2)[form_of].T
    type_of = np.array([types[dtype] for dtype, _ in forms], np.int64)[form_of]
    apart = (begins[1:] != ends[:-1]) | (type_of[1:] != type_of[:-1]) | (sizes[1:] > most[1:])
    for first, last in pairwise([0, *(np.flatnonzero(apart) + 1).tolist(), some.size]):
        at = first
        while at < last:
            most_end = begins[at] + whole[first]
            stop = max(at + 1, first + int(ends[first:last].searchsorted(most_end, "right")))
            kind = partial(_kind_of_alike, forms, form_of[at:stop])
            yield Group(int(begins[at]), int(ends[stop - 1]), kind)
            at = stop


def _kind_of_alike(
    forms: list[tuple[str, tuple[int, ...]]], form_of: "np.ndarray[tuple[int], np.dtype[np.int64]]"
) -> Kind:
    """The kind of tensors of a type, which are coded as `forms` say."""
    dtype, shape = forms[form_of[0]]
    if form_of.size == 1:
        return kind_of_array(dtype, shape)
    numbers = form_of.tolist()
    used = {number: forms[number] for number in set(numbers)}
    parts = {number: parts_of(*form) for number, form in used.items()}
    shapes = [shape for _, shape in used.values()]
    of_all = chain.from_iterable(map(parts.__getitem__, numbers))
    return _kind_of_elements(dtype, shapes, tuple(of_all))


def _kind_of_elements(
    dtype: str, shapes: Collection[tuple[int, ...]], parts: tuple[tuple[int, int], ...]
) -> Kind:
    """Of tensors of these shapes: runs that end where they end."""
    run = math.gcd(*map(math.prod, shapes))
    if not _MIN_RUN <= run <= MAX_RUN:
        run = 4 * _MIN_RUN
    parts_of_run = range(-(-run // _MAX_JOINED_RUN), _MAX_JOINED_RUN)
    run = next((run // parts for parts in parts_of_run if run % parts == 0), run)
    return replace(kind_of(dtype, (2, run)), parts=parts)


def coded(stretch: Stretch) -> Stretch:
    """The stretch with the type and shape that its elements are coded in."""
    dtype, shape = coding_of(stretch.dtype, stretch.shape)
    return stretch if dtype == stretch.dtype else stretch._replace(dtype=dtype, shape=shape)


def kind_of_group(group: list[Stretch]) -> Kind:
    """One stretch's kind, or that of small ones in a row."""
    group = [coded(stretch) for stretch in group]
    first = group[0]
    shapes = {stretch.shape for stretch in group}
    if first.fields:
        row = math.gcd(*(shape[-1] if shape else 1 for shape in shapes))
        return kind_of_blocks(first.fields, row)
    if first.stream is not None:
        return kind_of_stream(first.stream)
    if first.pages is not None:
        return kind_of_pages(first.pages)
    if first.notation is not None:
        return kind_of_notation(first.notation)
    if first.table is not None:
        return kind_of_table(first.table)
    if first.audio is not None:
        return kind_of_audio(first.audio, first.size)
    if first.image is not None:
        return kind_of_image(first.image, first.size)
    if len(group) == 1:
        return kind_of_array(first.dtype, first.shape)
    parts = tuple(part for stretch in group for part in parts_of(stretch.dtype, stretch.shape))
    return _kind_of_elements(first.dtype, shapes, parts)


def kind_of_part(whole: Kind, group: list[TensorInfo]) -> Kind:
    """The kind of some of the tensors that make up a segment of a kind."""
    if whole.fields:
        return whole
    return kind_of_group([Stretch(t.offset, t.size, t.dtype, t.shape) for t in group])
