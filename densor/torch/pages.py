"""Key-value caches as pages: each describes and checks itself, and is coded once.

A page holds some tokens of the keys or values of one layer, [batch, heads, tokens, channels]. New
tokens are kept plain until they fill a page, so that nothing old is coded again. See
docs/format/cache_page.md.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash

import densor
from densor.arrays import check_whole, describe
from densor.errors import (
    ArgumentError,
    ChecksumError,
    FormatError,
    TruncatedError,
    UnsupportedError,
)
from densor.float_formats import by_rows
from densor.formats.container.tensor_blob import pack_matrices
from densor.formats.io.outputs import errors_of
from densor.formats.io.urls import plain
from densor.options import WriteOptions
from densor.runtime.arguments import need, need_whole
from densor.torch import rotated, rotated_coding

MAGIC = b"\x89DPAGE\r\n"
VERSION = 1
DEFAULT_LEVEL = 3
DEFAULT_TOKENS = 1024
KEYS, VALUES = 0, 1
PLAIN, CHANNELS, SORTED, ROTATED = range(4)  # ways; SORTED is of former versions
_HEAD = struct.Struct("<8sHBBIQIIII")
_DIGEST = 16
_MAX_BYTES = 1 << 32
_MAX_FIRST = (1 << 64) - 1
_CHOSEN_FOR = 64  # pages
_MORE = 1.03
_STRETCHES, _MIN_STRETCH = 8, 1 << 15  # by one of so many a way is chosen, of so many bytes
_CLEARLY = 0.97  # of what the next way would take
_LIKE = 1.1  # times what a page takes that was expected to take more
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Page(NamedTuple):
    """What a page says of itself: `which`: 0 for keys, 1 for values; `first`: of its tokens."""

    which: int
    layer: int
    first: int
    tensor: torch.Tensor


def pack_page(page: Page, level: int = DEFAULT_LEVEL, rope_theta: float | None = None) -> bytes:
    """A page as bytes, the smallest of the ways that suit it.

    `page.tensor`: [batch, heads, tokens, channels] on a CPU. `rope_theta`: base of the rotary
    embedding, whose halves of channels belong together, which keys in BF16 are then relative to.
    """
    need(page, Page, "page")
    ways = (PLAIN, CHANNELS, ROTATED) if page.which == KEYS else (PLAIN,)
    coded = (_pack(page, level, rope_theta, way) for way in ways)
    return min((one for one in coded if one is not None), key=len)


def _pack(page: Page, level: int, rope_theta: float | None, way: int) -> bytes | None:
    """A page in one of the ways; None where that is not for it."""
    check_whole(page.tensor)
    tensor = page.tensor.detach().resolve_conj().resolve_neg().contiguous()
    if tensor.ndim != 4 or tensor.device.type != "cpu":
        raise ArgumentError("a page is [batch, heads, tokens, channels] on a CPU")
    if way == CHANNELS and not tensor.numel():
        return None
    shape = tuple(tensor.shape)
    head = _HEAD.pack(MAGIC, VERSION, page.which, way, page.layer, page.first, *shape)
    if way == ROTATED:
        body = None if rope_theta is None else _relative(tensor, page.first, rope_theta, head)
        if body is None:
            return None
    else:
        coded = _turned(tensor) if way == CHANNELS else tensor
        body = memoryview(head + _by_heads(coded, level))
    return b"".join((body, xxhash.xxh3_128(body).digest()))


def _by_heads(tensor: torch.Tensor, level: int) -> bytes:
    """An archive of a tensor whose last two dimensions are matrices with scales of their own."""
    meta, data = describe(tensor)
    assert meta.dtype is not None
    if not by_rows(meta.dtype):
        return densor.compress(tensor, level, 1)
    batch, heads, *shape = tensor.shape
    pieces = [(tuple(shape), 0, math.prod(shape))] * (batch * heads)
    return pack_matrices(meta, data, meta.dtype, pieces, WriteOptions(level=level, threads=1))


def _turned(tensor: torch.Tensor) -> torch.Tensor:
    """The last two dimensions exchanged. On one thread, as all else here: by numpy."""
    kind = _INTEGERS.get(tensor.itemsize)
    if kind is None:
        return tensor.transpose(2, 3).contiguous()
    bits = np.ascontiguousarray(tensor.view(kind).numpy().swapaxes(2, 3))
    return torch.from_numpy(bits).view(tensor.dtype)


def _relative(tensor: torch.Tensor, first: int, theta: float, head: bytes) -> memoryview | None:
    """The head, means, and keys coded relative to them; None where these are not for them."""
    batch, heads, tokens, channels = tensor.shape
    if tensor.dtype != torch.bfloat16 or tokens < 2:
        return None
    if not rotated.fits(batch * heads, tokens, channels, first):
        return None
    keys = tensor.reshape(batch * heads, tokens, channels)
    bits = np.require(keys.view(torch.int16).numpy().view(np.uint16), requirements=["A"])
    means = rotated.fit(bits, rotated.steps_of(theta, channels), first)
    if means is None:
        return None
    return rotated_coding.encode(bits, means, head + rotated.pack(means, tokens))


def unpack_page(data: Any) -> Page:
    """The page; a DensorError for what is not whole and sound."""
    view = memoryview(data)
    if len(view) < _HEAD.size + _DIGEST:
        raise TruncatedError("page of a cache is too short")
    magic, version, which, way, layer, first, *shape = _HEAD.unpack_from(view)
    if magic != MAGIC:
        raise FormatError("is no page of a cache")
    if xxhash.xxh3_128(view[:-_DIGEST]).digest() != bytes(view[-_DIGEST:]):
        raise ChecksumError("page of a cache was damaged")
    if version != VERSION or way > ROTATED:
        raise UnsupportedError("page of a cache needs a newer densor")
    if which > VALUES or np.prod(shape, dtype=object) * 8 > _MAX_BYTES:
        raise FormatError("page of a cache has impossible fields")
    body = view[_HEAD.size : -_DIGEST]
    if way >= SORTED:
        return Page(which, layer, first, _rotated_back(body, tuple(shape), way))
    try:
        tensor = densor.decompress(body, 1, max_output_size=_MAX_BYTES)
    except ArgumentError as error:  # of the data
        raise FormatError(str(error)) from error
    stored = tuple(shape) if way == PLAIN else (*shape[:2], shape[3], shape[2])
    if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != stored:
        raise FormatError("page of a cache holds something else than it says")
    back = tensor if way == PLAIN else _turned(tensor)
    return Page(which, layer, first, back)


def _rotated_back(body: memoryview, shape: tuple[int, ...], way: int) -> torch.Tensor:
    means, tokens, at = rotated.parse(body)
    rows, channels = means.means.shape
    if (shape[0] * shape[1], shape[2], shape[3]) != (rows, tokens, channels):
        raise FormatError("page of a cache has means of another shape")
    if way == SORTED:
        bits = _sorted_back(body[at:], means, tokens)
    else:
        bits = rotated_coding.decode(body[at:], means, tokens)
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).reshape(shape)


def _sorted_back(body: memoryview, means: rotated.Means, tokens: int) -> rotated.Bits:
    """BF16 bits, of the way of former versions."""
    size = means.means.size * tokens
    try:
        flat = densor.decompress(body, 1, max_output_size=2 * size)
    except ArgumentError as error:  # of the data
        raise FormatError(str(error)) from error
    sound = isinstance(flat, np.ndarray) and flat.dtype == np.uint16
    if not sound or flat.shape != (size,):
        raise FormatError("page of a cache holds something else than it says")
    return rotated.absolute(flat, means, tokens)


class Choice:
    """The way in which keys, or values, are packed: the smallest one for a stretch of a page.

    It is chosen anew after some pages, and where one takes clearly more than that one did.
    """

    def __init__(self) -> None:
        self._way, self._share, self._left = PLAIN, 0.0, 0

    def pack(self, page: Page, level: int, rope_theta: float | None) -> bytes:
        """The page, in that way."""
        self._left -= 1
        packed = _pack(page, level, rope_theta, self._way) if self._left > 0 else None
        lone = page.which == VALUES  # there is one way only
        if packed is None or (not lone and len(packed) > _MORE * self._share * page.tensor.nbytes):
            packed = self._chosen(page, level, rope_theta)
            self._way = _HEAD.unpack_from(packed)[3]
            self._share = len(packed) / max(page.tensor.nbytes, 1)
            self._left = _CHOSEN_FOR
        return packed

    @staticmethod
    def _chosen(page: Page, level: int, rope_theta: float | None) -> bytes:
        """In the way that a stretch of its tokens lets expect to be the smallest."""
        expected = _expected(page, level, rope_theta) if page.which == KEYS else {}
        if len(expected) > 1:
            way, other = sorted(expected, key=expected.__getitem__)[:2]
            if expected[way] < _CLEARLY * expected[other]:
                packed = _pack(page, level, rope_theta, way)
                if packed is not None and expected[way] / _LIKE <= len(packed) < expected[other]:
                    return packed
        return pack_page(page, level, rope_theta)


def _expected(page: Page, level: int, rope_theta: float | None) -> dict[int, float]:
    """About what a page of keys takes in each way, by tokens in its middle, of all heads: others
    may be unlike the first one. Nothing where these say too little."""
    if page.tensor.ndim != 4 or page.tensor.nbytes < _STRETCHES * _MIN_STRETCH:
        return {}
    batch, heads, tokens, channels = page.tensor.shape
    count = max(1, tokens // _STRETCHES)
    begin = (tokens - count) // 2
    part = page.tensor[:, :, begin : begin + count]
    middle = Page(KEYS, page.layer, min(page.first + begin, _MAX_FIRST), part)
    means = rotated.packed_size(batch * heads, channels)
    found = {}
    for way in (PLAIN, CHANNELS, ROTATED):
        packed = _pack(middle, level, rope_theta, way)
        if packed is not None:
            once = means if way == ROTATED else 0
            found[way] = once + (len(packed) - once) * tokens / count
    return found


class PagedCache:
    """Keys and values of all layers, packed in pages of `tokens` tokens as they arrive.

    In which way is tried with an eighth of the tokens of one page of keys out of 64, and where a
    page takes 3 % more than that one; with all tokens where that leaves it open.

    `folder`: where pages are kept; by default they are kept in memory. One cache uses it at a time.
    `rope_theta`: see `pack_page`. `level`: of packing.
    """

    def __init__(
        self,
        tokens: int = DEFAULT_TOKENS,
        level: int = DEFAULT_LEVEL,
        *,
        rope_theta: float | None = None,
        folder: str | Path | None = None,
    ) -> None:
        need_whole(tokens=tokens)
        if tokens < 1:
            raise ArgumentError("a page has at least one token")
        self._tokens, self._level, self._theta = tokens, level, rope_theta
        self._folder = None if folder is None else Path(plain(folder))
        self._pages: dict[tuple[int, int], list[bytes | Path]] = {}
        self._choices = Choice(), Choice()  # of keys, of values
        self._open: dict[tuple[int, int], torch.Tensor] = {}  # tokens that fill no page yet
        if self._folder is not None:
            with errors_of(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Adds tokens of a layer, [batch, heads, tokens, channels] each, on a CPU."""
        need_whole(layer=layer)
        if not 0 <= layer < 1 << 32:
            raise ArgumentError(f"layer must be 0 or more, not {layer}")
        need(keys, torch.Tensor, "keys")
        need(values, torch.Tensor, "values")
        if keys.ndim != 4 or values.ndim != 4 or keys.shape[:3] != values.shape[:3]:
            raise ArgumentError("keys and values are [batch, heads, tokens, channels]")
        for which, new in ((KEYS, keys), (VALUES, values)):
            place = layer, which
            before = self._open.get(place)
            if before is not None:
                kinds = {(t.dtype, t.shape[0], t.shape[1], t.shape[3]) for t in (before, new)}
                if len(kinds) > 1:
                    raise ArgumentError(f"layer {layer} has tokens of another form")
                new = torch.cat([before, new.detach()], 2)
            pages = self._pages.setdefault(place, [])
            while new.shape[2] >= self._tokens:
                part = new[:, :, : self._tokens]
                page = Page(which, layer, len(pages) * self._tokens, part)
                pages.append(self._put(place, len(pages), page))
                new = new[:, :, self._tokens :]
            self._open[place] = new.detach().clone()

    def layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all tokens of a layer."""
        found = []
        for which in (KEYS, VALUES):
            if (layer, which) not in self._open:
                raise ArgumentError(f"the cache has no layer {layer}")
            found.append(torch.cat([*self._decoded(layer, which), self._open[layer, which]], 2))
        return found[0], found[1]

    @property
    def packed_bytes(self) -> int:
        """Of all pages; tokens that fill none do not count."""
        pages = [page for pages in self._pages.values() for page in pages]
        return sum(len(p) if isinstance(p, bytes) else p.stat().st_size for p in pages)

    def _put(self, place: tuple[int, int], number: int, page: Page) -> bytes | Path:
        packed = self._choices[place[1]].pack(page, self._level, self._theta)
        if self._folder is None:
            return packed
        path = self._folder / f"{place[0]}-{'kv'[place[1]]}-{number}.page"
        with errors_of(path):
            path.write_bytes(packed)
        return path

    def _decoded(self, layer: int, which: int) -> Iterator[torch.Tensor]:
        for number, stored in enumerate(self._pages[layer, which]):
            if isinstance(stored, Path):
                with errors_of(stored):
                    data = stored.read_bytes()
            else:
                data = stored
            page = unpack_page(data)
            if page[:3] != (which, layer, number * self._tokens):
                raise FormatError("page of a cache is another one than was put there")
            yield page.tensor
