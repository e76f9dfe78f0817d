"""Archives whose checks were made right again after a change, so that it reaches the decoders."""

import json
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

import archives
import mutations
import numpy as np
from helpers import INDEX, put_together, take_apart

from densor import arrays
from densor.formats import strictjson
from densor.formats.entry import ARRAY, DIR, FILE, check_path, parse
from fuzz.mutate import mutated
from fuzz.target import Target, Wrong

Reader = Callable[[bytes], dict[str, bytes]]
_MOST_ARRAY = 1 << 20  # bytes of an array that is described


@cache
def _samples() -> dict[bytes, dict[str, bytes]]:
    return dict(archives.sample(name) for name in archives.MAKERS)


@cache
def _contents() -> frozenset[bytes]:
    """What entries may hold: their hash does not fit anything else."""
    return frozenset(data for entries in _samples().values() for data in entries.values())


def archive_seeds() -> list[bytes]:
    """Small archives of every codec and kind of entry."""
    return list(_samples())


def _indexed(wanted: bool) -> list[bytes]:
    """Those with an index, which hold files and tensors, or those without, of one object each."""
    kinds = {seed: {frame.kind for frame in take_apart(seed)} for seed in archive_seeds()}
    return [seed for seed, found in kinds.items() if (INDEX in found) == wanted]


def mutate_archive(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes frames and seals them again; seldom the bytes as they are."""
    if rng.random() < 0.05:
        return mutated(data, rng, others)
    try:
        changed = mutations.resealed(data, np.random.default_rng(rng.getrandbits(64)))
        if rng.random() < 0.1:
            changed = _moved(changed, rng, others)
        return changed
    except Exception:  # what was changed before cannot be taken apart
        return mutated(data, rng, others)


def _moved(archive: bytes, rng: Random, others: Any) -> bytes:
    """A frame left out, doubled, moved, or taken from another archive."""
    frames = take_apart(archive)
    at, to = rng.randrange(len(frames)), rng.randrange(len(frames))
    action = rng.randrange(4)
    if action == 0:
        del frames[at]
    elif action == 1:
        frames.insert(to, frames[at])
    elif action == 2:
        frames[at], frames[to] = frames[to], frames[at]
    else:
        frames.insert(to, rng.choice(take_apart(rng.choice(others))))
    return put_together(frames, archive[:32])


def _reader(read: Reader) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        if not set(read(data).values()) <= {*_contents(), b""}:
            raise Wrong("wrong data without an error")

    return run


def agrees(data: bytes) -> None:
    """What the reference decoder accepts, is accepted with the same data."""
    mutations.agrees_with_the_reference(data, {str(i): d for i, d in enumerate(_contents())})


def described(data: bytes) -> None:
    """The description of an entry, and the array that it makes of zeros."""
    meta = parse(strictjson.loads(data, "description of an entry"))
    if meta.kind in (FILE, DIR):
        check_path(meta.name)
        if meta.name.startswith("/") or ".." in meta.name.split("/"):
            raise Wrong("a path that leads out of its folder")
    if "\0" in meta.name:
        raise Wrong("a name with NUL")
    if parse(strictjson.loads(strictjson.dumps(meta.to_json()), "again")) != meta:
        raise Wrong("a description that does not survive")
    if meta.kind == ARRAY and meta.size is not None and meta.size <= _MOST_ARRAY:
        arrays.restore(meta, np.zeros(meta.size, np.uint8))


def description_seeds() -> list[bytes]:
    """Entries of every kind."""
    base = {"size": 9, "digest": [1, "00" * 16], "entry": 0, "name": "before"}
    entries: list[dict[str, Any]] = [
        {"name": "a/b.c", "kind": "file", "size": 7, "format": "npy", "mode": 420, "mtime_ns": 1},
        {"name": "d", "kind": "dir", "size": 0, "mode": 493},
        {"name": "w", "kind": "tensor", "size": 24, "dtype": "F32", "shape": [2, 3]},
        {"name": "", "kind": "bytes", "size": 3, "hash": "sha256", "base": base},
        _array(np.zeros((2, 3), "<i2"), "F"),
        _array(np.zeros(4, ">f8"), "C", ">f8", "F64"),
        _array(np.zeros((2, 0, 3), "c8"), "C"),
        _array(np.zeros(3, [("a", ">i4"), ("b", "<f8", (2,))]), "C", True, "VOID"),
        _array(np.zeros(3, "M8[ns]"), "C", "<M8[ns]", "VOID"),
        _array(np.zeros((), "S5"), "C", "|S5", "VOID"),
    ]
    return [json.dumps(entry).encode() for entry in entries]


def _array(array: Any, order: str, descr: Any = None, dtype: str | None = None) -> dict[str, Any]:
    from densor.dtypes import from_numpy

    found = {
        "name": "",
        "kind": "array",
        "size": array.nbytes,
        "dtype": dtype or from_numpy(array.dtype),
        "shape": list(array.shape),
        "order": order,
        "host": "numpy",
    }
    if descr is True:
        descr = np.lib.format.dtype_to_descr(array.dtype)
    return found if descr is None else {**found, "descr": descr}


def mutate_description(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes values of the JSON, seldom its text."""
    if rng.random() < 0.3:
        return mutated(data, rng, others)
    try:
        return mutations.mutated_json(data, np.random.default_rng(rng.getrandbits(64)))
    except Exception:  # no JSON any more
        return mutated(data, rng, others)


_MEMORY = {"most_memory": 1 << 26, "per_byte": 4096}
TARGETS = (
    Target("stream", _reader(mutations.by_stream), archive_seeds, mutate_archive, **_MEMORY),
    Target("index", _reader(mutations.by_index), lambda: _indexed(True), mutate_archive, **_MEMORY),
    Target(
        "object",
        _reader(mutations.by_decompress),
        lambda: _indexed(False),
        mutate_archive,
        **_MEMORY,
    ),
    Target("agreement", agrees, archive_seeds, mutate_archive, **_MEMORY),
    Target("description", described, description_seeds, mutate_description),
)
