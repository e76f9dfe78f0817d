"""A tensor inside a file, and which names and shapes tensors may have."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from densor.dtypes import SIZES, is_known, nbytes
from densor.errors import FormatError

MAX_NAME = 4096
MAX_DIMENSIONS = 64
MAX_TYPE = 64  # characters of the name of a type that is not known here


class View(NamedTuple):
    """How the elements of a tensor are taken from the stretch of its file.

    `strides`: in elements, one per dimension, all at least 0; None where the elements follow each
    other in C order. `conj`, `neg`: the elements are conjugated, negated, after that.
    """

    strides: tuple[int, ...] | None = None
    conj: bool = False
    neg: bool = False


class TensorInfo(NamedTuple):
    """A tensor inside a file: `offset` and `size` in bytes of the file.

    With `view`, these bytes are not the tensor's own but what it is taken from.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int
    view: View | None = None

    @property
    def plain(self) -> bool:
        """Whether the bytes are those of the tensor, and of a type that is known."""
        return self.view is None and is_known(self.dtype)


def element_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor; FormatError for an unknown dtype, or where they are not whole."""
    if dtype != "VOID" and not is_known(dtype):
        raise FormatError(f"unknown dtype {dtype!r}; a newer densor may read this")
    size = nbytes(dtype, math.prod(shape))
    if size is None:
        raise FormatError(f"elements of {dtype} do not fill whole bytes")
    return size


def check_name(name: str) -> str:
    """`name` if it is valid UTF-8 of a sane length without NUL, else FormatError."""
    try:
        size = len(name) if name.isascii() else len(name.encode())
    except UnicodeEncodeError:
        raise FormatError(f"name is not valid Unicode: {name!r}") from None
    if size > MAX_NAME or "\0" in name:
        raise FormatError(f"bad name in archive: {name[:80]!r}")
    return name


def is_name(name: str) -> bool:
    """Whether a tensor may have this name."""
    try:
        return bool(check_name(name))
    except FormatError:
        return False


def are_names(names: Sequence[object]) -> bool:
    """Whether tensors may have these names, for sure: False also where that takes a closer look."""
    if not {str}.issuperset(map(type, names)):
        return False
    joined = "".join(names)  # type: ignore[arg-type]
    longest = max(map(len, names), default=0)  # type: ignore[arg-type]
    return joined.isascii() and "\0" not in joined and longest <= MAX_NAME and all(names)


class Distinct:
    """Names of which none is given twice: `w`, `w (2)`, `w (3)`."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._times: dict[str, int] = {}  # that a name was wanted again

    def of(self, wanted: str) -> str:
        """The name itself if it is free, else one made of it."""
        name = wanted
        while name in self._given:
            self._times[wanted] = self._times.get(wanted, 1) + 1
            name = f"{wanted} ({self._times[wanted]})"
        self._given.add(name)
        return name


def is_listable(tensor: TensorInfo) -> bool:
    """Whether an index can list this tensor of a file, which lies within the file, as it is."""
    name, dtype, shape, _, size, view = tensor
    return view is None and _listed_bytes(dtype, shape) == size and is_name(name)


@functools.lru_cache
def _listed_bytes(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bytes of a tensor; None where no index can list one of this type and shape as it is."""
    listable = is_known(dtype) and _is_shape(shape)
    return nbytes(dtype, math.prod(shape)) if listable else None


def _is_shape(shape: tuple[int, ...]) -> bool:
    if not shape:
        return True
    return len(shape) <= MAX_DIMENSIONS and min(shape) >= 0 and max(shape) < 1 << 63


def is_readable(tensor: TensorInfo) -> bool:
    """Whether a tensor of an index can be read: as it lies, or as a view."""
    return tensor.view is not None or is_listable(tensor._replace(name="-"))


def unreadable(tensor: TensorInfo) -> str:
    """What is said of a tensor that is not readable."""
    return f"{tensor.name!r} ({tensor.dtype}) can be restored with its file only"


def is_view(tensor: TensorInfo) -> bool:
    """Whether the view of a tensor lies within its stretch, and can be read."""
    view, item = tensor.view, SIZES.get(tensor.dtype)
    if view is None or item is None or not _is_shape(tensor.shape):
        return False
    strides = c_strides(tensor.shape) if view.strides is None else view.strides
    if len(strides) != len(tensor.shape) or any(stride < 0 for stride in strides):
        return False
    if (view.conj and tensor.dtype[0] != "C") or (view.neg and tensor.dtype[0] not in "CFBI"):
        return False
    return span(tensor.shape, strides) * item <= tensor.size


def c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a tensor in C order."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first of a strided tensor to its last."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def as_other(tensor: TensorInfo, inside: bool) -> TensorInfo:
    """A tensor as an index lists those that it cannot list as they are.

    What no index can hold is cut: parts of a name or shape, places that are not `inside` the file.
    """
    name = tensor.name.replace("\0", "\\0").encode(errors="replace")[:MAX_NAME]
    shape = tensor.shape if _is_shape(tensor.shape) else ()
    place = (tensor.offset, tensor.size) if inside else (0, 0)
    view = tensor.view if inside and is_view(tensor) else None
    dtype = tensor.dtype.encode(errors="replace").decode()[: MAX_TYPE - 8]
    if name.decode(errors="ignore") != tensor.name:
        dtype, view = f"{dtype} renamed", None  # not to be handed out by that name
    if tensor.view is not None and view is None:
        dtype = f"{dtype} view"  # one that cannot be followed
    return TensorInfo(name.decode(errors="ignore"), dtype or "?", shape, *place, view)
