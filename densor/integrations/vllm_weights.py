"""New weights for vLLM while it serves: a backend of its weight transfer, named "densor".

`LLM(folder, weight_transfer_config=WeightTransferConfig(backend="densor"))` makes an engine of this
class in each worker, which has a `densor.sync.Subscriber` on the store that `init_info` names, so
that only changes travel. vLLM then loads all weights as it does those of a checkpoint, layer by
layer, since it keeps many of them in another form. Written for vLLM 0.32.
"""

from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from densor.errors import ArgumentError
from densor.sync import Subscriber


@dataclass
class StoreInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """`store`: a folder or URL, as `Subscriber` takes it. `threads`: of decoding; 0 for all."""

    store: str
    threads: int = 0


@dataclass
class MessageInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """`number`: of the message waited for, `timeout` seconds; -1 or None for the latest there is.

    Where there are several workers, a number is needed: each of them might find another one latest.
    """

    number: int | None = -1
    timeout: float = 60.0


class DensorTransferEngine(WeightTransferEngine[StoreInfo, MessageInfo]):  # type: ignore[misc]
    """The worker's side, as vLLM calls it: `init`, then `start`, `update`, `finish` for each step.

    A message that cannot be had ends in a DensorError, and the worker has the weights that it
    served before. What fails later, while vLLM loads them, leaves layers in part replaced: serve
    nothing until an update succeeds.
    """

    init_info_cls = StoreInfo
    update_info_cls = MessageInfo
    supports_draft_weight_update = False
    _subscriber: Subscriber | None = None

    def init_transfer_engine(self, init_info: StoreInfo) -> None:
        """Opens the store."""
        self._subscriber = Subscriber(
            None, init_info.store, receive=_nowhere, threads=init_info.threads
        )

    def start_weight_update(self) -> None:
        """Nothing: layers are taken apart only once there are weights for them."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Likewise, and waits for the device, if there is one other than the CPU."""
        self.receive_weights(self.parse_update_info(update_info))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: MessageInfo) -> None:
        """Takes messages from the store, and loads all weights as they are then."""
        if self._subscriber is None:
            raise ArgumentError("init_weight_transfer_engine names the store first")
        number, timeout = _checked(update_info)
        latest = number < 0
        if latest and self.parallel_config.world_size_across_dp > 1:
            raise ArgumentError("several workers need the number of a message, not the latest")
        self._subscriber.wait_for(number, timeout, exactly=not latest)
        tensors = self._subscriber.tensors()
        initialize_layerwise_reload(self.model)
        self.model.load_weights(tensors)
        finalize_layerwise_reload(self.model, self.model_config)

    def finish_weight_update(self) -> None:
        """Nothing: see `receive_weights`."""

    def shutdown(self) -> None:
        """Forgets the store and its weights."""
        self._subscriber = None


def _nowhere(_: object) -> None:
    """Weights stay with the subscriber until all of them are loaded."""


def _checked(info: MessageInfo) -> tuple[int, float]:
    """Number, -1 for the latest, and timeout of a message; ArgumentError for what are none."""
    number, timeout = -1 if info.number is None else info.number, info.timeout
    if type(number) is not int or not isinstance(timeout, int | float):
        raise ArgumentError(f"{number!r} and {timeout!r} are no number and timeout of a message")
    return number, timeout
