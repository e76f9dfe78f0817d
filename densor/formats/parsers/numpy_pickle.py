"""Arrays of numpy in a pickle, such as `.pdparams` files, and others that have one within.

Nothing is unpickled: the machine of `torch_pickle` follows the calls by which numpy makes arrays
(`numpy/_core/src/multiarray/methods.c`, `array_reduce_ex`). Up to protocol 2, bytes are texts of
Latin-1 that Python 3 writes in UTF-8, while Python 2 has them as they are.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from densor import dtypes
from densor.codec.batch import Bytes
from densor.codec.notation.layout import LATIN, MAX_PLAIN, PLAIN, Notation
from densor.codec.types.find import find_stretches, region_of
from densor.errors import FormatError
from densor.formats.io.sources import RandomSource
from densor.formats.parsers.contents import Contents, Head, Stretch
from densor.formats.parsers.torch_pickle import (
    Found,
    Global,
    Machine,
    Names,
    Node,
    Opaque,
    PickleFile,
    Place,
    Tensor,
    is_size,
    within,
)
from densor.formats.parsers.torch_storages import contents_of
from densor.formats.parsers.zip_members import Member
from densor.formats.tensors import MAX_DIMENSIONS, c_strides

_PATIENCE = 1 << 15  # steps from one array to the next
_ORDERS = ("<", "|", "=")
_NUMPY = b"numpy"
_OLD = (b"c", b"(", b"}", b"]")  # instructions that a pickle may begin with
_FIRST = 1 << 12  # bytes in which the first array begins
_BLOCK = 1 << 20
_MIN_TEXT = 512  # bytes of a text that may be those of an array
_LAST = 64  # bytes at the end of a stretch, which has whole elements
_TEXTS = {  # what precedes texts, and whether they are bytes as they are
    "BINUNICODE": (5, False),
    "BINSTRING": (5, True),
}
_ENCODE = (Global("_codecs", "encode"), Global("codecs", "encode"))
_SAMPLE = 1 << 16  # bytes of integers that may be BF16
_CLASSES = ("ndarray", "matrix", "memmap")  # whose elements are all that they are
_MODULES = {
    f"numpy.{core}.{name}" for core in ("core", "_core") for name in ("multiarray", "numeric")
}


class _Text(NamedTuple):
    """Where a text stands in the file, in UTF-8."""

    at: int
    size: int


class _Type:
    """A dtype of numpy: that of elements, and whether they are little-endian."""

    def __init__(self, dtype: str | None) -> None:
        self.dtype = dtype
        self.little = True


class _Begun(Node):
    """An array that gets its elements later. `odd`: its class, where that is not numpy's own."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        name = kind.name if isinstance(kind, Global) else "subclass"
        own = isinstance(kind, Global) and kind.module.partition(".")[0] == "numpy"
        self.odd = "" if own and name in _CLASSES else name


class _Arrays(Machine):
    """A machine that knows arrays of numpy. `places`: of their elements, by key; `texts`: of those
    whose elements are a text; `arrays`: all, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.arrays: list[Tensor | Opaque] = []
        self.places: dict[str, Member] = {}
        self.texts: dict[_Text, Notation] = {}
        self._left = _PATIENCE

    def placed(self, name: str, argument: Any, at: int, end: int) -> Any:
        """Long texts, which may be bytes, by their places as well."""
        argument = super().placed(name, argument, at, end)
        if name not in _TEXTS or end - at < _MIN_TEXT:
            return argument
        size, raw = _TEXTS[name]
        place = Place(at + size, end - at - size)
        return place if raw else _Text(*place)

    def step(self, name: str, argument: Any) -> None:
        """Executes one instruction; FormatError where none makes an array for long."""
        self._left -= 1
        if self._left < 0:
            raise FormatError("pickle has no arrays")
        if name == "REDUCE":
            self._reduce()
        elif name == "BUILD":
            self._build()
        else:
            super().step(name, argument)

    def _reduce(self) -> None:
        function, arguments = self.stack[-2:]
        if not isinstance(function, Global) or type(arguments) is not tuple:
            self.reduce(None)
            return
        module, name = function
        if module in _MODULES and name == "_reconstruct" and arguments:
            made: Any = _Begun(arguments[0])
        elif module in _MODULES and name == "_frombuffer" and len(arguments) == 4:
            place, kind, shape, order = arguments
            made = self._array(place, kind, shape, order == "F")
        elif function == Global("numpy", "dtype") and arguments:
            made = _Type(_dtype(arguments[0]))
        elif arguments and _gives_its_argument(function, arguments):
            made = arguments[0]
        else:
            self.reduce(None)
            return
        self.take(2)
        self.push(made)

    def _build(self) -> None:
        target, state = self.stack[-2:]
        parts = state if type(state) is tuple else ()
        if isinstance(target, _Type):
            self.take(1)
            target.little = len(parts) > 1 and parts[1] in _ORDERS
        elif isinstance(target, Node) and len(parts) in (5, 7) and isinstance(parts[2], _Type):
            self.take(1)
            _, shape, kind, fortran, place = parts[:5]
            array = self._array(place, kind, shape, fortran is True)
            odd = "masked" if len(parts) == 7 else target.odd if isinstance(target, _Begun) else ""
            if odd and isinstance(array, Tensor | Opaque):  # more than an array
                array = Opaque(f"{array.dtype} {odd}", (array,))
            target.items = [("", array)]
        else:
            self.build(None)

    def _array(self, place: Any, kind: Any, shape: Any, fortran: bool) -> Any:
        """An array of what stands in one place, opaque where it cannot be that."""
        array = self._array_at(place, kind, shape, fortran)
        self.arrays += [array] if isinstance(array, Tensor | Opaque) else []
        return array

    def _array_at(self, place: Any, kind: Any, shape: Any, fortran: bool) -> Any:
        if isinstance(place, Node) and isinstance(kind, _Type):  # the objects in it
            if not any(within(place)):
                return Opaque("object")
            return place if shape != () else Node([("", place.items[0][1])])
        if not isinstance(place, Place | _Text) or not isinstance(kind, _Type):
            return Node()
        if type(shape) is not tuple or len(shape) > MAX_DIMENSIONS:
            return Node()
        if isinstance(place, _Text) and kind.dtype is not None and all(map(is_size, shape)):
            return self._text(place, kind.dtype, shape[::-1] if fortran else shape, kind.little)
        if kind.dtype is None or not kind.little or not all(map(is_size, shape)):
            return Opaque(f"{kind.dtype or 'object'}{'' if kind.little else ' big-endian'}")
        if math.prod(shape) * dtypes.SIZES[kind.dtype] != place.size:
            return Opaque(kind.dtype)
        self._left = _PATIENCE
        key = f"@{place.at}"  # unlike those of torch
        self.places[key] = Member(key, place.at, place.size)
        self.storages[key] = kind.dtype
        strides = c_strides(shape[::-1])[::-1] if fortran else c_strides(shape)
        return Tensor(key, kind.dtype, 0, shape, strides)

    def _text(self, text: _Text, dtype: str, shape: tuple[int, ...], little: bool) -> Opaque:
        """An array whose bytes are a text."""
        self._left = _PATIENCE
        if not little:
            dtype = f"U{8 * dtypes.SIZES[dtype]}" if dtype[0] != "C" else "U8"
        self.texts.setdefault(text, Notation(LATIN, PLAIN, dtype, shape))  # arrays may share one
        return Opaque(f"{dtype} text")


def _gives_its_argument(function: Global, arguments: tuple[Any, ...]) -> bool:
    """Whether a call makes a tuple of one, or bytes of a text."""
    if function.name == "tuple":
        return function.module in ("builtins", "__builtin__") and len(arguments) == 1
    return function in _ENCODE and isinstance(arguments[0], _Text)


def _dtype(name: Any) -> str | None:
    """The type that numpy's constructor is given: a letter and size, or a class of ml_dtypes."""
    if isinstance(name, Global) and name.module == "ml_dtypes":
        return dtypes.from_library(name.name)
    if type(name) is not str or name[:1] not in "biufc" or not name[1:].isdecimal():
        return None
    try:
        return dtypes.from_numpy(np.dtype(name[:4]))
    except TypeError:
        return None


def find(head: Head) -> Contents | None:
    """The arrays in a pickle that can be read at random; None if there are none."""
    first = head.first(2)
    if head.random is None or len(first) < 2:
        return None
    if first[:1] in _OLD:  # of protocol 1, which nothing else tells
        start = head.first(_FIRST)
        known = all(name in start for name in (_NUMPY, b"_reconstruct"))
    else:
        known = first[0] == 0x80 and 2 <= first[1] <= 5
    return arrays_in(head.random, 0, head.random.size) if known else None


def arrays_in(random: RandomSource, begin: int, end: int) -> Contents | None:
    """Likewise in a part of a file."""
    machine = _Arrays()
    names = Names()
    # Where the pickle breaks off nothing has a name, but the arrays up to there are what they are.
    with contextlib.suppress(FormatError):
        names.collect(machine.run(PickleFile(random, begin, end)), "", 0)
    if not machine.places and not machine.texts:
        return None
    names.collect_others(machine.arrays)
    others = {
        name: tensor
        for name, tensor in names.found.items()
        if isinstance(tensor, Opaque) or tensor.key in machine.places
    }
    found = contents_of(machine.places, Found(others, machine.storages))
    texts = [one for item in machine.texts.items() for one in _stretches(random, *item)]
    words = [one for one in texts if _are_words(one)]
    if words and _are_bf16(_sample_of_text(random, max(words, key=lambda stretch: stretch.size))):
        texts = [_as_bf16(stretch) if _are_words(stretch) else stretch for stretch in texts]
    words = [stretch for stretch in found.stretches if stretch.dtype == "U16"]
    if words and _are_bf16(_sample(random, max(words, key=lambda stretch: stretch.size))):
        stretches = [s._replace(dtype="BF16") if s.dtype == "U16" else s for s in found.stretches]
        found = found._replace(stretches=stretches)
    return found._replace(stretches=found.stretches + texts)


def with_arrays(found: Contents, random: RandomSource, begin: int, end: int) -> Contents:
    """What was found in a file, and the arrays in a pickle in it."""
    blocks = range(begin, end, _BLOCK)
    named = any(_names_arrays(random, at, min(at + _BLOCK, end)) for at in blocks)
    arrays = arrays_in(random, begin, end) if named else None
    if arrays is None:
        return found
    names = {tensor.name for tensor in (*found.tensors, *found.others)}
    tensors = [tensor for tensor in arrays.tensors if tensor.name not in names]
    others = [tensor for tensor in arrays.others if tensor.name not in names]
    return found._replace(
        tensors=found.tensors + tensors,
        stretches=found.stretches + arrays.stretches,
        others=found.others + others,
    )


def _names_arrays(random: RandomSource, begin: int, end: int) -> bool:
    """Whether a part of a pickle imports something of numpy."""
    part = random.read_at(begin, min(end + len(_NUMPY), random.size) - begin).tobytes()
    return _NUMPY in part


def _stretches(random: RandomSource, text: _Text, notation: Notation) -> Iterator[Stretch]:
    """A text in stretches that are coded together, each of whole elements."""
    at, end, unit = text.at, text.at + text.size, dtypes.SIZES[notation.dtype]
    while at < end:
        size = min(MAX_PLAIN, end - at)
        if size < end - at:
            bytes_ = random.read_at(at, size)
            leads = np.flatnonzero(bytes_[-_LAST:] >> 6 != 2) + size - _LAST
            before = np.count_nonzero(bytes_ >> 6 != 2)
            size = int(leads[-1 - (before - 1) % unit]) if leads.size > unit else size
        yield Stretch(at, size, "U8", (size,), notation=notation)
        at += size


def _sample(random: RandomSource, words: Stretch) -> Bytes:
    """Integers of 16 bits from the middle of some."""
    size = min(_SAMPLE, words.size)
    return random.read_at(words.offset + (words.size - size) // 4 * 2, size)


def _sample_of_text(random: RandomSource, words: Stretch) -> Bytes:
    """The first of those that are a text; none where it is no such text."""
    text = random.read_at(words.offset, min(_SAMPLE, words.size)).tobytes()
    with contextlib.suppress(UnicodeError):
        whole = text.decode("utf-8", "ignore").encode("latin-1")
        return np.frombuffer(whole[: len(whole) & ~1], np.uint8)
    return np.empty(0, np.uint8)


def _are_words(stretch: Stretch) -> bool:
    return stretch.notation is not None and stretch.notation.dtype == "U16"


def _as_bf16(stretch: Stretch) -> Stretch:
    assert stretch.notation is not None
    return stretch._replace(notation=stretch.notation._replace(dtype="BF16"))


def _are_bf16(sample: Bytes) -> bool:
    """Whether integers of 16 bits look like BF16, for which numpy has no type of its own."""
    found = find_stretches(sample)
    region = region_of(sample, found[0]) if len(found) == 1 else None
    return region is not None and region.kind.dtype == "BF16" and region.begin % 2 == 0
