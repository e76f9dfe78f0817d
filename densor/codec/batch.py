"""Batches: up to 24 MiB of one tensor, or of plain bytes, that share parameters; and coded ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.history import History
from densor.runtime.workers import Task, Workers

if TYPE_CHECKING:
    from densor.codec.circuit.coding import ImageTables
    from densor.codec.kind import Kind
    from densor.codec.language_model.session import Session
    from densor.codec.levels import Level

Bytes = npt.NDArray[np.uint8]
OWN = -1  # the model number of a chunk that uses its batch's parameters


class Before(NamedTuple):
    """What a batch may be coded against: as many bytes, from `offset` of the base on."""

    data: Bytes
    offset: int


class Looked(Protocol):
    """What an encoder has found of a batch by itself, whatever was coded before."""

    def is_of(self, batch: "Batch", level: "Level") -> bool:
        """Whether this very batch was looked at, to be coded in the same way."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What an encoder codes: uint8[n], what these bytes are, and what it may use for that.

    `chunk_bytes`: bytes of a chunk; 0 for one chunk. `history`: of the archive. `base`: similar
    data. `session`: the language model for bytes, or tokens. `circuit`: that for images of its
    size, or a network for them. `looked`: what was found of it before those in front were coded.
    """

    data: Bytes
    kind: "Kind"
    workers: Workers
    history: History = field(default_factory=History)
    base: Before | None = None
    session: "Session | None" = None
    circuit: "ImageTables | None" = None
    chunk_bytes: int = 0
    looked: Looked | None = None

    def _with(self, **changes: object) -> "Batch":
        """What `dataclasses.replace` gives, in a tenth of the time."""
        new = object.__new__(Batch)
        new.__dict__.update(self.__dict__, **changes)
        return new

    def in_chunks_of(self, size: int) -> "Batch":
        """The same in chunks of `size` bytes."""
        return self._with(chunk_bytes=size)

    def part(self, data: Bytes, kind: "Kind", session: "Session | None") -> "Batch":
        """A part of it, all or none of which `session` is for."""
        return self._with(data=data, kind=kind, session=session)

    def of_kind(self, kind: "Kind") -> "Batch":
        """The same bytes, taken as something else."""
        return self._with(kind=kind)

    def looked_at(self, looked: Looked) -> "Batch":
        """The same, with what was found of it."""
        return self._with(looked=looked)

    def alone(self, data: Bytes | None = None) -> "Batch":
        """The same, or a sample of it, as one chunk that is coded in the calling thread."""
        data = self.data if data is None else data
        return self._with(data=data, workers=Workers(1), chunk_bytes=0)

    def chunks(self) -> list[Bytes]:
        """The chunks in order, views of `data`."""
        step = self.chunk_bytes or max(1, self.data.size)
        return [self.data[at : at + step] for at in range(0, self.data.size, step)]


class Chunk(NamedTuple):
    """A coded chunk of `original` bytes. `model`: a fixed model number, or `OWN`."""

    model: int
    payload: bytes | Bytes
    original: int

    @property
    def own(self) -> bool:
        """Whether the chunk uses its batch's parameters."""
        return self.model == OWN


class Frames(Protocol):
    """Chunks as the frames that they have in an archive."""

    def number(self, model: int) -> Sequence[Bytes]:
        """Pieces of the frames one after the other; `model`: the number of the parameters."""


class CodedBatch(NamedTuple):
    """The payload of the MODEL frame, if any chunk uses it, and the chunks in order.

    `memory`: of the pool, in which payloads lie; given back once written. `frames`: all chunks,
    where the encoder has made their frames as well. `rest`: what is behind these chunks, where it
    has parameters of its own.
    """

    model: bytes | None
    chunks: list[Chunk]
    memory: Bytes | None = None
    frames: Frames | None = None
    rest: "CodedBatch | None" = None

    @property
    def stored(self) -> int:
        """Bytes that it takes in an archive."""
        headers = registry.FRAME_SIZE * (len(self.chunks) + (self.model is not None))
        behind = 0 if self.rest is None else self.rest.stored
        payloads = sum(len(chunk.payload) for chunk in self.chunks)
        return headers + len(self.model or b"") + payloads + behind


class Coding(Protocol):
    """A batch that is being coded."""

    def result(self) -> CodedBatch:
        """Waits for the coded batch, or raises what coding it raised."""


class MayBe(Protocol):
    """A batch that is being coded in a way which may turn out not to be for it."""

    def result(self) -> CodedBatch | None:
        """As of a `Coding`; None where it is not."""


class HasParameters(Protocol):
    """What knows the payload of a MODEL frame."""

    def model(self) -> bytes:
        """The payload of the MODEL frame."""


class Chunks:
    """A `Coding` of chunks; `coder` has their parameters, None where these need none."""

    def __init__(self, coder: HasParameters | None, tasks: Sequence[Task[Chunk]]) -> None:
        self._coder = coder
        self._tasks = tasks

    def result(self) -> CodedBatch:
        """Waits for all chunks."""
        chunks = [task.result() for task in self._tasks]
        own = self._coder is not None and any(chunk.own for chunk in chunks)
        return CodedBatch(self._coder.model() if self._coder and own else None, chunks)


class InTurn:
    """A `Coding` of parts, one behind the other, each under its own parameters; at least one."""

    def __init__(self, parts: Sequence[Coding]) -> None:
        self._parts = parts

    def result(self) -> CodedBatch:
        """Waits for all of them."""
        *before, coded = [part.result() for part in self._parts]
        for part in reversed(before):
            coded = part._replace(rest=coded)
        return coded


class Smallest:
    """A `Coding` in several ways, of which the first of the smallest is taken."""

    def __init__(self, *codings: Coding) -> None:
        self._codings = codings

    def result(self) -> CodedBatch:
        """Waits for all of them."""
        return smallest([coding.result() for coding in self._codings])


class Otherwise:
    """A `Coding` by one way, or by another one where that gives None."""

    def __init__(self, task: MayBe, other: Callable[[], Coding]) -> None:
        self._task = task
        self._other = other

    def result(self) -> CodedBatch:
        """Waits for what was tried; what comes instead of it is begun only then."""
        coded = self._task.result()
        return self._other().result() if coded is None else coded


class Unless:
    """A `Coding` by one way, and by another one beside it unless the first is good enough."""

    def __init__(
        self,
        coding: Coding,
        enough: Callable[[CodedBatch], bool],
        other: Callable[[], Coding],
    ) -> None:
        self._coding = coding
        self._enough = enough
        self._other = other

    def result(self) -> CodedBatch:
        """Waits for the first, and the other one where it is begun."""
        coded = self._coding.result()
        return coded if self._enough(coded) else smallest([coded, self._other().result()])


def smallest(coded: Sequence[CodedBatch]) -> CodedBatch:
    """The batch that takes the fewest bytes in an archive, the first of equals."""
    return min(coded, key=lambda batch: batch.stored)
