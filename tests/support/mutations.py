"""Sound archives made unsound, and what must then happen: a DensorError or the right data.

Used by test_damage, and run as a program under NUMBA_BOUNDSCHECK=1, where an access outside an
array raises IndexError instead of passing unseen.
"""

import copy
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import archives
import numpy as np
import zstandard
from helpers import CHUNK, ENTRY, INDEX, MODEL, Frame, put_together, take_apart
from paths import TESTS
from reference import container
from reference.reading import Refused

import densor

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 127, 128, 255)
WORDS = (0, 1, 7, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 41, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**30),
    *("", "a", "..", "/etc/passwd", "x\0y", "é" * 3000, "\ud800", "F32", "VOID", "F", "torch"),
    *("file", "array", "tensor", "dir", "bytes", "sha256", "safetensors", "|O", "<f4", "V0"),
    *([], [0], [-1], [2**62, 2**62], [0, 2**62, 2**62], [1] * 65, ["x"], [[]], {}, {"a": 1}),
    *([["a", "<f4"]], [["a", "|O"]], ["<f4", [2]], [2**31, "x"], [1, "00" * 16], [0] * 5000),
)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A few random changes: bits, bytes, words, pieces that are cut, doubled or cleared."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, max(1, min(len(out), rng.choice([8, 64, 1 << 30])))))
        length = int(rng.integers(1, 9))
        action = int(rng.integers(0, 8))
        if action <= 1 and out:
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif action == 2 and out:
            out[at] = int(rng.choice(NUMBERS))
        elif action == 3:
            out[at : at + 4] = int(rng.choice(WORDS)).to_bytes(4, "little")
        elif action == 4:
            del out[at : at + length]
        elif action == 5:
            out[at:at] = out[at : at + length]
        elif action == 6:
            out[at : at + length] = bytes(len(out[at : at + length]))
        else:
            del out[len(out) - length :]
    return bytes(out)


def mutated_json(text: bytes, rng: np.random.Generator) -> bytes:
    """A JSON text of which some value, however deep, became another one, or went away."""
    value = json.loads(text)
    for _ in range(int(rng.integers(1, 3))):
        places = list(_places(value))
        holder, key = places[int(rng.integers(0, len(places)))]
        action = int(rng.integers(0, 6))
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, list):
            holder.insert(key, holder[key])
        elif action == 2 and isinstance(holder[key], int):
            holder[key] += int(rng.integers(-2, 3))
        else:
            holder[key] = copy.deepcopy(VALUES[int(rng.integers(0, len(VALUES)))])
        if not value:
            break
    return json.dumps(value).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list) and len(value[key]):
            yield from _places(value[key])


def resealed(archive: bytes, rng: np.random.Generator) -> bytes:
    """One frame of a sound archive changed, all checks of frames made right again."""
    frames = take_apart(archive)
    kinds = sorted({frame.kind for frame in frames})
    wanted = int(rng.choice(kinds))
    chosen = [i for i, frame in enumerate(frames) if frame.kind == wanted]
    number = int(rng.choice(chosen))
    frames[number] = changed(frames[number], rng)
    return put_together(frames, archive[:32])


def changed(frame: Frame, rng: np.random.Generator) -> Frame:
    """A frame with another payload or, seldom, other fields."""
    if frame.kind == INDEX:
        text = zstandard.ZstdDecompressor().decompress(frame.payload)
        text = mutated_json(text, rng) if rng.random() < 0.9 else mutated(text, rng)
        return replace(frame, payload=zstandard.ZstdCompressor().compress(text), original=len(text))
    if frame.kind == ENTRY and rng.random() < 0.9:
        return replace(frame, payload=mutated_json(frame.payload, rng))
    if frame.kind in (CHUNK, MODEL) and rng.random() < 0.85:
        return replace(frame, payload=mutated(frame.payload, rng))
    if frame.kind == CHUNK:
        if rng.random() < 0.5:
            return replace(frame, original=max(1, frame.original + int(rng.integers(-9, 10))))
        return replace(frame, model=int(rng.integers(0, 20)))
    return replace(frame, payload=mutated(frame.payload, rng))


# Readers: each returns the bytes of the entries by name, or raises


def by_decompress(archive: bytes) -> dict[str, bytes]:
    """densor.decompress, for archives of one object."""
    restored = densor.decompress(archive)
    # The description of an array may have changed too; `by_stream` sees to its bytes.
    return {"": restored} if isinstance(restored, bytes) else {}


def by_stream(archive: bytes, threads: int = 1) -> dict[str, bytes]:
    """Front to back through a file object."""
    from densor.formats.container.sinks import GrowingSink
    from densor.formats.container.stream_reader import StreamReader
    from densor.formats.io.sources import FileSource
    from densor.options import ReadOptions

    reader = StreamReader(FileSource(io.BytesIO(archive)), ReadOptions(threads=threads))
    sinks: dict[str, GrowingSink] = {}

    def sink_for(meta: Any) -> GrowingSink:
        sinks[meta.name] = GrowingSink()
        return sinks[meta.name]

    try:
        list(reader.entries(sink_for))
    finally:
        reader.close()
    return {name: bytes(sink.data) for name, sink in sinks.items()}


def by_index(archive: bytes) -> dict[str, bytes]:
    """densor.open: all entries as a whole, then all tensors and their first rows."""
    with densor.open(archive, threads=1, max_output_size=1 << 24) as file:
        inner = file._archive
        file.metadata()
        for name in file:
            file.info(name)
            file.get_tensor(name)
            file.get_slice(name)[:1] if file.info(name).shape else None
        found = {
            entry.meta.name: inner.read(entry, 0, entry.size).tobytes() for entry in inner.entries
        }
        together = [data.tobytes() for data in inner.read_each(inner.entries)]
        assert together == list(found.values())
        return found


def survives(
    read: Callable[[bytes], dict[str, bytes]], archive: bytes, expected: dict[str, bytes]
) -> bool:
    """Reads a damaged archive; True if it gave an error, which must be a DensorError.

    Where there is no error, every entry that is there has the right bytes, unless it was given
    another name.
    """
    try:
        found = read(archive)
    except densor.DensorError:
        return True
    assert set(found.values()) <= {*expected.values(), b""}, "wrong data without an error"
    return False


def agrees_with_the_reference(archive: bytes, expected: dict[str, bytes]) -> None:
    """What the reference decoder accepts, densor accepts with the same data.

    What it refuses, densor refuses, or gives the right data: it does not look at unused bits.
    """
    try:
        wanted = {entry.name: entry.data for entry in container.decode(archive)}
    except Refused:
        survives(by_stream, archive, expected)
        return
    assert by_stream(archive) == wanted


# Under NUMBA_BOUNDSCHECK=1


def codecs(begin: int) -> None:
    """Every second codec, what `test_conformance` demands in short."""
    import test_conformance

    test_conformance.with_bounds_checks(range(begin, len(test_conformance.CODECS), 2))


def kernels(rounds: int) -> None:
    """Streams, scale contexts, and a round trip of every number type and way to code it."""
    import test_scale_context
    import test_streams

    test_scale_context.with_bounds_checks()
    test_streams.with_bounds_checks()
    for dtype in ("u8", "bf16", "f16", "f32", "i32", "f64", "i64"):
        for level in (1, 3, 6):
            for rows, columns in ((40, 300), (300, 256), (2, 5000)):
                size = {"u8": 1, "bf16": 2, "f16": 2, "f32": 4, "i32": 4}.get(dtype, 8)
                kind = {1: "fp8", 2: "bf16", 4: "fp32", 8: "fp64"}[size]
                array = archives.weights(kind, rows, columns)
                assert densor.decompress(densor.compress(array, level, dtype=dtype)).tobytes() == (
                    array.tobytes()
                )


def frames(rounds: int) -> None:
    """A short version of `test_damage`."""
    from densor.formats.container import stream_reader

    for smallest in (stream_reader.MIN_BYTES, 1):  # the latter: all by the span decoder
        stream_reader.MIN_BYTES = smallest
        for name in archives.MAKERS:
            sample = archives.sample(name)
            assert by_stream(sample.archive) == sample.entries
            rng = np.random.default_rng(rounds)
            for _ in range(rounds):
                agrees_with_the_reference(resealed(sample.archive, rng), sample.entries)


PARTS: dict[str, Callable[[int], None]] = {
    "codecs 1": lambda rounds: codecs(0),
    "codecs 2": lambda rounds: codecs(1),
    "kernels": kernels,
    "frames": frames,
}


def keep_checked_kernels() -> None:
    """Kernels with bounds checks are kept too, in NUMBA_CACHE_DIR, which nothing else may use.

    Processes that run at once compile none twice, and do not write numba's lists at once.
    """
    from densor.entropy.compile_lock import compile_lock
    from densor.entropy.jit import Kernel

    folder = Path(os.environ["NUMBA_CACHE_DIR"])

    def kept(self: Kernel) -> Any:
        function = f"{self._python.__module__}.{self._python.__qualname__}"
        with compile_lock([folder / f"{function}.lock"]):
            return self._dispatcher(cache=True)

    Kernel._kept_by_numba = kept  # type: ignore[method-assign]


def main(part: str, rounds: int) -> None:
    """A part of a short version of test_damage and of tests of codecs."""
    sys.path[:0] = str(TESTS / "codec"), str(TESTS / "entropy")
    from densor.entropy.jit import BOUNDSCHECK
    from densor.formats.container import short_form

    assert BOUNDSCHECK
    keep_checked_kernels()
    short_form.MOST = 0  # frames are what is changed here
    PARTS[part](rounds)
    print("sound")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
