"""Training with packed weights: each is updated as soon as its gradient is there, then packed.

The scheme of NeuZip (arXiv 2410.20650), without its lossy mode. Weights are decoded block by block
in the forward pass and one by one in the backward pass; no more than one gradient and one decoded
weight need be in memory at a time.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from densor.errors import ArgumentError
from densor.runtime.buffers import POOL
from densor.torch.packed import DEFAULT_LEVEL, PackedTensor, can_pack, pack_tensor, unpacked

_MIN_PACKED_BYTES = 1 << 14  # bytes of a state that is worth packing


class PackedOptimizer(Optimizer):
    """Any optimizer of `torch.optim`, stepping in the backward pass, parameter by parameter.

    `params`: parameters or groups of them, packed and plain ones. `optimizer`: the class, such as
    `torch.optim.AdamW`, and its further arguments. What it computes for each parameter is what it
    computes in an ordinary loop, bit by bit, as long as it looks at one parameter at a time; what
    needs all gradients at once, such as clipping by their common norm, cannot be had.

    `step` has nothing left to do and `zero_grad` neither, but may be called as usual; schedulers of
    the learning rate work. `state_dict` is that of the wrapped optimizer.

    `pack_state`: keep the optimizer's state packed as well, at `level`.
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
        self._level = level
        self._waiting = False
        sample = optimizer([torch.nn.Parameter(torch.zeros(1))], **options)
        super().__init__(params, sample.defaults)
        self._inner: dict[torch.Tensor, Optimizer] = {}
        self._hooks = []
        for group in self.param_groups:
            for parameter in group["params"]:
                settings = _settings(group)
                self._inner[parameter] = optimizer([{**settings, "params": [parameter]}], **options)
                hook = parameter.register_post_accumulate_grad_hook(self._arrived)
                self._hooks.append(hook)
        self._share()

    def _share(self) -> None:
        """One group and one state for each parameter, here and in the optimizer of its own."""
        self._groups = {p: group for group in self.param_groups for p in group["params"]}
        for parameter, inner in self._inner.items():
            if parameter in self.state:
                inner.state[parameter] = self.state[parameter]

    def _arrived(self, parameter: torch.Tensor) -> None:
        """The gradient of a parameter is complete."""
        if not self._waiting:
            self._update(parameter)

    def _update(self, parameter: torch.Tensor) -> None:
        inner = self._inner[parameter]
        inner.param_groups[0].update(_settings(self._groups[parameter]))
        kept = [value for value in inner.state[parameter].values() if torch.is_tensor(value)]
        with unpacked(parameter, *kept):
            inner.step()
        parameter.grad = None
        state = self.state[parameter] = inner.state[parameter]
        if self._pack_state:
            for key, value in state.items():
                if torch.is_tensor(value) and can_pack(value) and value.nbytes >= _MIN_PACKED_BYTES:
                    state[key] = pack_tensor(value, self._level, verify=False)

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
        POOL.clear()  # packing has filled it
        return loss

    def state_dict(self) -> dict[str, Any]:
        """That of the wrapped optimizer over the same parameters, all tensors plain."""
        saved = super().state_dict()
        saved["state"] = {
            number: {
                key: value.unpack() if isinstance(value, PackedTensor) else value
                for key, value in state.items()
            }
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


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}
