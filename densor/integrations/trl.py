"""A door for TRL's asynchronous trainers: weights reach inference as coded changes.

`AsyncGRPOTrainer(..., weight_transfer=PackedTransfer("runs/7/weights"))`: it has the methods of
`WeightTransferProtocol` (TRL 1.16, `trl.experimental.async_grpo`), in the place of the one that
broadcasts all weights over NCCL. Whatever generates has a `densor.sync.Subscriber` on the same
store, such as one whose `receive` is `load_weights` of an engine. TRL itself is not imported.
"""

from collections.abc import Callable, Iterable
from typing import Any

from densor.errors import ArgumentError
from densor.sync import Publisher


class PackedTransfer:
    """Puts the weights that the trainer streams into a store, as `densor.sync.Publisher` does.

    `store`, and `full_every`, `keep`, `dtype` in `options`: as for `Publisher`. `pause`: called
    before weights are taken. `resume`: called with the number of the message when it is in the
    store, such as to let the server take it (`Subscriber.wait_for`) and go on; what it raises
    reaches the trainer, which counts its weights as served from then on.
    """

    def __init__(
        self,
        store: Any,
        *,
        pause: Callable[[], object] | None = None,
        resume: Callable[[int], object] | None = None,
        **options: Any,
    ) -> None:
        if {"every", "wait"} & set(options):
            raise ArgumentError("the trainer says when weights are sent")
        self._store, self._options = store, options
        self._pause, self._resume = pause, resume
        self._publisher: Publisher | None = None
        self._step = -1

    @property
    def number(self) -> int:
        """Of the latest message; -1 before there is one."""
        return -1 if self._publisher is None else self._publisher.number

    def init_weight_transfer(self) -> None:
        """Called once before the first transfer; nothing has to be set up."""

    def pause(self) -> None:
        """Called before weights are sent."""
        if self._pause is not None:
            self._pause()

    def send_weights(self, iterator: Iterable[tuple[str, Any]]) -> None:
        """Takes all names and tensors, and returns when what changed is in the store.

        The first time all tensors are held at once; after that, one at a time, beside the two
        copies that a publisher has.
        """
        self._step += 1
        if self._publisher is None:
            named = dict(iterator)
            self._publisher = Publisher(named, self._store, **self._options)
            iterator = named.items()
        self._publisher.publish(self._step, wait=True, tensors=iterator)
        self._publisher.wait()

    def resume(self) -> None:
        """Called when they have been sent."""
        if self._resume is not None:
            self._resume(self.number)

    def destroy(self) -> None:
        """Ends the thread that codes; the store keeps its messages."""
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None
