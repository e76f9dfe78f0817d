"""Arrays of numpy in a pickle of protocol 3 to 5, such as `.pdparams` files.

Nothing is unpickled: the machine of `torch_pickle` follows the calls by which numpy makes arrays
(`numpy/_core/src/multiarray/methods.c`, `array_reduce_ex`). In older protocols bytes are texts, in
which an array does not stand as it is.
"""

import contextlib
import math
from typing import Any

import numpy as np

from densor import dtypes
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
)
from densor.formats.parsers.torch_storages import contents_of
from densor.formats.parsers.zip_members import Member
from densor.formats.tensors import MAX_DIMENSIONS, c_strides

_PATIENCE = 1 << 15  # steps from one array to the next
_ORDERS = ("<", "|", "=")
_SAMPLE = 1 << 16  # bytes of integers that may be BF16
_MODULES = {
    f"numpy.{core}.{name}" for core in ("core", "_core") for name in ("multiarray", "numeric")
}


class _Type:
    """A dtype of numpy: that of elements, and whether they are little-endian."""

    def __init__(self, dtype: str | None) -> None:
        self.dtype = dtype
        self.little = True


class _Arrays(Machine):
    """A machine that knows arrays of numpy. `places`: of their elements, by key."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, Member] = {}
        self._left = _PATIENCE

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
        if module in _MODULES and name == "_reconstruct":
            made: Any = Node()
        elif module in _MODULES and name == "_frombuffer" and len(arguments) == 4:
            place, kind, shape, order = arguments
            made = self._array(place, kind, shape, order == "F")
        elif function == Global("numpy", "dtype") and arguments:
            made = _Type(_dtype(arguments[0]))
        elif name == "tuple" and module in ("builtins", "__builtin__") and len(arguments) == 1:
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
        elif isinstance(target, Node) and len(parts) == 5 and isinstance(parts[2], _Type):
            self.take(1)
            _, shape, kind, fortran, place = parts
            target.items = [("", self._array(place, kind, shape, fortran is True))]
        else:
            self.build(None)

    def _array(self, place: Any, kind: Any, shape: Any, fortran: bool) -> Any:
        """An array of what stands in one place, opaque where it cannot be that."""
        if not isinstance(place, Place) or not isinstance(kind, _Type):
            return Node()
        if type(shape) is not tuple or len(shape) > MAX_DIMENSIONS:
            return Node()
        if kind.dtype is None or not kind.little or not all(map(is_size, shape)):
            return Opaque(f"{kind.dtype or 'object'}{'' if kind.little else ' big-endian'}")
        if math.prod(shape) * dtypes.SIZES[kind.dtype] != place.size:
            return Opaque(kind.dtype)
        self._left = _PATIENCE
        key = str(place.at)
        self.places[key] = Member(key, place.at, place.size)
        self.storages[key] = kind.dtype
        strides = c_strides(shape[::-1])[::-1] if fortran else c_strides(shape)
        return Tensor(key, kind.dtype, 0, shape, strides)


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
    if head.random is None or len(first) < 2 or first[0] != 0x80 or not 3 <= first[1] <= 5:
        return None
    machine = _Arrays()
    names = Names()
    # Where the pickle breaks off nothing has a name, but the arrays up to there are what they are.
    with contextlib.suppress(FormatError):
        names.collect(machine.run(PickleFile(head.random, 0, head.random.size)), "", 0)
    if not machine.places:
        return None
    found = contents_of(machine.places, Found(names.found, machine.storages))
    words = [stretch for stretch in found.stretches if stretch.dtype == "U16"]
    if words and _are_bf16(head.random, max(words, key=lambda stretch: stretch.size)):
        stretches = [s._replace(dtype="BF16") if s.dtype == "U16" else s for s in found.stretches]
        return found._replace(stretches=stretches)
    return found


def _are_bf16(random: RandomSource, words: Stretch) -> bool:
    """Whether integers of 16 bits look like BF16, for which numpy has no type of its own."""
    size = min(_SAMPLE, words.size)
    begin = words.offset + (words.size - size) // 4 * 2
    sample = random.read_at(begin, size)
    found = find_stretches(sample)
    region = region_of(sample, found[0]) if len(found) == 1 else None
    return region is not None and region.kind.dtype == "BF16" and region.begin % 2 == 0
