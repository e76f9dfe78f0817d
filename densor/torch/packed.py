"""A tensor whose elements stay packed: shape, dtype and autograd as usual, decoded where used.

`PackedTensor` is a wrapper subclass of `torch.Tensor`. Its packed elements are in main memory, or
in that of a device. Every operation on one decodes them into memory that is freed with it, so that
autograd, which saves the wrapper for the backward pass, does not keep decoded weights alive but
decodes them again. Views share the packed elements; writing in place packs them anew.
"""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_map_only

import densor
from densor import dtypes
from densor.errors import ArgumentError, ChecksumError
from densor.formats.container.packed_array import PackedArray, run_all
from densor.formats.io.sources import Bytes
from densor.runtime.workers import Workers
from densor.torch.device import Device, DeviceArray

DEFAULT_LEVEL = 1  # decodes fastest, and takes just .002 more of BF16 weights than level 3

_MAX_ONE_THREAD = 1 << 20  # bytes that one thread packs before others have woken up

F = TypeVar("F", bound=Callable[..., Any])


def outside_graphs(function: F) -> F:
    """What `torch.compile` shall call, but not look into: decoding is no graph of tensors."""
    wrapped: F = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return wrapped


def bytes_of(tensor: torch.Tensor) -> Bytes:
    """The memory of a contiguous tensor in main memory, as uint8."""
    if not tensor.numel():
        return np.empty(0, np.uint8)
    flat: Bytes = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return flat


def tensor_over(data: Bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor whose memory is `data`."""
    if not data.size:
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(data).view(dtype).view(shape)


def can_pack(tensor: torch.Tensor) -> bool:
    """Whether a tensor can stay packed: a plain one, in main memory, contiguous."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and not tensor.is_conj()
        and not tensor.is_neg()
        and dtypes.from_torch(tensor.dtype) is not None
    )


def _nothing() -> None:
    return None


class Cell:
    """The packed elements that a tensor and its views share.

    `packed` is never changed but replaced. `plain`: the decoded elements while some threads keep
    them at hand, as the hooks of a resident block do during its forward pass; `dirty` if they were
    written to. Other threads decode for themselves: that memory may be gone at any time.
    """

    def __init__(
        self, packed: PackedArray | DeviceArray, level: int = DEFAULT_LEVEL, threads: int = 0
    ) -> None:
        self.packed = packed
        self.level = level
        self.threads = threads
        self.plain: torch.Tensor | None = None
        self.dirty = False
        self._holders: Collection[int] = ()
        self.shown: Callable[[], torch.Tensor | None] = _nothing  # what a state_dict got last
        self.dtype: torch.dtype = dtypes.to_torch(packed.dtype)
        self.shape = packed.shape

    def __getstate__(self) -> dict[str, Any]:
        return {"packed": self.packed, "level": self.level, "threads": self.threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def on(self) -> Device | None:
        """The device that has the packed elements, None for main memory."""
        return self.packed.device if isinstance(self.packed, DeviceArray) else None

    @property
    def place(self) -> torch.device:
        """The device of the decoded elements."""
        return torch.device("cpu") if self.on is None else self.on.place

    def copy(self) -> "Cell":
        """One that can be written to by itself; the packed elements are shared until then."""
        return Cell(self.packed, self.level, self.threads)

    def hold(self, plain: torch.Tensor, holders: Collection[int]) -> None:
        """Keeps the decoded elements at hand until `release`, for these threads."""
        self.plain = plain
        self.dirty = False
        self._holders = holders
        self._version = _version(plain)

    def release(self) -> None:
        """Lets the decoded elements go; packs them first if they were written to."""
        plain, self.plain = self.plain, None
        if plain is not None and (self.dirty or _version(plain) != self._version):
            self.store(plain)

    def at_hand(self) -> torch.Tensor | None:
        """The decoded elements if this thread keeps them at hand."""
        return self.plain if threading.get_ident() in self._holders else None

    def value(self) -> torch.Tensor:
        """The elements, in memory of their own unless they are at hand."""
        plain = self.at_hand()
        return self.decode() if plain is None else plain

    def decode(self) -> torch.Tensor:
        """The elements in fresh memory."""
        if isinstance(self.packed, DeviceArray):
            return self.packed.decode()
        data = np.empty(self.packed.size, np.uint8)
        self.packed.decode_into(data, Workers(self.threads))
        return tensor_over(data, self.dtype, self.shape)

    def store(self, value: torch.Tensor) -> None:
        """Packs new elements, of the same shape and dtype."""
        if value.dtype != self.dtype or tuple(value.shape) != self.shape:
            raise ArgumentError(f"packed {self.dtype} of shape {self.shape} cannot become another")
        self.packed = self._again(value)
        self.shown = _nothing
        if self.plain is not None and self.plain is not value:
            self.plain.copy_(value)

    def _again(self, value: torch.Tensor) -> PackedArray | DeviceArray:
        """Other elements, packed as these are and kept where these are."""
        array = packed_array(value, self.level, self.threads)
        return array if self.on is None else self.on.upload([array])[0]

    def with_other(self, value: torch.Tensor) -> "Cell":
        """A cell of other elements, of any shape and dtype, packed and kept as these are."""
        return Cell(self._again(value), self.level, self.threads)


def _version(tensor: torch.Tensor) -> int:
    """Changes with writing, but within `__torch_dispatch__`, and in inference mode."""
    return 0 if tensor.is_inference() else tensor._version


def packed_array(tensor: torch.Tensor, level: int, threads: int) -> PackedArray:
    """The packed elements of a plain tensor."""
    threads = 1 if tensor.nbytes <= _MAX_ONE_THREAD else threads
    return PackedArray(densor.compress(tensor.detach().contiguous(), level, threads))


class PackedTensor(torch.Tensor):
    """A tensor that stays packed in memory; made by `pack_tensor`, `from_packed` or `pack_module`.

    It behaves like the tensor that was packed; `unpack` gives a plain one. As with any wrapper
    subclass, PyTorch does not notice `plain.data = packed`, which must not be done.
    """

    cell: Cell

    @staticmethod
    def __new__(
        cls: type["PackedTensor"],
        cell: Cell,
        size: Any = None,
        stride: Any = None,
        offset: int = 0,
        requires_grad: bool = False,
    ) -> "PackedTensor":
        if size is None:
            size = cell.shape
            stride = torch.empty(size, device="meta").stride()
        made: PackedTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            size,
            strides=stride,
            storage_offset=offset,
            dtype=cell.dtype,
            device=cell.place,
            requires_grad=requires_grad,
        )
        made.cell = cell
        return made

    def unpack(self) -> torch.Tensor:
        """A plain tensor with the same elements, in memory of its own, without gradient."""
        plain = self.cell.at_hand()
        return placed(self, self.cell.decode() if plain is None else plain.clone())

    @property
    def stored(self) -> int:
        """Bytes that the packed elements take in the memory where they are."""
        return self.cell.packed.stored

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        shape = tuple(self.shape)
        return f"PackedTensor({shape}, dtype={self.dtype}, {self.stored} bytes for {self.nbytes})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedTensor":
        if id(self) not in memo:
            cell = memo.setdefault(id(self.cell), self.cell.copy())
            memo[id(self)] = _rebuilt(*_state(self, cell))
        copied: PackedTensor = memo[id(self)]
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuilt, _state(self, self.cell)

    @classmethod
    @outside_graphs
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        special = _OUTSIDE.get(func)
        with torch._C.DisableTorchFunctionSubclass():
            if special is not None:
                return special(*args, **(kwargs or {}))
            return func(*args, **(kwargs or {}))

    @classmethod
    @outside_graphs
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        special = _DISPATCH.get(func)
        if special is not None:
            return special(func, args, kwargs)
        if _is_view(func):
            return _view(func, args, kwargs)
        return _compute(func, args, kwargs)


def _state(tensor: PackedTensor, cell: Cell) -> tuple[Any, ...]:
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    size, stride = tuple(tensor.shape), tensor.stride()
    return cell, size, stride, tensor.storage_offset(), tensor.requires_grad, is_parameter


def _rebuilt(
    cell: Cell, size: Any, stride: Any, offset: int, requires_grad: bool, is_parameter: bool
) -> PackedTensor:
    made = PackedTensor(cell, size, stride, offset, requires_grad and not is_parameter)
    if is_parameter:
        made = torch.nn.Parameter(made, requires_grad)  # type: ignore[assignment]
    return made


def over_cell(tensor: PackedTensor, cell: Cell) -> PackedTensor:
    """The same tensor or parameter of the elements of another cell, which are as many."""
    return _rebuilt(*_state(tensor, cell))


def placed(tensor: PackedTensor, value: torch.Tensor) -> torch.Tensor:
    """The part of all elements that a tensor is a view of."""
    if tensor.shape == value.shape and tensor.is_contiguous():
        return value
    begin = value.storage_offset() + tensor.storage_offset()
    return value.as_strided(tensor.shape, tensor.stride(), begin)


def _is_view(func: Any) -> bool:
    schema = func._schema
    return not schema.is_mutable and any(item.alias_info is not None for item in schema.returns)


def _view(func: Any, args: Any, kwargs: Any) -> Any:
    """A view: computed on the shape alone, if the packed elements stay of the same type."""
    tensor = args[0]
    shadow = torch.empty(0, dtype=tensor.dtype, device="meta")
    shadow = shadow.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    result = func(shadow, *args[1:], **kwargs)
    if any(item.dtype != tensor.dtype for item in tree_flatten(result)[0]):
        return _compute(func, args, kwargs)

    def wrap(item: torch.Tensor) -> PackedTensor:
        return PackedTensor(tensor.cell, item.shape, item.stride(), int(item.storage_offset()))

    return tree_map_only(torch.Tensor, wrap, result)


def _compute(func: Any, args: Any, kwargs: Any) -> Any:
    """An operation on the decoded elements; what it writes to is packed again."""
    values: dict[int, torch.Tensor] = {}
    plain_of: dict[int, torch.Tensor] = {}
    packed_of: dict[int, PackedTensor] = {}

    def unpack(tensor: PackedTensor) -> torch.Tensor:
        cell = tensor.cell
        if id(cell) not in values:
            values[id(cell)] = cell.value()
        plain = placed(tensor, values[id(cell)])
        plain_of[id(tensor)] = plain
        packed_of[id(plain)] = tensor
        return plain

    plain_args, plain_kwargs = tree_map_only(PackedTensor, unpack, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    if func._schema.is_mutable:
        for cell in _written(func, args, kwargs):
            if values[id(cell)] is cell.plain:
                cell.dirty = True
            else:
                cell.store(values[id(cell)])
    memory = {value.untyped_storage().data_ptr() for value in values.values()}

    def rewrap(item: torch.Tensor) -> torch.Tensor:
        if id(item) in packed_of:  # an operation in place returns what it was given
            return packed_of[id(item)]
        return item.clone() if item.untyped_storage().data_ptr() in memory else item

    return tree_map_only(torch.Tensor, rewrap, result)


def _written(func: Any, args: Any, kwargs: Any) -> list[Cell]:
    """The cells that an operation writes to."""
    cells: dict[int, Cell] = {}
    for i, argument in enumerate(func._schema.arguments):
        given = args[i] if i < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            for item in tree_flatten(given)[0]:
                if isinstance(item, PackedTensor):
                    cells[id(item.cell)] = item.cell
    return list(cells.values())


def _copy(func: Any, args: Any, kwargs: Any) -> Any:
    """`copy_` to all elements, which need not be decoded first."""
    target, source = args[:2]
    if not is_whole(target):
        return _compute(func, args, kwargs)
    if isinstance(source, PackedTensor):
        source = source.unpack()
    target.cell.store(source.to(target.dtype).expand(target.shape))
    return target


def is_whole(tensor: Any) -> bool:
    """Whether this is all elements of a packed tensor, in their order."""
    packed = isinstance(tensor, PackedTensor)
    return packed and tensor.shape == tensor.cell.shape and tensor.is_contiguous()


def _embedding(func: Any, args: Any, kwargs: Any) -> Any:
    """Rows of a table: only the chunks that hold them are decoded, one at a time per thread."""
    weight, indices = args[:2]
    if not is_whole(weight) or weight.dim() != 2 or weight.cell.at_hand() is not None:
        return _compute(func, args, kwargs)
    if weight.cell.on is not None:  # to look for chunks would be to wait for the indices
        return _compute(func, args, kwargs)
    if not indices.numel() or not weight.numel():
        return _compute(func, args, kwargs)
    rows, places = torch.unique(indices, return_inverse=True)
    if int(rows[0]) < 0 or int(rows[-1]) >= weight.shape[0]:
        raise IndexError("index out of range in self")
    compact = _rows(weight.cell, rows.numpy().astype(np.int64))
    return torch.nn.functional.embedding(places, compact)


def _rows(cell: Cell, rows: "np.ndarray[Any, Any]") -> torch.Tensor:
    """Rows of a matrix by ascending number."""
    packed = cell.packed
    assert isinstance(packed, PackedArray)
    row = packed.size // cell.shape[0]
    decoded_rows = np.empty((rows.size, row), np.uint8)
    flat = decoded_rows.reshape(-1)
    begins = rows * row
    stretches = packed.chunks_of(np.concatenate([begins, begins + row - 1]))

    def gather(begin: int, end: int) -> None:
        data = np.empty(end - begin, np.uint8)
        for job in packed.jobs(data, begin):
            job()
        first, last = np.searchsorted(begins, (begin - row + 1, end))
        for i in range(first, last):
            low, high = max(begin, begins[i]), min(end, begins[i] + row)
            to = i * row + low - begins[i]
            flat[to : to + high - low] = data[low - begin : high - begin]

    run_all([partial(gather, *stretch) for stretch in stretches], Workers(cell.threads))
    return tensor_over(flat, cell.dtype, (rows.size, *cell.shape[1:]))


def _set_data(tensor: PackedTensor, value: torch.Tensor) -> None:
    """`tensor.data = value`; a packed tensor stays packed, also with another shape or dtype."""
    cell = tensor.cell
    if value.device != tensor.device:
        raise ArgumentError(
            f"packed weights are not moved from {tensor.device} to {value.device} like plain ones: "
            "see device= of pack_module, or unpack_module"
        )
    if isinstance(value, PackedTensor):
        if value.cell is cell and is_whole(value) and is_whole(tensor):
            return  # such as `.to` gives where there is nothing to do
        value = value.unpack()
    if value.dtype == cell.dtype and tensor.shape == value.shape == cell.shape:
        cell.store(value)
        return
    cell = cell.with_other(value)
    tensor.data = PackedTensor(cell)  # shape and dtype; this is not called again in here
    tensor.cell = cell


def _first_unpacked(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(tensor: PackedTensor, *args: Any, **kwargs: Any) -> Any:
        if tensor.requires_grad and function is torch.Tensor.numpy:
            raise RuntimeError("call .detach() first: this tensor requires a gradient")
        return function(tensor.unpack(), *args, **kwargs)

    return call


# What leaves the world of tensors, and so never comes to __torch_dispatch__.
_OUTSIDE: dict[Any, Callable[..., Any]] = {
    function: _first_unpacked(function)
    for function in (torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.tolist)
}
_OUTSIDE[torch.Tensor.data.__set__] = _set_data  # type: ignore[attr-defined]

_DISPATCH: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.copy_.default: _copy,
    torch.ops.aten.embedding.default: _embedding,
}


def pack_tensor(
    tensor: torch.Tensor, level: int = DEFAULT_LEVEL, threads: int = 0, *, verify: bool = True
) -> PackedTensor:
    """A packed tensor with the elements of a plain one, which must be contiguous on the CPU.

    A `Parameter` becomes a packed `Parameter`. `threads`: for packing and for each decoding, 0 for
    all processors. `verify`: decode once and compare every bit.
    """
    if not isinstance(tensor, torch.Tensor):
        raise ArgumentError(f"cannot pack {type(tensor).__name__}, only torch tensors")
    if not can_pack(tensor):
        raise ArgumentError(
            f"cannot pack {type(tensor).__name__} of {tensor.dtype}, {tensor.layout}, on "
            f"{tensor.device}: only plain contiguous tensors in main memory can stay packed"
        )
    cell = Cell(packed_array(tensor, level, threads), level, threads)
    if verify and not np.array_equal(bytes_of(cell.decode()), bytes_of(tensor)):
        raise ChecksumError("packed tensor does not decode to what was packed")
    return _wrapped(cell, tensor)


def _wrapped(cell: Cell, like: torch.Tensor) -> PackedTensor:
    made = PackedTensor(cell)
    if isinstance(like, torch.nn.Parameter):
        return torch.nn.Parameter(made, like.requires_grad)  # type: ignore[return-value]
    made.requires_grad_(like.requires_grad)
    return made


def from_packed(
    blob: Any, level: int = DEFAULT_LEVEL, threads: int = 0, *, verify: bool = True
) -> PackedTensor:
    """A packed tensor from what `densor.compress` made of a tensor or array.

    `blob`: bytes, or a uint8 tensor, which is kept and not copied. Its checksums are verified
    always; with `verify` it is decoded once, and its content compared with its hash.
    """
    packed = PackedArray(bytes_of(blob) if isinstance(blob, torch.Tensor) else blob)
    if verify:
        packed.verify(Workers(threads))
    return PackedTensor(Cell(packed, level, threads))


@contextmanager
def unpacked(*tensors: torch.Tensor) -> Iterator[None]:
    """Within the block, these packed tensors have their elements at hand and may be written to.

    At its end, what was changed is packed anew. Plain tensors may be among them.
    """
    cells = {id(t.cell): t.cell for t in tensors if isinstance(t, PackedTensor)}
    taken = [cell for cell in cells.values() if cell.plain is None]
    for cell in taken:
        cell.hold(cell.decode(), (threading.get_ident(),))
    try:
        yield
    finally:
        for cell in taken:
            cell.release()
