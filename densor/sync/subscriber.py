"""The receiving side: fetches messages, checks them, and changes the weights of a model."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from densor import arrays
from densor.errors import ArgumentError, ChecksumError, DensorError, FileError, FormatError
from densor.runtime.arguments import need_whole
from densor.runtime.locks import Lock
from densor.runtime.workers import thread_count
from densor.sync import changes, message
from densor.sync.message import CHANGE, FULL, Message
from densor.sync.places import open_store
from densor.sync.receivers import Receivers
from densor.sync.stores import Store
from densor.sync.weights import Table, check_strided, digest_of, digest_of_all, named_tensors

log = logging.getLogger("densor")
_SPARE = 1 << 24  # bytes that a message may have above four times those of the weights
_FETCHES = 3  # of a message that is damaged, before it counts as missing for now
_PAUSE = 0.05  # seconds between them


class Subscriber:
    """Lets the weights of a model follow those that a `Publisher` puts into a store.

    `model`: a module, or tensors or arrays by name, that are changed in place. `store`: as for
    `Publisher`; `tcp://host:port` for a `StoreServer`. Tensors may have another dtype or device,
    or be no contiguous stretch of memory: what was published is kept in memory of its own then,
    and tensors that changed are copied from there.

    `fused`: of a tensor of the model that is made of several published ones, one behind the other
    in the first dimension, their names, such as `{"qkv.weight": ("q.weight", "k.weight",
    "v.weight")}`. `shards`: of a tensor that is part of a published one, the dimension and where
    in it the part begins. `receive`: called with a list of names and tensors that changed, instead
    of changing a model (which is None then), such as `load_weights` of an inference engine; the
    tensors must not be kept.

    A message is applied only if its checksum is right, and if it leads on from the weights that
    are there, by their hash. After each, the hash of all weights must be the publisher's.
    """

    def __init__(
        self,
        model: Any,
        store: "Store | Any",
        *,
        fused: Mapping[str, Sequence[str]] | None = None,
        shards: Mapping[str, tuple[int, int]] | None = None,
        receive: Callable[[list[tuple[str, Any]]], object] | None = None,
        threads: int = 0,
    ) -> None:
        if (model is None) == (receive is None):
            raise ArgumentError("give a model, or a function that receives tensors")
        self._model = model
        self._store = open_store(store)
        self._fused, self._shards = dict(fused or {}), dict(shards or {})
        self._receive = receive
        self._threads = thread_count(threads)
        self._lock = Lock()
        self._table: Table | None = None
        self._receivers: Receivers | None = None
        self._digests: list[bytes] = []
        self._state: bytes | None = None  # digest of the weights as they are, where that is known
        self._spoiling: set[int] = set()  # messages of changes that failed amid the weights
        self._limit = (1 << 62) if model is None else self._size_limit()
        self._number = -1
        self._step = -1
        self.problem: DensorError | None = None

    @property
    def number(self) -> int:
        """Of the message that the weights are those of; -1 where they are of none, or a message
        failed amid them."""
        return self._number if self._state is not None else -1

    @property
    def step(self) -> int:
        """Of the training, likewise."""
        return self._step if self._state is not None else -1

    def update(self, most: int | None = None) -> int:
        """Applies all messages that lead on from the weights as they are; how many there were.

        `most`: the number of the last one to apply, where later ones are there.
        `number` and `step` say then what the weights are. Where a message is missing or damaged,
        they stay what they are until it, or a later full copy, can be had; `problem` says what is
        wrong, and is None otherwise. Raises a DensorError where the model does not fit.
        """
        with self._lock:
            self.problem = None
            self._spoiling.clear()
            applied = self._follow(most)
            while self._catch_up(most):
                applied += 1 + self._follow(most)
                if self._state is not None:
                    break
            return applied

    def wait_for(
        self, number: int, timeout: float = 60.0, pause: float = 0.05, *, exactly: bool = False
    ) -> None:
        """Updates until the weights are those of message `number`, or later ones.

        `exactly`: of no later one; ArgumentError if they are already. FileError if they are not
        after so many seconds, or the messages that lead there are no longer in the store.
        """
        need_whole(number=number)
        if exactly and self.number > number:
            raise ArgumentError(f"weights are those of message {self.number}, after {number}")
        most = number if exactly else None
        end = time.monotonic() + timeout
        self.update(most)
        while self.number < number or self._state is None:
            if time.monotonic() > end:
                reason = f": {self.problem}" if self.problem else ""
                raise FileError(f"message {number} did not come within {timeout} s{reason}")
            time.sleep(pause)
            self.update(most)

    def verify(self) -> None:
        """Compares the hash of all weights with the publisher's; ChecksumError if they differ.

        Of tensors that are copied to a model, since they look different there, those that were
        published are compared, not the copies.
        """
        with self._lock:
            if self._state is None or self._receivers is None or self._table is None:
                raise ChecksumError("weights are not those of any message")
            self._check_in_place()
            found = [digest_of(data) for data in self._receivers.data]
            if digest_of_all(self._table, found) != self._state:
                self._state = None
                raise ChecksumError("weights are not what they were after the last message")

    def tensors(self) -> list[tuple[str, Any]]:
        """Names and tensors of all weights as they are, by the names they were published under.

        They share their memory with what the next `update` changes. ChecksumError where the weights
        are not known to be those of a message.
        """
        with self._lock:
            if self._state is None or self._table is None:
                raise ChecksumError("weights are not those of any message")
            return [(one.name, self._tensor(i)) for i, one in enumerate(self._table.tensors)]

    def _size_limit(self) -> int:
        named = named_tensors(self._model)
        for name, tensor in named.items():
            if arrays.is_torch(tensor):
                check_strided(name, tensor)  # others do not say how many bytes they have
        return 4 * sum(int(tensor.nbytes) for tensor in named.values()) + _SPARE

    def _follow(self, most: int | None) -> int:
        """Applies the changes that come next; how many there were."""
        applied = 0
        while self._state is not None and (most is None or self.number < most):
            number = self.number + 1
            if number in self._spoiling or not self._take(CHANGE, number):
                break
            applied += 1
        return applied

    def _catch_up(self, most: int | None) -> bool:
        """Takes the latest full copy that can be had, where that leads on.

        Any does where one has failed amid the weights.
        """
        try:
            names = self._store.names()
        except DensorError as error:
            self._refuse("list of messages", error)
            return False
        latest = message.latest(names)
        if -1 < latest < self.number:
            text = f"the latest message is {latest}, the weights are those of {self.number}"
            self.problem = FileError(f"{text}: has another training begun?")
        for number in sorted(set(message.numbers(names, FULL)), reverse=True):
            if number <= self.number:
                break
            if (most is None or number <= most) and self._take(FULL, number):
                return True
        return False

    def _take(self, kind: int, number: int) -> bool:
        """Fetches a message and applies it; whether that was done."""
        for attempt in range(_FETCHES):
            if attempt:
                time.sleep(_PAUSE)
            try:
                found = self._fetch(kind, number)
            except DensorError as error:
                self._refuse(message.name_of(kind, number), error)
                continue
            if found is None:
                return False
            try:
                self._apply(found)
            except ArgumentError:
                raise
            except DensorError as error:
                self._refuse(found.name, error)
                return False
            return True
        return False

    def _refuse(self, name: str, error: DensorError) -> None:
        self.problem = type(error)(f"{name}: {error}")
        log.warning("message of weights refused: %s", self.problem)

    def _fetch(self, kind: int, number: int) -> Message | None:
        name = message.name_of(kind, number)
        data = self._store.get(name, self._limit)
        if data is None:
            return None
        found = message.parse(data)
        if found.name != name:
            raise FormatError(f"is in the place of another one, holds {found.name}")
        return found

    def _apply(self, found: Message) -> None:
        """Applies a message; if it does not fit, nothing has changed."""
        if found.kind == FULL:
            table, body = message.parse_table(found.body)
        else:
            assert self._table is not None
            if found.before != self._state:
                raise FormatError("does not lead on from the weights that are there")
            table, body = self._table, memoryview(found.body)
        pieces = message.parse_pieces(body, len(table.tensors))
        changes.check(pieces, table.tensors)
        if found.kind == FULL:
            if sum(piece.count for piece in pieces) != len(table.tensors):
                raise FormatError("full message lacks tensors")
            self._attach(table)
        else:
            self._check_in_place()
            self._check_unchanged(pieces)
        self._change(found, pieces)

    def _attach(self, table: Table) -> None:
        """Finds where the tensors of a table go."""
        if self._table is None or table != self._table:
            self._receivers = Receivers(self._model, table, self._fused, self._shards)
        self._table = table

    def _check_in_place(self) -> None:
        """That the model still has the tensors whose memory is changed."""
        assert self._receivers is not None
        if self._receivers.moved:
            self._state = None  # only a full copy helps
            raise ChecksumError("the model has other tensors than after the last message")

    def _check_unchanged(self, pieces: Sequence[message.Piece]) -> None:
        """That the weights to be changed are what they were after the last message."""
        assert self._receivers is not None
        for piece in pieces:
            for i in range(piece.first, piece.first + piece.count):
                if digest_of(self._receivers.data[i]) != self._digests[i]:
                    assert self._table is not None
                    name = self._table.tensors[i].name
                    self._state = None  # only a full copy helps
                    raise ChecksumError(f"{name!r:.200} was changed since the last message")

    def _change(self, found: Message, pieces: Sequence[message.Piece]) -> None:
        """Changes weights; they count as unknown until all is done and the hash is right."""
        table, receivers = self._table, self._receivers
        assert table is not None and receivers is not None
        self._state = None
        digests = list(self._digests) or [b""] * len(table.tensors)
        if found.kind == FULL:
            digests = [b""] * len(table.tensors)
        changed: list[int] = []

        def done(number: int) -> None:
            digests[number] = digest_of(receivers.data[number])
            changed.append(number)

        with_base = found.kind == CHANGE
        try:
            for piece in pieces:
                changes.apply(piece, table.tensors, receivers.data, self._threads, with_base, done)
            if digest_of_all(table, digests) != found.after:
                raise ChecksumError("weights are not what the publisher has")
        except DensorError:
            if with_base:  # it is not tried on the full copy that comes next
                self._spoiling.add(found.number)
            raise
        receivers.deliver(changed)
        if self._receive is not None:
            self._receive([(table.tensors[i].name, self._tensor(i)) for i in changed])
        self._digests, self._state = digests, found.after
        self._number, self._step = found.number, found.step

    def _tensor(self, number: int) -> Any:
        assert self._table is not None and self._receivers is not None
        described = self._table.tensors[number]
        return arrays.to_torch(described.dtype, described.shape, self._receivers.data[number])
