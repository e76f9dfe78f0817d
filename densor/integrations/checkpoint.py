"""Packed checkpoints as serving engines read them: names and tensors, decoded ahead of their use.

Importing this loads nothing heavy: engines import it whenever they start, and numba, torch and the
decoders are needed only where weights are packed.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from densor.errors import ArgumentError, DensorError
from densor.files.shards_listed import check_holds, json_object
from densor.runtime.workers import thread_count

T = TypeVar("T")
ARCHIVE = ".safetensors.densor"  # how the names of archives of weights end
CPU = "cpu"  # the backend that is none
_METHOD, _KEY = "densor", "densor"  # in config.json, and in the metadata of a packed file
_MAX_HEADER = 100_000_000
_MAX_KEPT = 1 << 28  # bytes of memory of tensors that are kept for later ones
_TRIED = 1 << 27  # bytes of tensors that are not copied as they are before no more are tried


def is_packed_folder(folder: str | os.PathLike[str]) -> bool:
    """Whether config.json of a model's folder says that its weights are packed."""
    return is_packed_config(json_object(Path(folder) / "config.json").get("quantization_config"))


def is_packed_config(method: object) -> bool:
    """Whether a model's `quantization_config` is that of packed weights."""
    return isinstance(method, dict) and method.get("quant_method") == _METHOD


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether a safetensors file says that tensors in it are packed; False for what is none."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MAX_HEADER:
                return False
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError):
        return False
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return isinstance(metadata, dict) and _KEY in metadata


def has_packed(folder: str | os.PathLike[str]) -> bool:
    """Whether any safetensors file of a folder is packed; False for what is no folder."""
    return any(map(is_packed, sorted(Path(folder).glob("*.safetensors"))))


def archives_in(folder: str | os.PathLike[str]) -> list[Path]:
    """Archives of weights in a folder that holds no safetensors files, by name."""
    path = Path(folder)
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return []
    return sorted(path.glob(f"*{ARCHIVE}"))


def folder_of(name: str | os.PathLike[str], revision: str | None = None) -> str:
    """The folder of a model that is given as one, or by its name on the Hub, with its weights.

    ArgumentError for what is neither.
    """
    if os.path.isdir(name):
        return os.fspath(name)
    try:
        from huggingface_hub import snapshot_download

        return str(snapshot_download(str(name), revision=revision, allow_patterns="*.safetensors*"))
    except (ImportError, OSError, ValueError) as error:
        raise ArgumentError(f"{name}: neither a folder nor a model of the Hub: {error}") from error


def weights(
    files: Sequence[str | os.PathLike[str]],
    *,
    base: str | None = None,
    threads: int = 0,
    skip: Callable[[str], bool] | None = None,
    backend: str | None = None,
    placing: Any = None,
) -> Iterator[tuple[str, Any]]:
    """Names and tensors of safetensors files, packed or plain, and of archives of tensors.

    All are on the CPU, in memory of their own or mapped from the file. While one is used, the next
    ones are decoded by `threads` threads (0: all processors), a tensor each, which are in memory
    meanwhile; tensors of 32 MiB by all of them, those of archives one at a time. Memory of tensors
    that nobody holds any more is used again, up to 256 MiB of it waiting. `base`:
    the folder, or name on the Hub, of the model that these were packed against; otherwise it is
    found as `densor.files.packed_model.Bases` says. `skip`: whether a tensor is not wanted, which
    is not read then. `backend`: a name of `densor.gpu`, such as "cuda", whose device then decodes
    what it can of safetensors files, one tensor at a time, and has it; None or "cpu": the CPU.
    `placing`: a `densor.torch.placed.Placing`, or a `densor.torch.undecoded.AtOnce`; blobs of
    safetensors files that the CPU decodes are then `Undecoded` and decoded where they are copied
    to, unless most of them turn out not to be copied as they are. With the former all of it is done
    when the iterator comes to its end.

    A DensorError names file and tensor. Headers of all files are read before the first tensor.
    """
    jobs: list[_Job] = []
    given = None if base is None else folder_of(base)
    read_safetensors = _safetensors_reader(backend)
    for path in files:
        open_weights = _archive if os.fspath(path).endswith(ARCHIVE) else read_safetensors
        jobs += [job for job in open_weights(path, given, threads) if not (skip and skip(job.name))]
    one = backend not in (None, CPU) or any(os.fspath(path).endswith(ARCHIVE) for path in files)
    at_a_time = 1 if one else thread_count(threads)
    if placing is None or one:
        return ahead([job.read for job in jobs], at_a_time)
    return _placed(jobs, placing, at_a_time)


class _Job(NamedTuple):
    """A tensor that may be wanted; `stored` is its blob as a `densor.torch.undecoded.Stored`."""

    name: str
    read: Callable[[], tuple[str, Any]]
    size: int = 0  # bytes
    stored: Callable[[], Any] | None = None


def _placed(jobs: Sequence[_Job], placing: Any, threads: int) -> Iterator[tuple[str, Any]]:
    """Names and tensors, blobs undecoded as long as most of them are copied as they are."""
    placing.total = sum(job.size for job in jobs)
    for at, job in enumerate(jobs):
        if placing.elsewhere > placing.placed + placing.spared + _TRIED:
            yield from ahead([job.read for job in jobs[at:]], threads)
            break
        if job.stored is None:
            yield job.read()
        else:
            stored = job.stored()
            stored.placing = placing
            yield job.name, stored.tensor()
        placing.check()
    placing.finish()


def _safetensors_reader(
    backend: str | None,
) -> Callable[[str | os.PathLike[str], str | None, int], Iterator[_Job]]:
    """What reads files one after the other, all with the same pool of memory."""
    from densor.files.packed_model import Bases, check_packed
    from densor.files.tensor_bytes import threads_of
    from densor.formats.packed.reader import PackedFile
    from densor.runtime.buffers import BufferPool
    from densor.torch.blob import read_tensor
    from densor.torch.device import decoded_on, open_device
    from densor.torch.undecoded import Stored

    pool = BufferPool(_MAX_KEPT)
    device = None if backend in (None, CPU) else open_device(None, backend)

    def opened(path: str | os.PathLike[str], base: str | None, threads: int) -> Iterator[_Job]:
        file = check_packed(PackedFile(path))
        bases = Bases(Path(path).parent, base, threads)
        file.fetch_heads()
        for name in file:
            file.describe(name)  # most faults are found here, before anything is decoded

            def read(name: str = name) -> tuple[str, Any]:
                found = None
                if device is not None and file.is_blob(name):
                    found = decoded_on(device, file, name)
                if found is None:
                    used = threads_of(file.info(name).size, threads)
                    found = read_tensor(file, name, used, bases.need, pool)
                return name, found

            is_blob = file.is_blob(name)
            stored = partial(Stored, file, name, threads, bases.need, pool) if is_blob else None
            yield _Job(name, read, file.info(name).size, stored)

    return opened


def _archive(path: str | os.PathLike[str], base: str | None, threads: int) -> Iterator[_Job]:
    from densor.file import File

    options: dict[str, Any] = {} if base is None else {"base": _base_file(base, path)}
    archive = File(path, "torch", threads=threads, **options)
    names = [*archive.offset_keys(), *archive.opaque()]  # which are refused when read
    check_holds(path, names, ".densor")

    def read(name: str) -> tuple[str, Any]:
        try:
            return name, archive.get_tensor(name)
        except DensorError as error:
            raise type(error)(f"{path}: tensor {name!r:.200}: {error}") from error

    for name in names:
        yield _Job(name, partial(read, name))


def _base_file(base: str, path: str | os.PathLike[str]) -> Path:
    """The file of a base's folder that an archive was packed against: that of the same name."""
    return Path(base) / Path(path).name.removesuffix(".densor")


def ahead(jobs: Iterable[Callable[[], T]], threads: int = 1) -> Iterator[T]:
    """Results of jobs in their order; threads do the next ones, one each, while one is used."""
    coming: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads, "densor-ahead") as pool:
        try:
            for job in jobs:
                coming.append(pool.submit(job))
                if len(coming) > threads:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()
