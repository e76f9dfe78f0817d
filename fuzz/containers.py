"""Archives whose checks were made right again after a change, so that it reaches the decoders."""

import contextlib
import io
import json
from collections.abc import Callable
from functools import cache, partial
from random import Random
from typing import Any

import archives
import mutations
import numpy as np
from helpers import INDEX, put_together, take_apart, weights

import densor
from densor import arrays
from densor.errors import DensorError
from densor.formats.container import strictjson, wire
from densor.formats.container.entry import ARRAY, DIR, FILE, check_path, parse
from densor.formats.container.packed_array import PackedArray
from densor.formats.container.tensor_blob import Tensor, decode, describe, encode
from densor.formats.damage import recovery
from densor.formats.damage.salvage import _Salvage
from densor.formats.io.sources import MemoryRandomSource
from densor.formats.parsers.safetensors import parse as parse_packed
from densor.options import ReadOptions, WriteOptions
from densor.runtime.workers import Workers
from fuzz.codecs import decoded_twice
from fuzz.mutate import mutated
from fuzz.parsers import mutate_header, safetensors_seeds
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


def short_seeds() -> list[bytes]:
    """The same in the short form."""
    return [archives.in_short_form(seed) for seed in archive_seeds()]


def mutate_short(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes what follows the header, and seals it again."""
    body = mutated(data[wire.HEADER_SIZE :], rng, [other[wire.HEADER_SIZE :] for other in others])
    return wire.pack_short_header(int.from_bytes(data[12:16], "little"), body) + body


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


# Damaged archives


def _note(pieces: list[tuple[int, bytes]], begin: int, piece: Any) -> None:
    pieces.append((begin, bytes(piece)))


def salvaged(data: bytes) -> object:
    """What is left of an archive; entries that are said to be whole are right."""
    options = ReadOptions(threads=1, max_output_size=1 << 24)
    work = _Salvage(MemoryRandomSource(data), options, None)
    whole = 0
    for remains in work._found.entries:
        pieces: list[tuple[int, bytes]] = []
        found = work.entry(remains, partial(_note, pieces))
        if found.verified:
            content = b"".join(piece for _, piece in sorted(pieces))
            if content not in _contents() and content:
                raise Wrong("salvaged data is wrong but said to be whole")
            whole += 1
    return len(work._found.entries), whole, len(work._found.damaged)


def recovered(data: bytes) -> object:
    """The layout that recovery data tells, and what it can mend."""
    source = MemoryRandomSource(data)
    layout = recovery.find_layout(source)
    if layout is None:
        return None
    if layout.protected > len(data):
        raise Wrong("recovery data protects more than there is")
    condition = recovery.damage_of(source, layout)
    mended = 0
    for group in recovery.groups_of(source, layout):
        if group.known and group.mendable:
            recovery.mended(layout, group)
            mended += 1
    return condition.blocks, condition.frames, condition.tail, mended


def mutate_damage(data: bytes, rng: Random, others: Any) -> bytes:
    """Damage as it happens, and frames that are sealed again."""
    if rng.random() < 0.5:
        return mutate_archive(data, rng, others)
    return mutated(data, rng, others)


@cache
def protected_seeds() -> list[bytes]:
    """Archives with recovery data."""
    found = []
    for size, percent in ((2000, 20.0), (9000, 5.0)):
        noise = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
        out = io.BytesIO()
        densor.compress_file(io.BytesIO(noise), out, threads=1, recovery=percent)
        found.append(out.getvalue())
    return found


# Objects that stay packed in memory


@cache
def array_seeds() -> list[bytes]:
    """Arrays of every codec."""
    found = []
    for seed in _indexed(False):
        with contextlib.suppress(DensorError):  # those of bytes and of records cannot stay packed
            PackedArray(seed)
            found.append(seed)
    return found


def held(data: bytes) -> object:
    """Taken in once, then decoded."""
    packed_array = PackedArray(data)
    if packed_array.size > _MOST_ARRAY:
        return None
    decoded_twice(lambda out: packed_array.decode_into(out, Workers(1)), max(packed_array.size, 1))
    packed_array.verify(Workers(1))
    return packed_array.dtype, packed_array.shape


# Packed tensors in safetensors files


def packed(data: bytes) -> object:
    """A blob of one tensor: what it says, and what it decodes to."""
    blob = np.frombuffer(data, np.uint8)
    tensor = describe(blob)
    if tensor.size > _MOST_ARRAY:
        return None
    if decode(blob, tensor, 1).tobytes() not in {*_blobs().values(), b""}:
        raise Wrong("wrong data without an error")
    return tensor.dtype, tensor.shape


def safetensors_heads() -> list[bytes]:
    """Headers of safetensors files alone."""
    ends = [8 + int.from_bytes(seed[:8], "little") for seed in safetensors_seeds()]
    return [seed[:end] for seed, end in zip(safetensors_seeds(), ends, strict=True)]


def packed_header(data: bytes) -> object:
    """The header of a file of packed tensors."""
    header = parse_packed(data)
    if any(not len(data) <= t.begin <= t.end <= header.end for t in header.tensors.values()):
        raise Wrong("a tensor lies outside of its file")
    return len(header.tensors)


@cache
def _blobs() -> dict[bytes, bytes]:
    found = {}
    for dtype, kind, level in (("BF16", "bf16", 3), ("F32", "fp32", 6), ("F16", "fp16", 9)):
        array = weights(kind, 6, 90)
        bits = array.view(np.uint8).ravel()
        tensor = Tensor("w", dtype, array.shape, bits.size, None)
        found[encode(tensor, bits, WriteOptions(level=level, threads=1))] = bits.tobytes()
    return found


@cache
def _alike() -> tuple[bytes, frozenset[bytes]]:
    """Small tensors that share parameters, some of them equal, empty or of other types."""
    file = io.BytesIO()
    values = weights("fp16", 60, 64)
    with densor.Writer(file, threads=1) as writer:
        for number, row in enumerate(values):
            tensor = row.view(np.float16) if number % 9 else np.arange(number // 27, dtype=np.int32)
            writer.add_tensor(f"t{number}", tensor)
    archive = file.getvalue()
    return archive, frozenset(tensor.tobytes() for tensor in densor.load(archive).values())


def in_runs(data: bytes) -> None:
    """Entries that are decoded together are what was packed, as those that are decoded alone."""
    with densor.open(data, threads=1, max_output_size=1 << 24) as file:
        entries = file.archive.entries
        for entry, found in zip(entries, file.archive.read_each(entries), strict=True):
            if found.tobytes() not in _alike()[1]:
                raise Wrong(f"wrong data without an error: {entry.meta.name}")


_MEMORY = {"most_memory": 1 << 26, "per_byte": 4096}
TARGETS = (
    Target("stream", _reader(mutations.by_stream), archive_seeds, mutate_archive, **_MEMORY),
    Target("index", _reader(mutations.by_index), lambda: _indexed(True), mutate_archive, **_MEMORY),
    Target("runs", in_runs, lambda: [_alike()[0]], mutate_archive, **_MEMORY),
    Target(
        "object",
        _reader(mutations.by_decompress),
        lambda: _indexed(False),
        mutate_archive,
        **_MEMORY,
    ),
    Target("agreement", agrees, archive_seeds, mutate_archive, **_MEMORY),
    Target("short form", agrees, short_seeds, mutate_short, **_MEMORY),
    Target("salvage", salvaged, archive_seeds, mutate_damage, **_MEMORY),
    Target("recovery", recovered, protected_seeds, mutate_damage, **_MEMORY),
    Target("held", held, array_seeds, mutate_archive, **_MEMORY),
    Target("blob", packed, lambda: list(_blobs()), mutate_archive, **_MEMORY),
    Target("packed header", packed_header, safetensors_heads, mutate_header),
    Target("description", described, description_seeds, mutate_description),
)
