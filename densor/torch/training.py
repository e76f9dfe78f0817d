"""Training with packed weights: each is updated as soon as its gradient is there, then packed.

The scheme of NeuZip (arXiv 2410.20650), without its lossy mode. Weights are decoded block by block
in the forward pass and one by one in the backward pass; no more than one gradient and one decoded
weight need be in memory at a time.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from densor.errors import ArgumentError
from densor.runtime.buffers import map_large_blocks, release_free_memory
from densor.torch.packed import (
    DEFAULT_LEVEL,
    PackedTensor,
    can_pack,
    is_whole,
    pack_tensor,
    unpacked,
)

_MIN_PACKED_BYTES = 1 << 14  # bytes of a state that is worth packing
_SLICE = 1 << 22  # bytes of a parameter that are updated at a time
_RELEASED = 1 << 25  # bytes that are updated before free memory is given back
_VECTORS = 64  # elements that PyTorch computes at a time are a divisor of this
_GRAIN = 1 << 15  # elements below which it does not use another thread

# What these compute for an element depends on no other element
_BY_ELEMENT = frozenset(
    {
        torch.optim.Adadelta,
        torch.optim.Adam,
        torch.optim.Adamax,
        torch.optim.AdamW,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.RMSprop,
        torch.optim.SGD,
    }
)


class PackedOptimizer(Optimizer):
    """Any optimizer of `torch.optim`, stepping in the backward pass, parameter by parameter.

    `params`: parameters or groups of them, packed and plain ones. `optimizer`: the class, such as
    `torch.optim.AdamW`, and its further arguments. What it computes for each parameter is what it
    computes in an ordinary loop, bit by bit, as long as it looks at one parameter at a time; what
    needs all gradients at once, such as clipping by their common norm, cannot be had.

    `step` has nothing left to do and `zero_grad` neither, but may be called as usual; schedulers of
    the learning rate work. `state_dict` is that of the wrapped optimizer.

    `pack_state`: keep the optimizer's state packed as well, at `level`. Packed parameters of more
    than 4 MB are then updated slice by slice, so that only a slice of the state is decoded, by
    optimizers to which elements are independent (SGD, RMSprop, Adadelta, Adam and its kin; not
    fused ones). `state` has lists of slices for these, `state_dict` whole tensors.

    Memory that packing has freed goes back to the system every 32 MB of updated parameters. With
    `pack_state`, glibc is made to map blocks of 2 MB and more one by one in the whole process, so
    that they do go back when they are freed, unless MALLOC_MMAP_THRESHOLD_ says otherwise.
    """

    def __init__(
        self,
        params: Iterable[Any],
        optimizer: type[Optimizer],
        *,
        pack_state: bool = False,
        level: int = DEFAULT_LEVEL,
        **options: Any,
    ) -> None:
        if issubclass(optimizer, torch.optim.LBFGS):
            raise ArgumentError("LBFGS needs all gradients at once")
        self._pack_state = pack_state
        if pack_state:
            map_large_blocks()
        self._level = level
        self._waiting = False
        sample = optimizer([torch.nn.Parameter(torch.zeros(1))], **options)
        super().__init__(params, sample.defaults)
        self._inner: dict[torch.Tensor, Optimizer] = {}
        self._sliced: dict[torch.Tensor, _Slices] = {}
        self._updated = 0  # bytes of parameters since free memory was given back
        self._hooks = []
        for group in self.param_groups:
            for parameter in group["params"]:
                settings = _settings(group)
                self._inner[parameter] = optimizer([{**settings, "params": [parameter]}], **options)
                hook = parameter.register_post_accumulate_grad_hook(self._arrived)
                self._hooks.append(hook)
                by_element = optimizer in _BY_ELEMENT and not group.get("fused")
                size = _slice_size(parameter) if pack_state and by_element else 0
                if size:
                    self._sliced[parameter] = _Slices(parameter, size)
        self._share()

    def _share(self) -> None:
        """One group and one state for each parameter, here and in the optimizer of its own."""
        self._groups = {p: group for group in self.param_groups for p in group["params"]}
        for parameter, inner in self._inner.items():
            inner.state.clear()
            slices = self._sliced.get(parameter)
            if slices is not None:
                slices.broken = False
            if parameter not in self.state:
                continue
            if slices is None:
                inner.state[parameter] = self.state[parameter]
                continue
            for part, state in zip(slices.parts, slices.cut(self.state[parameter]), strict=True):
                self._pack(state)
                inner.state[part] = state
            self.state[parameter] = slices.listed(inner.state)

    def _arrived(self, parameter: torch.Tensor) -> None:
        """The gradient of a parameter is complete."""
        if not self._waiting:
            self._update(parameter)

    def _update(self, parameter: torch.Tensor) -> None:
        inner = self._inner[parameter]
        inner.param_groups[0].update(_settings(self._groups[parameter]))
        slices = self._sliced.get(parameter)
        if slices is None:
            self._step(inner, parameter, parameter)
            parameter.grad = None
            self.state[parameter] = inner.state[parameter]
        else:
            with unpacked(parameter), closing(slices.shown()) as parts:
                for part in parts:
                    inner.param_groups[0]["params"] = [part]
                    self._step(inner, part)
                parameter.grad = None  # before the parameter is packed
            self.state[parameter] = slices.listed(inner.state)
        self._updated += parameter.nbytes
        if self._updated >= _RELEASED:
            self._release()

    def _step(self, inner: Optimizer, part: torch.Tensor, *parameter: torch.Tensor) -> None:
        """A step of `part`; `parameter`: what has to be unpacked for it beside its state."""
        kept = [value for value in inner.state[part].values() if torch.is_tensor(value)]
        with unpacked(*parameter, *kept):
            inner.step()
        self._pack(inner.state[part])

    def _pack(self, state: dict[str, Any]) -> None:
        if not self._pack_state:
            return
        for key, value in state.items():
            if torch.is_tensor(value) and can_pack(value) and value.nbytes >= _MIN_PACKED_BYTES:
                state[key] = pack_tensor(value, self._level, verify=False)

    def _release(self) -> None:
        self._updated = 0
        release_free_memory()

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """Within the block gradients add up, and are kept; the next backward pass after it uses
        them all."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates parameters that have a gradient nevertheless, such as one set by hand."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for parameter in self._inner:
                if parameter.grad is not None and not self._waiting:
                    self._update(parameter)
        self._release()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """That of the wrapped optimizer over the same parameters, all tensors plain.

        ArgumentError where an update of one failed half way, until a state is loaded.
        """
        for slices in self._sliced.values():
            slices.check()
        saved = super().state_dict()
        shapes = [p.shape for group in self.param_groups for p in group["params"]]
        saved["state"] = {
            number: {key: _whole(value, shapes[number]) for key, value in state.items()}
            for number, state in sorted(saved["state"].items())
        }
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also takes what the wrapped optimizer's `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._share()

    def close(self) -> None:
        """Lets the parameters go: their gradients stay from now on."""
        for hook in self._hooks:
            hook.remove()


class _Slices:
    """A packed parameter, as slices of its flat elements that an optimizer takes for parameters.

    `parts` are empty but while `shown` hands them out. `broken`: some were updated and others not.
    """

    def __init__(self, parameter: PackedTensor, size: int) -> None:
        self._parameter = parameter
        self._size = size
        count = -(-parameter.numel() // size)
        empty = torch.empty(0, dtype=parameter.dtype)
        self.parts = [torch.nn.Parameter(empty) for _ in range(count)]
        self.broken = False

    def check(self) -> None:
        """ArgumentError where some parts were updated and others not."""
        if self.broken:
            raise ArgumentError("an update of a parameter failed half way; load a checkpoint")

    def shown(self) -> Generator[torch.Tensor, None, None]:
        """Each part in turn, with its elements and its gradient; the parameter is unpacked."""
        cell, gradient = self._parameter.cell, self._parameter.grad
        assert cell.plain is not None and gradient is not None
        self.check()
        if gradient.layout != torch.strided:
            raise ArgumentError("large parameters with packed states need dense gradients")
        self.broken = True  # until all parts are updated
        cell.dirty = True  # writing to `data` does not count as a change of the tensor it is from
        elements, gradients = (
            torch.split(whole.reshape(-1), self._size) for whole in (cell.plain, gradient)
        )
        for part, data, part_gradient in zip(self.parts, elements, gradients, strict=True):
            part.data, part.grad = data, part_gradient
            try:
                yield part
            finally:
                part.data, part.grad = data[:0].clone(), None
        self.broken = False

    def cut(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """The state of each part, from that of the whole parameter."""
        found: list[dict[str, Any]] = [{} for _ in self.parts]
        for key, value in state.items():
            pieces = value if isinstance(value, list) else self._pieces(value)
            for part, piece in zip(found, pieces, strict=True):
                part[key] = piece
        return found

    def _pieces(self, value: Any) -> list[Any]:
        if not torch.is_tensor(value):
            return [value] * len(self.parts)
        if value.shape != self._parameter.shape:  # such as the number of steps
            return [value.clone() for _ in self.parts]
        return [piece.clone() for piece in torch.split(value.reshape(-1), self._size)]

    def listed(self, states: dict[torch.Tensor, dict[str, Any]]) -> dict[str, Any]:
        """The state of the parameter: of what there is for each element, a list of slices."""
        first = states[self.parts[0]]
        return {
            key: [states[part][key] for part in self.parts]
            if torch.is_tensor(value) and value.dim()
            else value
            for key, value in first.items()
        }


def _slice_size(parameter: torch.Tensor) -> int:
    """Elements of each slice of a parameter, 0 where it is to stay whole.

    PyTorch divides what is contiguous among its threads, and each rounds the elements behind its
    last whole vectors otherwise than those within: so slices end where vectors do, and where there
    are several threads, the shares of all of them do so too.
    """
    if not isinstance(parameter, PackedTensor) or parameter.nbytes <= _SLICE:
        return 0
    if not is_whole(parameter):  # its elements are others than those that are packed
        return 0
    elements, threads = parameter.numel(), torch.get_num_threads()
    unit = _VECTORS * threads
    size = -(-elements // -(-parameter.nbytes // _SLICE))  # about equal ones
    size = -(-size // unit) * unit
    if threads > 1 and (elements % unit or size < 2 * _GRAIN * threads):
        return 0
    return size


def _whole(value: Any, shape: torch.Size) -> Any:
    """A value of a state, all of it plain."""
    if isinstance(value, list):
        return torch.cat([_whole(piece, piece.shape) for piece in value]).view(shape)
    return value.unpack() if isinstance(value, PackedTensor) else value


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}
