"""Small archives of every kind, each with what it holds; made once per run."""

import functools
import io
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from helpers import ENTRY, model_file, random_state, safetensors_bytes, take_apart, weights

import densor
from densor.codec.blocks.block import Field
from densor.codec.kind import Kind, Segment, kind_of_blocks
from densor.files.append import append
from densor.formats.container import strictjson
from densor.formats.container.entry import EntryMeta
from densor.formats.container.short_form import HeldFrame, shortened
from densor.formats.container.writer import ArchiveWriter
from densor.formats.io.sources import MemorySource
from densor.options import WriteOptions


class Sample(NamedTuple):
    """An archive and the original bytes of its entries."""

    archive: bytes
    entries: dict[str, bytes]

    @property
    def single(self) -> bytes:
        """The bytes of the only entry."""
        (data,) = self.entries.values()
        return data


def of_bytes(**arguments: Any) -> Sample:
    """Text, by Zstandard."""
    data = b"".join(b"line %d of a text that repeats itself\n" % i for i in range(40))
    return Sample(densor.compress(data, **arguments), {"": data})


def of_noise() -> Sample:
    """Bytes that nothing makes smaller."""
    data = random_state("noise").integers(0, 256, 300, np.uint8).tobytes()
    return Sample(densor.compress(data), {"": data})


def of_array(kind: str = "bf16", rows: int = 12, columns: int = 300) -> Sample:
    """Weights with a Huffman model."""
    array = weights(kind, rows, columns)
    dtype = {"bf16": "bf16", "fp8": "f8_e4m3"}.get(kind)
    return Sample(densor.compress(array, dtype=dtype), {"": array.tobytes()})


def of_matrix(kind: str = "bf16", rows: int = 12, columns: int = 200) -> Sample:
    """Weights with scale contexts, at level 6."""
    array = weights(kind, rows, columns)
    given = array.view(np.float32) if kind == "fp32" else array
    archive = densor.compress(given, 6, dtype=None if kind == "fp32" else kind)
    return Sample(archive, {"": array.tobytes()})


def of_sparse() -> Sample:
    """Weights that are zero in most places."""
    array = weights("bf16", 12, 300)
    array[random_state("sparse").random(array.shape) < 0.7] = 0
    return Sample(densor.compress(array, dtype="bf16"), {"": array.tobytes()})


def of_blocks() -> Sample:
    """Quantised weights: every order of a field."""
    rng = random_state("blocks")
    scales = weights("fp16", 1, 250).view(np.uint8).reshape(-1, 2)
    numbers = np.clip(rng.standard_normal((250, 16)) * 25 + 120, 0, 255).astype(np.uint8)
    data = np.concatenate([scales, scales, numbers], axis=1)
    fields = (Field("F16", 2), Field("F16", 2, 2), Field("U8", 8, 3), Field("U8", 8, 1))
    return Sample(
        written({"": (data.tobytes(), kind_of_blocks(fields, 5))}, index=False),
        {"": data.tobytes()},
    )


def of_record() -> Sample:
    """An array with a description."""
    dtype = np.dtype([("a", ">i4"), ("b", "<f8", (2,))])
    array = random_state("record").integers(0, 9, 20 * dtype.itemsize, np.uint8).view(dtype)
    return Sample(densor.compress(array), {"": array.tobytes()})


def of_steps() -> Sample:
    """Integers, coded as differences."""
    array = (np.arange(1500) * 7 + random_state("steps").integers(0, 60, 1500)).astype("<i4")
    return Sample(densor.compress(array), {"": array.tobytes()})


def of_file(**arguments: Any) -> Sample:
    """A safetensors file with index and a repetition."""
    data = model_file()
    file = io.BytesIO()
    densor.compress_file(io.BytesIO(data), file, threads=1, name="m.safetensors", **arguments)
    return Sample(file.getvalue(), {"m.safetensors": data})


def of_small_file() -> Sample:
    """A safetensors file of 2 KB, two tensors of which are equal."""
    bf16 = weights("bf16", 2, 200).tobytes()
    data = safetensors_bytes({"a": ("BF16", (2, 200), bf16), "b": ("BF16", (2, 200), bf16)})
    file = io.BytesIO()
    densor.compress_file(io.BytesIO(data), file, threads=1, name="m", hash="sha256")
    return Sample(file.getvalue(), {"m": data})


def of_folder() -> Sample:
    """Files, an empty folder and the one that it is in, the last file equal to the first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sub" / "empty").mkdir(parents=True)
        (folder / "a.bin").write_bytes(random_state("a").integers(0, 256, 200, np.uint8).tobytes())
        (folder / "b.json").write_bytes(b'{"some": "thing"}' * 9)
        (folder / "sub" / "z.bin").write_bytes((folder / "a.bin").read_bytes())
        file = io.BytesIO()
        densor.pack([folder], file, threads=1)
        first, text, last = ((folder / n).read_bytes() for n in ("a.bin", "b.json", "sub/z.bin"))
        entries = {"a.bin": first, "b.json": text, "sub/empty": b"", "sub/z.bin": last, "sub": b""}
        return Sample(file.getvalue(), entries)


def of_tensors() -> Sample:
    """Tensors by name."""
    tensors = {
        "scale": weights("fp16", 1, 50).view(np.float16),
        "layer.0": weights("fp32", 4, 64).view(np.float32),
        "count": np.array(7),
        "layer.1": weights("fp32", 4, 64).view(np.float32),
    }
    file = io.BytesIO()
    with densor.Writer(file, threads=1) as writer:
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor)
    return Sample(file.getvalue(), {name: tensor.tobytes() for name, tensor in tensors.items()})


def of_saved() -> Sample:
    """What save_file writes."""
    tensors = {"x": np.arange(300, dtype=np.int16), "y": weights("fp64", 3, 40).view(float)}
    file = io.BytesIO()
    densor.save_file(tensors, file, {"format": "np"}, threads=1)
    (name, data), *_ = unpacked(file.getvalue()).items()
    return Sample(file.getvalue(), {name: data})


def of_chain() -> Sample:
    """Two checkpoints, the second coded against the first."""
    before = weights("bf16", 3, 200)
    after = before + (np.arange(before.size).reshape(before.shape) % 9 == 0).astype(np.uint16)
    with tempfile.TemporaryDirectory() as name:
        archive, files = Path(name) / "archive", {}
        for step, bits in (("old", before), ("new", after)):
            files[step] = safetensors_bytes({"w": ("BF16", bits.shape, bits.tobytes())})
            (Path(name) / step).write_bytes(files[step])
        densor.pack([Path(name) / "old"], archive, threads=1)
        append(archive, Path(name) / "new", threads=1)
        return Sample(archive.read_bytes(), files)


def of_few() -> Sample:
    """Two checkpoints, few elements of which differ: BF16, and FP32 by more than a step."""
    before, files = np.resize(weights("bf16", 4, 250), (300, 200)), {}
    after = before.copy()
    after.reshape(-1)[np.arange(7, after.size, 61)] += 1
    after.reshape(-1)[np.arange(3, after.size, 997)] -= 300
    singles = np.resize(weights("fp32", 4, 100), (400, 100))
    moved = singles.copy()
    moved.reshape(-1).view(np.uint32)[::53] ^= 0x80012345
    for step, pair in (("old", (before, singles)), ("new", (after, moved))):
        files[step] = safetensors_bytes(
            {
                name: (dtype, bits.shape, bits.tobytes())
                for name, dtype, bits in zip("ab", ("BF16", "F32"), pair, strict=True)
            }
        )
    with tempfile.TemporaryDirectory() as name:
        archive = Path(name) / "archive"
        for step, data in files.items():
            (Path(name) / step).write_bytes(data)
        densor.pack([Path(name) / "old"], archive, threads=1)
        append(archive, Path(name) / "new", threads=1)
        return Sample(archive.read_bytes(), files)


def of_nothing() -> Sample:
    """An archive without entries."""
    file = io.BytesIO()
    densor.Writer(file).close()
    return Sample(file.getvalue(), {})


def unpacked(archive: bytes) -> dict[str, bytes]:
    """Entries by the reference decoder."""
    from reference import container

    return {entry.name: entry.data for entry in container.decode(archive)}


def in_short_form(archive: bytes) -> bytes:
    """The same archive in the short form."""
    from reference import container

    frames = take_apart(archive)
    index = container.read_index(archive)
    entries = sum(frame.kind == ENTRY for frame in frames)
    lists = [
        strictjson.text({key: entry[key] for key in ("tensors", "others") if key in entry})[1:-1]
        for entry in index.get("entries", [{}] * entries)
    ]
    pieces = [HeldFrame(f.kind, f.payload, f.original, f.model) for f in frames]
    return shortened(pieces, int.from_bytes(archive[12:16], "little"), lists)


MAKERS = {
    "text": of_bytes,
    "noise": of_noise,
    "bf16": of_array,
    "fp8": lambda: of_array("fp8", 20, 300),
    "fp32": lambda: of_array("fp32", 3, 300),
    "scales": of_matrix,
    "scales fp32": lambda: of_matrix("fp32", 6, 200),
    "sparse": of_sparse,
    "blocks": of_blocks,
    "record": of_record,
    "steps": of_steps,
    "small file": of_small_file,
    "folder": of_folder,
    "tensors": of_tensors,
    "saved": of_saved,
    "chain": of_chain,
    "few": of_few,
    "nothing": of_nothing,
}


@functools.cache
def sample(name: str) -> Sample:
    """A sample by name."""
    return MAKERS[name]()


def written(
    entries: dict[str, tuple[bytes, Kind]], *, level: int = 3, threads: int = 1, **arguments: Any
) -> bytes:
    """An archive by the inner writer, which has more switches than the functions for users."""
    file = io.BytesIO()
    own = {name: arguments.pop(name) for name in ("index", "repeats") if name in arguments}
    options = WriteOptions(level=level, threads=threads, **arguments)
    writer = ArchiveWriter(file, options, **own)
    for name, (data, kind) in entries.items():
        meta = EntryMeta(name, "bytes", len(data))
        writer.add(meta, MemorySource(data), [Segment(kind, len(data))])
    writer.close()
    return file.getvalue()
