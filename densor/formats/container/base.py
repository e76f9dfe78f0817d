"""The base that entries are coded against, known by the hash of its bytes."""

from collections.abc import Callable, Sequence

from densor.errors import ArgumentError, FormatError, LimitError
from densor.formats.container import wire
from densor.formats.container.entry import BaseRef, EntryMeta
from densor.formats.container.hashing import NAMES, kind_of, new_hash
from densor.formats.io.sources import FileRandomSource, RandomSource
from densor.formats.tensors import TensorInfo
from densor.runtime.buffers import POOL
from densor.runtime.locks import Lock

_PIECE = 1 << 23  # bytes that are hashed at a time
_PIECE_OF_FILE = 1 << 19  # likewise, which stay in caches from the copy to the hash


class GivenBase:
    """The base that the caller has given. Safe to use from several threads.

    `check_unchanged`: raises a FileError if its bytes may not be what they were. `tensors`: those
    in its bytes, where they are known without looking.
    """

    tensors: Sequence[TensorInfo] | None = None

    def __init__(
        self,
        source: RandomSource,
        name: str | None = None,
        check_unchanged: Callable[[], None] = lambda: None,
    ) -> None:
        self.check_unchanged = check_unchanged
        self._source = source
        self.name = name
        self._digests: dict[int, bytes] = {}
        self._lock = Lock()

    @property
    def source(self) -> RandomSource:
        """Its bytes."""
        return self._source

    def file(self, name: str) -> "GivenBase | None":
        """What a file of this name goes with, among several; None if there is nothing."""
        return self

    def reference(self, hash: str | None = None) -> BaseRef:
        """What an entry that is coded against this says about it; reads it once."""
        kind = kind_of(hash)
        return BaseRef(self.source.size, kind, self._digest(kind), name=self.name)

    def matching(self, wanted: BaseRef) -> RandomSource:
        """The base, if it is what an entry refers to; ArgumentError otherwise."""
        found = f"{self.source.size} bytes"
        if self.source.size == wanted.size:
            digest = self._digest(wanted.hash_kind)
            if digest == wanted.digest:
                return self.source
            found = f"{NAMES[wanted.hash_kind]} {digest.hex()}"
        given = "base" if self.name is None else f"base {self.name}"
        raise ArgumentError(f"{given} has {found}; needed is {described(wanted)}")

    def _digest(self, kind: int) -> bytes:
        with self._lock:
            if kind not in self._digests:
                self._digests[kind] = _digest_of(self.source, kind)
            return self._digests[kind]


def described(wanted: BaseRef) -> str:
    """A base in words."""
    name = "a file" if wanted.name is None else wanted.name
    return f"{name} of {wanted.size} bytes with {NAMES[wanted.hash_kind]} {wanted.digest.hex()}"


def resolve(wanted: BaseRef, given: GivenBase | None) -> RandomSource:
    """The base outside the archive that an entry needs; ArgumentError if it is not at hand."""
    if given is None:
        raise ArgumentError(f"needs a base, {described(wanted)}: give it with --base (base=)")
    return given.matching(wanted)


def _digest_of(source: RandomSource, kind: int) -> bytes:
    hasher = new_hash(NAMES[kind])
    piece = _PIECE_OF_FILE if isinstance(source, FileRandomSource) else _PIECE
    for at in range(0, source.size, piece):
        data = source.read_at(at, min(piece, source.size - at))
        hasher.update(data)
        POOL.give(data)
    return hasher.digest()


Identity = tuple[int, int, bytes]  # size, kind of hash and hash of an entry


def chain_of(
    meta: EntryMeta, features: int, earlier: Callable[[int], tuple[Identity, int] | None]
) -> int:
    """How many bases of bases an entry needs; FormatError or LimitError if it may not have its.

    `earlier`: an entry that comes before it, by number, and how many that one needs.
    """
    wanted = meta.base
    if wanted is None:
        return 0
    if not features & wire.BASE:
        raise FormatError(f"{meta.name}: has a base, which the archive may not have")
    if wanted.entry is None:
        return 1
    found = earlier(wanted.entry)
    if found is None:
        raise FormatError(f"{meta.name}: is based on what comes after it")
    identity, chain = found
    check_chain(wanted, identity)
    if chain >= wire.MAX_CHAIN:
        raise LimitError(f"{meta.name}: is based on too long a chain of entries")
    return chain + 1


def check_chain(wanted: BaseRef, found: Identity) -> None:
    """FormatError unless an entry is what another one in the archive takes it for."""
    if wanted[:3] != found:
        raise FormatError("entry is based on another one that has not the hash it names")
