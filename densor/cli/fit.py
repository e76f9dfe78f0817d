"""How much memory a model takes: plain, packed and decoded block by block, or kept on the disk.

Sizes of packed weights are those of the archive, or estimated from samples of plain files.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import densor
from densor.cli import contents
from densor.dtypes import SIZES
from densor.errors import FileError
from densor.files.folder import members
from densor.files.opened import is_archive, open_input
from densor.formats.io.sources import FileSource, RandomSource
from densor.formats.packed.archive import packed_file_at
from densor.formats.parsers.plan import plan_file
from densor.formats.tensors import TensorInfo
from densor.options import DEFAULT_LEVEL

SAMPLE_BYTES = 1 << 20
_SAMPLES = 8  # of each element type
_BLOCK = re.compile(r"^(.*?\D)(\d+)\.")  # model.layers.17. of model.layers.17.mlp.up_proj.weight


class Weight(NamedTuple):
    """A tensor: bytes as they are and packed."""

    name: str
    plain: int
    packed: float


class Need(NamedTuple):
    """Bytes of memory that a way of running a model takes for its weights."""

    way: str
    bytes: float


def weights(path: str) -> list[Weight]:
    """The tensors of an archive, of a packed or plain file, or of a folder of those."""
    found = [weight for file in _files(path) for weight in _of_file(file)]
    if not found:
        raise FileError(f"{path}: holds no tensors")
    return found


def _files(path: str) -> list[str]:
    """The files that can hold weights, and not those beside them such as the tokenizer's."""
    if not Path(path).is_dir():
        return [path]
    return [str(member.path) for member in members([path]) if Path(member.path).is_file()]


def _of_file(path: str) -> Iterator[Weight]:
    if is_archive(path) or packed_file_at(path) is not None:
        with contents.opened(path, packed=True) as file:
            for name, (entry, info) in file.archive.tensors().items():
                stored = file.archive.stored_size(entry, info.offset, info.offset + info.size)
                yield Weight(name, info.size, stored)
        return
    with open_input(path) as given:
        if given.random is None or given.size is None:
            return
        plan = plan_file(FileSource(given.file), given.size, random=given.random)
        tensors = [tensor for tensor in plan.tensors if tensor.plain and tensor.dtype in SIZES]
        ratios = _ratios(given.random, tensors)
    for tensor in tensors:
        yield Weight(tensor.name, tensor.size, tensor.size * ratios[tensor.dtype])


def _ratios(source: RandomSource, tensors: Sequence[TensorInfo]) -> dict[str, float]:
    """What is left of each element type, by samples of its largest tensors."""
    ratios = {}
    for dtype in {tensor.dtype for tensor in tensors}:
        own = sorted((t for t in tensors if t.dtype == dtype), key=lambda t: -t.size)
        original = stored = 0
        for tensor in own[:_SAMPLES]:
            size = min(tensor.size, SAMPLE_BYTES // SIZES[dtype] * SIZES[dtype])
            sample = source.read_at(tensor.offset, size)
            original += size
            stored += (
                len(densor.compress(sample.tobytes(), DEFAULT_LEVEL, dtype=dtype)) if size else 0
            )
        ratios[dtype] = min(stored / original, 1.0) if original else 1.0
    return ratios


def needs(weights: Sequence[Weight]) -> list[Need]:
    """What each way takes, from the most to the least memory."""
    blocks: dict[str, int] = defaultdict(int)
    for weight in weights:
        found = _BLOCK.match(weight.name)
        blocks[found.group(0) if found else weight.name] += weight.plain
    largest = max(blocks.values())
    plain = sum(weight.plain for weight in weights)
    packed = sum(weight.packed for weight in weights)
    return [
        Need("plain", plain),
        Need("packed in memory, a block decoded at a time", packed + largest),
        Need("packed on the disk, two blocks in memory", 2 * largest),
    ]
