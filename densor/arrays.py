"""Arrays and torch tensors to bytes and back, whatever their order, layout and dtype."""

import math
import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from densor import dtypes
from densor.errors import ArgumentError, FormatError, LimitError
from densor.formats.container import strictjson
from densor.formats.container.entry import ARRAY, EntryMeta
from densor.formats.io.sources import Bytes, as_bytes
from densor.formats.tensor_table import Form, TensorTable
from densor.formats.tensors import MAX_DIMENSIONS, TensorInfo, c_strides, is_view, span

_NOTHING = np.empty(0, np.uint8)
_PAIRS = ("C32", "BC32", "C64", "C128")  # elements of two numbers
_FEW = 4  # arrays one behind the other, from which they are made together
_SAME_IN_TORCH = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U8")
_MAX_COPIES = 4  # of each byte of a stretch, where a view repeats them
_MAX_FREE_COPY = 1 << 20  # bytes that a view may always have
_NUMBERS = (int, float, complex, bool)  # which lists are looked through fast


def is_torch(thing: object) -> bool:
    """Whether `thing` is a torch tensor; does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.Tensor)


def describe(thing: Any, dtype: str | None = None) -> tuple[EntryMeta, Bytes]:
    """The entry for an ndarray or torch tensor, and its bytes: little-endian, contiguous.

    `dtype`: take the bits of the elements, of the same size, as another type.
    """
    check_whole(thing)
    if is_torch(thing):
        return _describe_torch(thing, dtype)
    if isinstance(thing, str | bytes) or _is_storage(thing):
        raise ArgumentError(f"cannot compress a {_full_name(type(thing))} as an array")
    try:
        array = np.asarray(thing)
    except (TypeError, ValueError, RuntimeError) as error:  # such as a list of rows of any length
        raise ArgumentError(f"cannot compress a {_full_name(type(thing))}: {error}") from None
    return _describe_numpy(array, dtype)


def _is_storage(thing: object) -> bool:
    """Whether this is the memory of torch tensors, which numpy takes for a list of numbers."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.UntypedStorage | torch.TypedStorage)


def plain_type(thing: Any) -> str | None:
    """The type of an ndarray of native numbers that lies in C order and has some, as most do.

    None for all else, which `describe` has more to say of.
    """
    if type(thing) is not np.ndarray or not thing.flags.c_contiguous or not thing.nbytes:
        return None
    dtype = thing.dtype
    return dtypes.from_numpy(dtype) if dtype.isnative else None


def check_whole(thing: Any, depth: int = 0) -> None:
    """ArgumentError for an array or tensor that is more than its elements, dtype and shape.

    A mask, labels, units, or the parts that a wrapper subclass is made of would be lost; within
    lists too, `depth` of which are around `thing`.
    """
    kind = type(thing)
    if kind is np.ndarray:  # as most, of which there may be many
        return
    if is_torch(thing):
        _check_torch(thing)
    elif isinstance(thing, np.ndarray):
        if kind not in (np.memmap, np.matrix):  # of the same meaning
            raise ArgumentError(
                f"cannot compress a {_full_name(kind)}, only the plain arrays that it is made of"
            )
    elif isinstance(thing, list | tuple):
        if depth > MAX_DIMENSIONS:
            raise ArgumentError(f"cannot compress a {_full_name(kind)} of so many dimensions")
        for item in thing:
            if type(item) not in _NUMBERS:
                check_whole(item, depth + 1)
    elif _is_labelled(thing):
        raise ArgumentError(f"cannot compress a {_full_name(kind)}: give its array")


def _is_labelled(thing: Any) -> bool:
    """Whether this can be made an array and is none: arrays of all libraries have `__dlpack__`."""
    array_like = hasattr(thing, "__array__") or hasattr(thing, "__array_interface__")
    return array_like and not isinstance(thing, np.generic) and not hasattr(thing, "__dlpack__")


def _check_torch(tensor: Any) -> None:
    import torch

    kind = type(tensor)
    if kind not in (torch.Tensor, torch.nn.Parameter):
        raise ArgumentError(
            f"cannot compress a {_full_name(kind)}, only the plain tensors that it is made of"
        )
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    if tensor.device.type not in ("lazy", "xla"):  # where all are such, and hold their values
        wrapped = wrapped or torch._is_functional_tensor(tensor)
    if wrapped or any(name is not None for name in getattr(tensor, "names", ())):
        what = "inside a transformation" if wrapped else "with named dimensions"
        raise ArgumentError(f"cannot compress a torch tensor {what}")
    plain = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_nested
    if not plain or dtypes.from_torch(tensor.dtype) is None:
        nested = "nested, " if tensor.is_nested else ""
        kinds = f"{nested}{tensor.dtype}, {tensor.layout}, {tensor.device}"
        raise ArgumentError(f"cannot compress a torch tensor of {kinds}")


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _describe_torch(tensor: Any, dtype: str | None) -> tuple[EntryMeta, Bytes]:
    import torch

    name = dtypes.from_torch(tensor.dtype)
    shape = tuple(int(size) for size in tensor.shape)
    try:
        check_memory(tensor)
        flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
    except (RuntimeError, NotImplementedError) as error:  # one without memory of its own
        raise ArgumentError(f"cannot compress a torch tensor: {error}") from None
    meta = EntryMeta("", ARRAY, data.size, name, shape, "C", "torch")
    return _retyped(meta, dtype), data


def check_memory(tensor: Any) -> None:
    """ArgumentError for a tensor whose memory was given back, as sharded trainings do."""
    end = tensor.storage_offset() + span(tuple(tensor.shape), tensor.stride())
    if tensor.numel() and end * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ArgumentError("the memory of a torch tensor was freed")


def _describe_numpy(array: "np.ndarray[Any, Any]", dtype: str | None) -> tuple[EntryMeta, Bytes]:
    if array.dtype.hasobject:
        raise ArgumentError("cannot compress an array of Python objects")
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    name = dtypes.from_numpy(array.dtype)
    descr: Any = None
    if name is None:
        name, descr = "VOID", _description(array.dtype)
    elif not array.dtype.isnative:
        descr = array.dtype.str
        if np.dtype(descr) != array.dtype:  # of another package, which has no such name
            raise ArgumentError(f"cannot compress an array of dtype {array.dtype}, swapped")
        array = array.astype(array.dtype.newbyteorder("="))
    shape = tuple(int(size) for size in array.shape)
    flat = array.reshape(-1, order="F" if order == "F" else "C")
    data = np.ascontiguousarray(flat).view(np.uint8) if flat.nbytes else np.empty(0, np.uint8)
    meta = EntryMeta("", ARRAY, data.size, name, shape, order, "numpy", descr)
    return _retyped(meta, dtype), data


def _description(dtype: "np.dtype[Any]") -> Any:
    """The numpy description of an unusual dtype; ArgumentError where that does not tell all."""
    try:
        descr = np.lib.format.dtype_to_descr(dtype)
        text = strictjson.dumps({"descr": descr})
        if _described(strictjson.loads(text, "description")["descr"]) == dtype:
            return descr
    except (ValueError, TypeError, FormatError):  # overlapping fields, types of other packages
        pass
    raise ArgumentError(f"cannot compress an array of dtype {dtype}")


def _retyped(meta: EntryMeta, dtype: str | None) -> EntryMeta:
    """For the codec's benefit only: the array comes back with its own type."""
    if dtype is not None and dtypes.SIZES[dtype] != dtypes.SIZES[meta.dtype or ""]:
        raise ArgumentError(f"elements of {meta.dtype} cannot be taken as {dtype}")
    return meta


def restore(meta: EntryMeta, data: Bytes) -> Any:
    """The array or tensor that an ARRAY entry stands for; `data` becomes its memory."""
    assert meta.dtype is not None and meta.shape is not None
    if meta.host == "torch":
        return to_torch(meta.dtype, meta.shape, data)
    if meta.dtype == "VOID":
        wanted = _described(meta.descr)
        if wanted.itemsize * int(np.prod(meta.shape, dtype=object)) != data.size:
            raise FormatError("array does not fit its description")
    else:
        wanted = dtypes.to_numpy(meta.dtype)
    array = _view(data, wanted, meta.shape)
    array = array.reshape(meta.shape, order="F" if meta.order == "F" else "C")
    if meta.dtype != "VOID" and meta.descr is not None:
        swapped = _described(meta.descr)
        if dtypes.from_numpy(swapped) != meta.dtype:
            raise FormatError("array does not fit its description")
        array = array.astype(swapped)
    return array


def _view(data: Bytes, dtype: "np.dtype[Any]", shape: tuple[int, ...]) -> "np.ndarray[Any, Any]":
    _check_shape(shape, dtype.itemsize)
    if data.size:
        return data.view(dtype)
    return np.empty(int(np.prod(shape, dtype=object)), dtype)


def _check_shape(shape: tuple[int, ...], itemsize: int) -> None:
    """Refuses empty arrays whose other dimensions no library can represent."""
    if math.prod(max(size, 1) for size in shape) * max(itemsize, 1) >= 1 << 63:
        raise FormatError("array has an impossible shape")


def _described(descr: Any) -> "np.dtype[Any]":
    try:
        dtype = np.lib.format.descr_to_dtype(_tuples(descr))
    except (TypeError, ValueError, KeyError, RecursionError, SyntaxError, IndexError) as error:
        raise FormatError(f"array has a malformed description: {error}") from None
    if dtype.hasobject:
        raise FormatError("array of Python objects in an archive")
    if dtype.subdtype is not None:
        raise FormatError("array has the description of an array within an array")
    return dtype


def _tuples(descr: Any, inner: bool = False) -> Any:
    """JSON has lists where numpy wants tuples: fields are tuples, the list of them is not."""
    if not isinstance(descr, list):
        return descr
    if descr and isinstance(descr[0], list):
        fields = []
        for field in descr:
            if not isinstance(field, list) or not 2 <= len(field) <= 3:
                raise ValueError("malformed field")
            name = tuple(field[0]) if isinstance(field[0], list) else field[0]
            shape = (tuple(field[2]),) if len(field) == 3 else ()
            fields.append((name, _tuples(field[1]), *shape))
        return fields
    return tuple(_tuples(item) if i == 0 else _shape(item) for i, item in enumerate(descr))


def _shape(item: Any) -> Any:
    return tuple(item) if isinstance(item, list) else item


def viewed(info: TensorInfo, data: Bytes) -> Bytes:
    """The bytes of a tensor, in C order, from those of the stretch that it is a view of.

    LimitError where many elements stand for each one that is there.
    """
    assert info.view is not None and is_view(info)
    item = dtypes.SIZES[info.dtype]
    strides = c_strides(info.shape) if info.view.strides is None else info.view.strides
    if math.prod(info.shape) * item > _MAX_COPIES * info.size + _MAX_FREE_COPY:
        raise LimitError(f"{info.name}: repeats its elements too often")
    whole = data[: data.size // item * item].view(f"V{item}")
    if 0 in info.shape:
        return np.empty(0, np.uint8)
    steps = tuple(stride * item for stride in strides)
    taken = np.lib.stride_tricks.as_strided(whole, info.shape, steps, writeable=False)
    found = np.array(taken, order="C").reshape(-1).view(np.uint8)
    if info.view.neg:
        _negate(found, info.dtype, slice(None))
    if info.view.conj:
        _negate(found, info.dtype, slice(1, None, 2))
    return found


def _negate(data: Bytes, dtype: str, which: slice) -> None:
    """Negates all numbers, or every second one, in place: of floats just the sign changes."""
    size = dtypes.SIZES[dtype] // (2 if dtype in _PAIRS else 1)
    numbers = data.view(f"<u{size}")
    if dtype[0] == "I":
        numbers[which] = ~numbers[which] + np.ones(1, numbers.dtype)
    else:
        numbers[which] ^= np.array(1 << (8 * size - 1), numbers.dtype)


def memory_of(out: Any, size: int) -> Bytes:
    """The bytes of a writable contiguous array, tensor in main memory or buffer of just `size`
    bytes; ArgumentError for anything else."""
    try:
        check_whole(out)
    except ArgumentError:  # its elements may not be where its memory is
        raise ArgumentError(f"out must be a plain array or tensor, not {type(out)}") from None
    if is_torch(out):
        lazy = out.is_conj() or out.is_neg()
        if lazy or not out.is_contiguous() or out.device.type != "cpu" or out.nbytes != size:
            raise ArgumentError(f"out must be a contiguous tensor of {size} bytes")
        check_memory(out)
        import torch

        found: Bytes = out.detach().reshape(-1).view(torch.uint8).numpy() if size else _NOTHING
        return found
    if isinstance(out, np.ndarray):  # not every dtype has a buffer
        fits = out.flags.writeable and out.flags.c_contiguous and out.nbytes == size
    else:
        try:
            view = memoryview(out)
        except TypeError as error:
            raise ArgumentError(f"out must be a buffer: {error}") from None
        fits = not view.readonly and view.c_contiguous and view.nbytes == size
    if not fits:
        raise ArgumentError(f"out must be a writable contiguous buffer of {size} bytes")
    return as_bytes(out)


def to_numpy(dtype: str, shape: tuple[int, ...], data: Bytes) -> "np.ndarray[Any, Any]":
    """An ndarray over `data`; BF16 and FP8 as in `dtypes.to_numpy`.

    Packed elements, such as F4, come as bytes: the last dimension is in bytes then.
    """
    shape = dtypes.in_bytes(dtype, shape) if dtype in dtypes.PACKED else shape
    return _view(data, dtypes.to_numpy(dtype), shape).reshape(shape)


def to_torch(dtype: str, shape: tuple[int, ...], data: Bytes) -> Any:
    """A torch tensor over `data`; packed elements as for `to_numpy`, but F4 two in one."""
    try:
        import torch
    except ImportError:
        from densor.errors import UnsupportedError

        raise UnsupportedError("this is a torch tensor: pip install densor[torch]") from None
    dtype, shape = dtypes.for_torch(dtype, shape)
    wanted = dtypes.to_torch(dtype)
    _check_shape(shape, dtypes.SIZES[dtype])
    if not data.size:
        return torch.empty(shape, dtype=wanted)
    return torch.from_numpy(data).view(wanted).reshape(shape)


def of_table(table: TensorTable, data: Bytes, torch: bool) -> list[Any]:
    """The tensors of a table over the bytes of its file, as arrays or torch tensors.

    None for those that take a closer look: without elements or dimensions, of packed elements, or
    where their elements may not stand.
    """
    if not len(table):
        return []
    carriers = [_carrier(form, torch) for form in table.forms]
    of, offsets, ends = table.form_of, table.offsets, table.offsets + table.sizes
    borders = 1 + np.flatnonzero((of[1:] != of[:-1]) | (offsets[1:] != ends[:-1]))
    numbers, places = of.tolist(), offsets.tolist()
    found: list[Any] = []
    for first, last in pairwise([0, *borders.tolist(), len(table)]):
        (dtype, shape, size), carrier = table.forms[numbers[first]], carriers[numbers[first]]
        if carrier is None or places[first] % carrier.itemsize:
            found += [None] * (last - first)
            continue
        if last - first < _FEW or len(shape) == MAX_DIMENSIONS:  # which rows have one more than
            some = [np.ndarray(shape, carrier, data, place) for place in places[first:last]]
        else:
            begin = places[first]
            part = data[begin : begin + (last - first) * size]
            some = list(part.view(carrier).reshape(-1, *shape))
        found += _as_torch(dtype, some) if torch else some
    return found


def _carrier(form: Form, torch: bool) -> "np.dtype[Any] | None":
    """The dtype of arrays over tensors of a form; None for those that take a closer look.

    Torch tensors are made from these arrays, by a change of type where it has another name for it.
    """
    size = dtypes.SIZES.get(form.dtype, 0)
    if not form.size or not form.shape or form.dtype == "VOID" or size not in (1, 2, 4, 8):
        return None
    if torch and form.dtype not in _SAME_IN_TORCH:
        return np.dtype(f"i{size}")
    return dtypes.to_numpy(form.dtype)


def _as_torch(dtype: str, some: list["np.ndarray[Any, Any]"]) -> list[Any]:
    import torch

    tensors = list(map(torch.from_numpy, some))
    if dtype in _SAME_IN_TORCH:
        return tensors
    wanted = dtypes.to_torch(dtype)
    return [tensor.view(wanted) for tensor in tensors]


def check_named(tensors: object) -> None:
    """ArgumentError unless tensors come by name."""
    if not isinstance(tensors, Mapping) and not hasattr(tensors, "items"):  # as ParameterDict has
        raise ArgumentError(f"tensors must come by name, not in a {type(tensors).__name__}")
