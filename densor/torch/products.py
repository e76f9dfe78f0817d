"""Linear layers and embeddings that compute with weights as they are packed, on the CPU.

`densor.torch.pack_module(model, mode="product")`. Up to 8 tokens are multiplied from the layout of
`densor.products`; for more of them, weights are decoded piece by piece to a buffer that all layers
share, and multiplied by PyTorch. Embeddings decode the rows that are looked up. Weights are those
of the plain module bit for bit. Sums are in another order than PyTorch's, whose order depends on
its version, the processor and the number of threads; `mode="plain_product"` has the same loop over
plain weights, and gives the same bits.
"""

import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from densor.errors import ArgumentError, DensorError, UnsupportedError
from densor.products import entry_kernels as entry
from densor.products.matrix import MAX_TOKENS, Matrix, Products, best_layout
from densor.products.vector_kernels import COLUMNS
from densor.runtime.arguments import need
from densor.torch.packed import Cell, PackedTensor, from_packed

_MIN_BYTES = 1 << 14  # of a weight that is worth packing
_MAX_SHARE = 0.97  # what a packed weight may take of the plain one
_PIECE = 1 << 25  # bytes of weights that are decoded at a time for many tokens
_DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16"}


class _Buffer(threading.local):
    """The memory that many tokens' weights are decoded to, of each thread."""

    def __init__(self) -> None:
        self.memory = np.empty(0, np.uint16)

    def take(self, elements: int) -> "np.ndarray[Any, np.dtype[np.uint16]]":
        """uint16[elements], used again by the next call."""
        if self.memory.size < elements:
            self.memory = np.empty(elements, np.uint16)
        return self.memory[:elements]


_buffer = _Buffer()


class Weight:
    """A packed weight, and what PyTorch calls it by: a number, under which it can be found."""

    def __init__(self, matrix: Matrix, dtype: torch.dtype) -> None:
        self.matrix, self.dtype = matrix, dtype
        self.rows, self.columns = matrix.rows, matrix.columns
        self.number = next(_numbers)
        _known[self.number] = self
        self._shown: Any = None

    def __deepcopy__(self, memo: Any) -> "Weight":
        return self  # it never changes

    def __reduce__(self) -> Any:
        return Weight, (self.matrix, self.dtype)

    @staticmethod
    def find(number: int) -> "Weight":
        """The weight of a number; UnsupportedError where it is of another process."""
        found = _known.get(number)
        if found is None:
            raise UnsupportedError("the packed weight of a compiled graph is not in this process")
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of the plain weight."""
        size: int = 2 * self.rows * self.columns
        return size

    def unpack(self, begin: int = 0, end: int | None = None) -> torch.Tensor:
        """Some rows, plain."""
        return _as_torch(self.matrix.unpack(begin, end), self.dtype)

    def shown(self) -> nn.Parameter:
        """What stands for the weight where it is looked at: decoded when it is computed with."""
        if self._shown is None:
            cell = _Cell(_Array(self))
            self._shown = nn.Parameter(PackedTensor(cell), requires_grad=False)
        found: nn.Parameter = self._shown
        return found


def _as_torch(words: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(words.view(np.int16)).view(dtype)


def _words_of(tensor: torch.Tensor) -> Any:
    return tensor.detach().contiguous().view(torch.int16).numpy().view(np.uint16)


_numbers = itertools.count()
_known: "weakref.WeakValueDictionary[int, Weight]" = weakref.WeakValueDictionary()


class _Array:
    """A weight as `Cell` knows packed arrays."""

    def __init__(self, weight: Weight) -> None:
        self.weight = weight
        self.dtype, self.shape = _DTYPES[weight.dtype], (weight.rows, weight.columns)
        self.size, self.stored = weight.nbytes, weight.matrix.nbytes

    def decode_into(self, out: Any, workers: Any) -> None:
        """Decodes all of it."""
        self.weight.matrix.unpack(out=out.view(np.uint16).reshape(self.shape))


class _Cell(Cell):
    """The elements of a weight, which are not written to."""

    def __init__(self, packed: Any, level: int = 1, threads: int = 0) -> None:
        super().__init__(packed, level, threads)

    def store(self, value: torch.Tensor) -> None:
        raise UnsupportedError("weights packed for products do not change; see unpack_module")

    def with_other(self, value: torch.Tensor) -> Cell:
        raise UnsupportedError("weights packed for products do not change; see unpack_module")


def linear(weight: Weight, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x W^T + bias; `x`: [..., columns], of the weight's type, on the CPU."""
    if x.dtype != weight.dtype or x.device.type != "cpu":
        raise ArgumentError(
            f"inputs must be {weight.dtype} on the CPU, not {x.dtype} on {x.device}"
        )
    if not x.dim() or x.shape[-1] != weight.columns:
        raise ArgumentError(f"inputs of {weight.columns} elements are needed, not {tuple(x.shape)}")
    if bias is not None and bias.dtype != weight.dtype:
        raise ArgumentError(f"the bias must be {weight.dtype}, not {bias.dtype}")
    rows = x.reshape(-1, weight.columns)
    made = _few if rows.shape[0] <= MAX_TOKENS else _many
    return made(weight, rows, bias).view(*x.shape[:-1], weight.rows)


def _few(weight: Weight, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    tokens = x.shape[0]
    out = x.new_empty((tokens, weight.rows))
    if not tokens:
        return out
    if weight.columns % COLUMNS:
        x = nn.functional.pad(x, (0, -weight.columns % COLUMNS))
    elif x.stride(1) != 1 or x.is_conj():
        x = x.contiguous()
    if bias is not None:
        bias = bias.contiguous()
    given = Products(
        x.data_ptr(),
        out.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        tokens,
        2 * x.stride(0),
        2 * weight.rows,
    )
    weight.matrix.multiply(given, torch.get_num_threads())
    return out


def _many(weight: Weight, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    step = max(1, _PIECE // (2 * weight.columns))
    pieces = []
    out = x.new_empty((x.shape[0], weight.rows)) if step < weight.rows else None
    for begin in range(0, weight.rows, step):
        end = min(begin + step, weight.rows)
        words = _buffer.take((end - begin) * weight.columns).reshape(end - begin, -1)
        weight.matrix.unpack(begin, end, words)
        some = None if bias is None else bias[begin:end]
        piece = nn.functional.linear(x, _as_torch(words, weight.dtype), some)
        if out is None:
            pieces.append(piece)
        else:
            out[:, begin:end] = piece
    return pieces[0] if out is None else out


def embedding(weight: Weight, ids: torch.Tensor) -> torch.Tensor:
    """Rows by their numbers, [..., columns]; IndexError for a number of no row."""
    numbers = ids.detach().to(torch.int64).contiguous().reshape(-1)
    out = torch.empty((*ids.shape, weight.columns), dtype=weight.dtype)
    if numbers.numel():
        words = out.view(torch.int16).numpy().view(np.uint16).reshape(-1, weight.columns)
        weight.matrix.gather(numbers.numpy(), words)
    return out


_library: Any = torch.library.Library("densor", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("linear(Tensor x, Tensor? bias, int weight) -> Tensor")
_library.define("embedding(Tensor ids, int weight) -> Tensor")


def _no_gradients(x: torch.Tensor) -> None:
    if x.requires_grad and torch.is_grad_enabled():
        raise UnsupportedError(
            "weights packed for products give no gradients: use torch.no_grad(), or "
            'pack_module(mode="decode") to train'
        )


def _linear_op(x: torch.Tensor, bias: torch.Tensor | None, weight: int) -> torch.Tensor:
    return linear(Weight.find(weight), x, bias)


def _embedding_op(ids: torch.Tensor, weight: int) -> torch.Tensor:
    return embedding(Weight.find(weight), ids)


def _linear_fake(x: torch.Tensor, bias: torch.Tensor | None, weight: int) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], Weight.find(weight).rows))


def _embedding_fake(ids: torch.Tensor, weight: int) -> torch.Tensor:
    found = Weight.find(weight)
    return ids.new_empty((*ids.shape, found.columns), dtype=found.dtype)


_library.impl("linear", _linear_op, "CPU")
_library.impl("embedding", _embedding_op, "CPU")
torch.library.register_fake("densor::linear", _linear_fake, lib=_library)
torch.library.register_fake("densor::embedding", _embedding_fake, lib=_library)


def plain_product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """What a packed layer computes from up to 8 tokens, by the same loop over plain weights.

    `x`: [..., columns]. `weight`: [rows, columns], BF16 or FP16; it is copied at each call. Equal
    to the packed layer's result bit for bit; ArgumentError for more tokens, which PyTorch
    multiplies.
    """
    need(x, torch.Tensor, "x")
    need(weight, torch.Tensor, "weight")
    if weight.dim() != 2 or weight.dtype not in _DTYPES or not weight.numel():
        raise ArgumentError("a matrix of BF16 or FP16 is needed")
    if x.dim() and x.numel() > MAX_TOKENS * weight.shape[1]:
        raise ArgumentError(f"more than {MAX_TOKENS} tokens are multiplied by PyTorch")
    layout = entry.FP16 if weight.dtype == torch.float16 else entry.BF16
    held = Weight(Matrix(_words_of(weight), layout), weight.dtype)
    return linear(held, x.detach(), None if bias is None else bias.detach())


class _Packed(nn.Module):
    """What linear layers and embeddings with a packed weight have in common."""

    packed_weight: Weight
    plain_class: type[nn.Module]

    @property
    def weight(self) -> nn.Parameter:
        """Stands for the weight: has its shape and type, and is decoded when computed with."""
        return self.packed_weight.shown()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        sample = torch.empty(0, dtype=self.packed_weight.dtype)
        moved = fn(sample)
        if moved.dtype != sample.dtype or moved.device != sample.device:
            raise UnsupportedError(
                "weights packed for products stay on the CPU, and of their type: unpack_module"
            )
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        cell = self.weight.cell  # type: ignore[attr-defined]
        shown = cell.shown()
        if shown is None:
            shown = self.packed_weight.unpack()
            cell.shown = weakref.ref(shown)  # tied weights become one, as in a plain state
        destination[f"{prefix}weight"] = shown
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        name = f"{prefix}weight"
        given = state_dict.get(name)
        _, strict, missing = args[0], args[1], args[2]
        if given is None:
            missing += [name] if strict else []
        elif tuple(given.shape) != (self.packed_weight.rows, self.packed_weight.columns):
            args[4].append(f"size mismatch for {name}: {tuple(given.shape)}")
        else:
            old = self.packed_weight
            words = _words_of(given.to("cpu", old.dtype))
            self.packed_weight = Weight(Matrix(words, old.matrix.layout), old.dtype)
        rest = {key: value for key, value in state_dict.items() if key != name}
        super()._load_from_state_dict(rest, prefix, *args)


class ProductLinear(_Packed, nn.Linear):  # type: ignore[misc]
    """An `nn.Linear` whose weight is packed."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """See `linear`; UnsupportedError where gradients are wanted."""
        _no_gradients(input)
        if torch.compiler.is_compiling():
            number = self.packed_weight.number
            compiled: torch.Tensor = torch.ops.densor.linear(input, self.bias, number)
            return compiled
        return linear(self.packed_weight, input, self.bias)


class ProductEmbedding(_Packed, nn.Embedding):  # type: ignore[misc]
    """An `nn.Embedding` whose table is packed."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """See `embedding`."""
        if torch.compiler.is_compiling():
            compiled: torch.Tensor = torch.ops.densor.embedding(input, self.packed_weight.number)
            return compiled
        return embedding(self.packed_weight, input)


class How(NamedTuple):
    """How weights are packed: see `pack_module`; `plain`: kept plain, for the same loop."""

    threads: int = 0
    plain: bool = False
    select: Callable[[str, torch.Tensor], bool] | None = None


def pack_products(module: nn.Module, how: How, packed: Mapping[str, Any]) -> nn.Module:
    """Packs weights of linear layers and embeddings in place; all parameters are frozen.

    `packed` as for `pack_module`: other parameters in there become plain.
    """
    made: dict[int, Weight | None] = {}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    unknown = set(packed) - set(parameters)
    if unknown:
        raise ArgumentError(f"module has no parameter {min(unknown)!r}")
    names: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), []).append(name)
    for prefix, part in list(module.named_modules()):
        weight = part._parameters.get("weight")
        if weight is None or not _can_compute(part):
            continue
        if id(weight) not in made:
            blob = next((packed[name] for name in names[id(weight)] if name in packed), None)
            made[id(weight)] = _weight(f"{prefix}.weight", weight, blob, how)
        found = made[id(weight)]
        if found is not None:
            _swap(part, found)
    for name, parameter in module.named_parameters():
        if name in packed:
            _unpacked_at(module, name, packed[name])
        parameter.requires_grad_(False)
    return module


def _can_compute(part: nn.Module) -> bool:
    if isinstance(part, nn.Embedding):
        return part.max_norm is None and not part.sparse
    return isinstance(part, nn.Linear)


def _weight(name: str, weight: torch.Tensor, blob: Any, how: How) -> Weight | None:
    """The packed weight; None where the plain one is to stay."""
    if blob is not None:
        weight = _decoded(name, weight, blob)
    known = type(weight) in (torch.Tensor, nn.Parameter) and weight.dtype in _DTYPES
    if not known or weight.device.type != "cpu" or weight.dim() != 2 or not weight.numel():
        return None
    chosen = weight.nbytes >= _MIN_BYTES if how.select is None else how.select(name, weight)
    if not chosen:
        return None
    half_floats = weight.dtype == torch.float16
    words = _words_of(weight)
    matrix = Matrix(words, best_layout(half_floats), how.threads)
    if how.select is None and matrix.nbytes > _MAX_SHARE * weight.nbytes:
        return None
    if how.plain:  # for the same weights
        matrix = Matrix(words, entry.FP16 if half_floats else entry.BF16, how.threads)
    return Weight(matrix, weight.dtype)


def _decoded(name: str, like: torch.Tensor, blob: Any) -> torch.Tensor:
    """The tensor in a blob, compared with its hash."""
    try:
        tensor = from_packed(blob).unpack()
    except DensorError as error:
        raise type(error)(f"{name}: {error}") from error
    if tensor.shape != like.shape:
        shape, wanted = tuple(tensor.shape), tuple(like.shape)
        raise ArgumentError(f"{name}: packed tensor has shape {shape}, not {wanted}")
    return tensor


def _unpacked_at(module: nn.Module, name: str, blob: Any) -> None:
    path, _, last = name.rpartition(".")
    part = module.get_submodule(path)
    plain = _decoded(name, part._parameters[last], blob)  # type: ignore[arg-type]
    part._parameters[last] = nn.Parameter(plain, requires_grad=False)


_classes: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: ProductLinear,
    nn.Embedding: ProductEmbedding,
}


def _class_for(plain: type[nn.Module]) -> type[nn.Module]:
    """The class of a module with a packed weight; of a subclass, what it does itself is kept."""
    if plain not in _classes:
        base = ProductLinear if issubclass(plain, nn.Linear) else ProductEmbedding
        _classes[plain] = type(f"Product{plain.__name__}", (plain, base), {})
    return _classes[plain]


def _swap(part: nn.Module, weight: Weight) -> None:
    plain = type(part)
    del part._parameters["weight"]
    part.__class__ = _class_for(plain)
    part.packed_weight = weight  # type: ignore[assignment]
    part.plain_class = plain  # type: ignore[assignment]


def packed_parts(module: nn.Module) -> Iterator[_Packed]:
    """The modules within that compute with a packed weight."""
    for part in module.modules():
        if isinstance(part, _Packed):
            yield part


def unpack_products(module: nn.Module) -> None:
    """Makes plain modules of those again, with weights that are frozen."""
    plain: dict[int, nn.Parameter] = {}
    for part in list(packed_parts(module)):
        weight = part.packed_weight
        if id(weight) not in plain:
            plain[id(weight)] = nn.Parameter(weight.unpack(), requires_grad=False)
        part.__class__ = part.plain_class  # type: ignore[assignment]
        del part.packed_weight, part.plain_class
        others = {name: p for name, p in part._parameters.items() if name != "weight"}
        part._parameters.clear()  # the weight comes first
        part._parameters.update({"weight": plain[id(weight)], **others})
