"""What is computed again for the backward pass, from what is kept for it anyway.

Half of what a block of a transformer saves is a cheap function of other tensors that it saves: the
output of SiLU, products, what norms give, casts. While the forward pass runs, each operation of
such a kind is noted with where its inputs are kept; that it gives the same bits again is tried
once for each kind of inputs, and what does not is kept.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

_aten = torch.ops.aten
_FUNCTIONS = frozenset(
    {
        _aten._to_copy.default,
        _aten.add.Tensor,
        _aten.clone.default,
        _aten.div.Tensor,
        _aten.gelu.default,
        _aten.mul.Tensor,
        _aten.native_layer_norm.default,
        _aten.neg.default,
        _aten.pow.Tensor_Scalar,
        _aten.relu.default,
        _aten.rsqrt.default,
        _aten.sigmoid.default,
        _aten.silu.default,
        _aten.sub.Tensor,
        _aten.tanh.default,
    }
)
_SMALL = 16  # times a result is larger than inputs that are kept for it
_DEPTH = 4  # operations in a row

Key = tuple[int, int, torch.dtype]  # address, version, type


def key_of(tensor: torch.Tensor) -> Key:
    """What tells the contents of a storage from all others, as long as it is alive."""
    return tensor.untyped_storage().data_ptr(), tensor._version, tensor.dtype


class Input(NamedTuple):
    """An input: `whole` gives its storage, in which it has this shape, strides and offset."""

    whole: Callable[[], torch.Tensor]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def tensor(self) -> torch.Tensor:
        """The input itself."""
        return self.whole().as_strided(self.shape, self.strides, self.offset)


class Recipe(NamedTuple):
    """How a tensor that fills its storage is made; `depth`: operations in a row."""

    function: Any
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    depth: int
    storage: StorageWeakRef

    def made(self) -> torch.Tensor:
        """All elements of the storage, in memory order."""
        arguments = [a.tensor() if isinstance(a, Input) else a for a in self.arguments]
        with torch.no_grad(), _disable_current_modes():
            return _flat(_first(self.function(*arguments, **self.keywords)))


def _first(found: Any) -> torch.Tensor:
    tensor: torch.Tensor = found[0] if isinstance(found, tuple) else found
    return tensor


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())


class Recorder(TorchDispatchMode):
    """Notes operations while it is entered.

    `kept`: what gives the storage of a tensor where that is kept, else None. Inputs that are far
    smaller than the result, as weights of norms, are copied.
    """

    def __init__(
        self,
        kept: Callable[[torch.Tensor], Callable[[], torch.Tensor] | None],
        min_bytes: int,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept, self._min_bytes = kept, min_bytes
        self._recipes: dict[Key, Recipe] = {}
        self._proven: dict[Any, bool] = {}
        self._lock = threading.Lock()

    def recipe_of(self, tensor: torch.Tensor) -> Recipe | None:
        """How the storage of a tensor was made; None where that is not known."""
        key = key_of(tensor)
        with self._lock:
            found = self._recipes.get(key)
            if found is not None and found.storage.expired():  # type: ignore[no-untyped-call]
                del self._recipes[key]
                return None
        return found

    def forget(self) -> None:
        """Lets go of all that was noted."""
        self._recipes.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in _FUNCTIONS:
            self._note(func, args, kwargs or {}, _first(found))
        return found

    def _note(self, func: Any, args: Any, kwargs: Any, result: torch.Tensor) -> None:
        if not _is_plain(result) or result.untyped_storage().nbytes() != result.nbytes:
            return
        if result.nbytes < self._min_bytes or result.storage_offset():
            return
        storage = result.untyped_storage()
        inputs, depth = [], 0
        for argument in args:
            if not isinstance(argument, torch.Tensor):
                inputs.append(argument)
                continue
            if not _is_plain(argument):
                return
            if argument.untyped_storage().data_ptr() == storage.data_ptr():
                return
            found = self._input(argument, result.nbytes)
            if found is None:
                return
            inputs.append(found[0])
            depth = max(depth, found[1])
        if depth >= _DEPTH or any(isinstance(value, torch.Tensor) for value in kwargs.values()):
            return
        of = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        recipe = Recipe(func, tuple(inputs), dict(kwargs), depth + 1, of)
        if self._is_proven(func, args, kwargs, result):
            with self._lock:
                self._recipes[key_of(result)] = recipe

    def _input(self, tensor: torch.Tensor, size: int) -> tuple[Input, int] | None:
        """Where an input is kept, and by how many operations it is made of that."""
        depth = 0
        whole = self._kept(tensor)
        if whole is None:
            recipe = self.recipe_of(tensor)
            if recipe is not None:
                whole, depth = recipe.made, recipe.depth
            elif tensor.untyped_storage().nbytes() * _SMALL <= size:
                whole = _held(tensor)
            else:
                return None
        return Input(
            whole, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
        ), depth

    def _is_proven(self, func: Any, args: Any, kwargs: Any, result: torch.Tensor) -> bool:
        """Whether it gives the same bits again, which is tried once for each kind of inputs."""
        kind = func, *(_form(a) for a in args), *((k, _form(v)) for k, v in kwargs.items())
        proven = self._proven.get(kind)
        if proven is None:
            with _disable_current_modes(), torch.no_grad():
                again = _first(func(*args, **kwargs))
                same = again.stride() == result.stride() and again.dtype == result.dtype
                proven = same and torch.equal(
                    _flat(again).view(torch.uint8), _flat(result).view(torch.uint8)
                )
            self._proven[kind] = proven
        return proven


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not (tensor.is_complex() or tensor.is_neg())
    )


def _form(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    return repr(value)


def _held(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A copy of the storage: whoever owns it may change it, where autograd does not need it."""
    with torch.no_grad(), _disable_current_modes():
        copy = _flat(tensor.detach()).clone()
    return lambda: copy
