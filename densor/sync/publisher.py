"""The training side: copies the weights, then codes what changed and puts it into a store."""

import logging
from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from densor import dtypes
from densor.codec.levels import level_settings
from densor.errors import ArgumentError, FileError
from densor.formats.io.sources import Bytes
from densor.runtime.arguments import need, need_whole
from densor.runtime.beside import Beside
from densor.runtime.workers import thread_count
from densor.sync import changes, message
from densor.sync.message import CHANGE, FULL, NOTHING, Message
from densor.sync.places import open_store
from densor.sync.stores import FolderStore, Store
from densor.sync.weights import (
    Copy,
    copy_all,
    digest_of,
    digest_of_all,
    named_tensors,
    table_of,
)

log = logging.getLogger("densor")


class Publisher:
    """Publishes the weights of a model as they change.

    `model`: a module, or tensors or arrays by name; its state, as `state_dict` has it, is followed.
    `store`: a folder, a URL, or a `Store`; one publisher writes to a store at a time. `every`: so
    many calls of `step` from one message to the next. `full_every`: so many messages from one full
    copy to the next. `keep`: so many full copies stay, with all changes since the oldest.
    `dtype`: floats are published in it, such as `bf16` of FP32 masters. `wait`: where the message
    before is still being coded when the next is due, wait for it; otherwise that one is left out,
    and what changed is part of the next.

    The first message is a full copy. `step` copies all weights to memory of its own and returns;
    coding happens in a thread beside, with `threads` threads. Two copies of the weights, in the
    dtype that is published, are held. What fails there is raised by the next `step`, or by `wait`.
    """

    def __init__(
        self,
        model: Any,
        store: "Store | Any",
        *,
        every: int = 1,
        full_every: int = 64,
        keep: int = 2,
        dtype: str | None = None,
        wait: bool = False,
        coder: changes.Coder | None = None,
    ) -> None:
        need_whole(every=every, full_every=full_every, keep=keep)
        if every < 1 or full_every < 1 or keep < 1:
            raise ArgumentError("every, full_every and keep must be 1 or more")
        self._model = model
        self._store = open_store(store)
        self._every, self._full_every, self._keep = every, full_every, keep
        self._wait = wait
        self._coder = changes.Coder() if coder is None else coder
        need(self._coder, changes.Coder, "coder")
        level_settings(self._coder.level)  # refuses unknown ones, now and not in the thread
        thread_count(self._coder.threads)
        wanted = None if dtype is None else dtypes.parse_dtype(dtype)
        self._table = table_of(named_tensors(model), wanted)
        self._calls = 0
        self._copies = [Copy(self._table, _memory(model, self._table.size)) for _ in range(2)]
        self._digests: list[bytes] = []  # of what was published last
        self._after = NOTHING
        self._since_full = 0
        self._number = message.latest(self._store.names())
        self._beside = Beside("densor-publisher")
        if isinstance(self._store, FolderStore):
            self._store.tidy()

    @property
    def number(self) -> int:
        """Of the latest message; those of a later publisher to the same store are higher."""
        return self._number

    def step(self, step: int | None = None) -> bool:
        """Counts a step of the training, and publishes where that is due.

        `step`: its number, by default that of calls. Returns whether the weights were taken.
        """
        self._calls += 1
        if (self._calls - 1) % self._every:
            self._beside.raise_failure()
            return False
        return self.publish(self._calls if step is None else step)

    def publish(
        self,
        step: int = 0,
        *,
        wait: bool | None = None,
        tensors: Iterable[tuple[str, Any]] | None = None,
    ) -> bool:
        """Publishes the weights as they are now; see `step`. `wait`: this once.

        `tensors`: names and tensors to be taken instead of those of the model, each before the next
        one is asked for: all that were there in the beginning, in any order.
        """
        need_whole(step=step)
        if not 0 <= step < 1 << 64:
            raise ArgumentError(f"step must be 0 or more, and below 2^64, not {step}")
        if self._wait if wait is None else wait:
            self._beside.wait()
        self._beside.raise_failure()
        if self._beside.busy:
            return False
        places = {
            described.name: (described, target)
            for described, target in zip(self._table.tensors, self._copies[1].data, strict=True)
        }
        given = named_tensors(self._model).items() if tensors is None else tensors
        together = []
        for name, tensor in given:
            described, target = places.pop(name, (None, None))
            if described is not None and target is not None:
                if tuple(tensor.shape) != described.shape:
                    raise ArgumentError(f"{name!r:.200}: is not there any more as it was")
                together.append((tensor, described, target))
                if tensors is not None:  # each before the next one is asked for
                    copy_all(together)
                    together.clear()
            elif tensors is not None and name not in self._table.aliases:
                raise ArgumentError(f"{name!r:.200}: was not there before, or is there twice")
        for name in places:
            raise ArgumentError(f"{name!r:.200}: is not there any more as it was")
        copy_all(together)
        self._beside.submit(self._work, step)
        return True

    def wait(self) -> None:
        """Until all that was taken is in the store; raises what failed."""
        self._beside.wait()

    def close(self) -> None:
        """Waits, and ends the thread."""
        self._beside.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self, step: int) -> None:
        """Codes the newer copy against the older one, and makes it the older."""
        old, new = self._copies
        first = not self._digests
        changed = [
            i
            for i, data in enumerate(new.data)
            if first or not np.array_equal(_words(data), _words(old.data[i]))
        ]
        digests = [b""] * len(new.data) if first else list(self._digests)
        for i in changed:
            digests[i] = digest_of(new.data[i])
        after = digest_of_all(self._table, digests)
        number = self._number + 1
        try:
            if not first:
                pieces = changes.encode(
                    self._table.tensors, new.data, old.data, changed, self._coder
                )
                body = message.pack_pieces(list(pieces))
                self._put(Message(CHANGE, number, step, self._after, after, body))
            self._copies = [new, old]
            self._digests, self._after, self._number = digests, after, number
            self._since_full += 1
            if first or self._since_full >= self._full_every:
                self._put_full(step)
        except Exception:
            # What the store has of this number, if anything, is the same state: the next message
            # begins anew with a full copy, of a number that is not in use.
            self._number = max(self._number, number)
            self._digests = []
            raise

    def _put_full(self, step: int) -> None:
        tensors, data = self._table.tensors, self._copies[0].data
        every = range(len(tensors))
        pieces = changes.encode(tensors, data, None, every, self._coder)
        body = message.pack_table(tensors, self._table.aliases) + message.pack_pieces(list(pieces))
        self._put(Message(FULL, self._number, step, NOTHING, self._after, body))
        self._since_full = 0
        self._remove_old()

    def _put(self, sent: Message) -> None:
        self._store.put(sent.name, message.pack(sent))

    def _remove_old(self) -> None:
        """Leaves some full copies, and the changes that lead on from them."""
        names = self._store.names()
        numbers = {kind: message.numbers(names, kind) for kind in (FULL, CHANGE)}
        kept = sorted(numbers[FULL])[-self._keep :]
        if self._number not in kept:  # the store has lost it
            self._since_full = self._full_every
        if not kept:
            return
        for kind, least in ((CHANGE, kept[0] + 1), (FULL, kept[0])):
            for number in numbers[kind]:
                if number < least:
                    try:
                        self._store.remove(message.name_of(kind, number))
                    except FileError as error:  # it only takes space
                        log.warning("an old message could not be removed: %s", error)


def _words(data: Bytes) -> "np.ndarray[Any, Any]":
    """The bytes, as longer words where they can be."""
    return data.view(np.uint64) if data.size % 8 == 0 else data


def _memory(model: Any, size: int) -> Bytes | None:
    """Memory that a GPU can copy to while it computes; None for ordinary memory."""
    tensors = named_tensors(model).values()
    if not any(getattr(getattr(t, "device", None), "type", "cpu") == "cuda" for t in tensors):
        return None
    import torch

    pinned: Bytes = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
    return pinned
