"""Files of torch tensors, called like those of safetensors.

Three kinds of files are read: packed and plain safetensors files, and archives of densor.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from densor import api, arrays
from densor.dtypes import SIZES, in_safetensors
from densor.errors import ArgumentError, UnsupportedError
from densor.formats.container import wire
from densor.formats.io.outputs import errors_of, whole_file
from densor.formats.io.sources import Bytes
from densor.formats.packed import packed_file
from densor.formats.packed.packed_file import PackedFile
from densor.formats.tensors import is_name
from densor.torch.blob import read_tensor

Device = str | int | torch.device


def load_file(
    filename: str | os.PathLike[str],
    device: Device = "cpu",
    *,
    threads: int = 0,
    base: str | os.PathLike[str] | None = None,
) -> dict[str, torch.Tensor]:
    """All tensors of a file by name, as `safetensors.torch.load_file` returns them.

    `threads`: 0 for all processors. `base`: the folder of safetensors files that this file was
    packed against, if it was.
    """
    with safe_open(filename, "pt", device, threads=threads, base=base) as file:
        return {name: file.get_tensor(name) for name in file.offset_keys()}


def save_file(
    tensors: Mapping[str, torch.Tensor],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    level: int = 3,
    threads: int = 0,
) -> None:
    """Writes a packed safetensors file, as `safetensors.torch.save_file` writes a plain one.

    The file appears whole or not at all. ArgumentError for tensors that share memory, of which
    a safetensors file would hold copies.
    """
    _check_separate(tensors)
    if not all(type(text) is str for item in (metadata or {}).items() for text in item):
        raise ArgumentError("metadata must be texts by name")
    described = []
    for name, tensor in tensors.items():
        if not isinstance(name, str) or name == "__metadata__" or not is_name(name):
            raise ArgumentError(f"a tensor cannot be named {name!r:.80}")
        if not isinstance(tensor, torch.Tensor):
            raise ArgumentError(f"{name}: is no torch tensor but {type(tensor).__name__}")
        meta, tensor_bytes = arrays.describe(tensor)
        stored = in_safetensors(meta.dtype or "", meta.shape or ())
        if stored is None:
            raise ArgumentError(f"{name}: {tensor.dtype} does not exist in safetensors files")
        described.append((name, *stored, tensor_bytes))
    described.sort(key=lambda item: (-SIZES.get(item[1], 0), item[0]))
    header = packed_file.parse(_header(described, metadata))
    data = {name: data for name, *_, data in described}
    path = Path(filename)
    with whole_file(path, overwrite=True) as out:
        packed_file.write_packed(header, data.__getitem__, out, level, threads)


def _header(
    described: list[tuple[str, str, tuple[int, ...], Bytes]], metadata: Mapping[str, str] | None
) -> bytes:
    header: dict[str, Any] = {}
    at = 0
    for name, dtype, shape, data in described:
        end = at + data.size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    return packed_file.header_bytes(header, metadata)


def _check_separate(tensors: Mapping[str, torch.Tensor]) -> None:
    seen: dict[tuple[torch.device, int], str] = {}
    for name, tensor in tensors.items():
        dense = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
        if not dense or tensor.is_meta or not tensor.numel():
            continue
        place = tensor.device, tensor.untyped_storage().data_ptr()
        if place in seen:
            raise ArgumentError(f"{seen[place]} and {name} share memory; save one, or a clone")
        seen[place] = name


class safe_open:
    """A file opened for reading, as by `safetensors.safe_open`: tensors come one at a time.

    `framework`: `pt` or `torch`, or `np` or `numpy`. `device`: where torch tensors are put.
    `threads`, `base`: as for `load_file`.
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        framework: str = "pt",
        device: Device = "cpu",
        *,
        threads: int = 0,
        base: str | os.PathLike[str] | None = None,
    ) -> None:
        if framework not in ("pt", "torch", "pytorch", "np", "numpy"):
            raise UnsupportedError(f"framework {framework!r} is not known; pt and np are")
        self._torch = framework in ("pt", "torch", "pytorch")
        self._device = device
        self._threads = threads
        self._archive: api.File | None = None
        self._packed: PackedFile | None = None
        self._base_of = None if base is None else packed_file.BaseFolder(base, threads).need
        if _is_archive(filename):
            self._archive = api.File(filename, "torch" if self._torch else "numpy", threads)
        else:
            self._packed = PackedFile(filename)

    def keys(self) -> list[str]:
        """Names of all tensors."""
        if self._archive is not None:
            return self._archive.keys()
        assert self._packed is not None
        return sorted(self._packed.keys())

    def offset_keys(self) -> list[str]:
        """Names of all tensors, in the order of the file."""
        return self.keys() if self._packed is None else self._packed.keys()

    def metadata(self) -> dict[str, str] | None:
        """The metadata that the file was saved with, None if there was none."""
        if self._archive is not None:
            return self._archive.metadata()
        assert self._packed is not None
        return dict(self._packed.metadata) or None

    def get_tensor(self, name: str) -> Any:
        """A tensor with memory of its own; KeyError if there is none of that name."""
        if self._archive is not None:
            tensor = self._archive.get_tensor(name)
        else:
            assert self._packed is not None
            tensor = self._read(self._packed, name)
        return tensor.to(self._device) if self._torch else tensor

    def _read(self, file: PackedFile, name: str) -> Any:
        if self._torch:
            return read_tensor(file, name, self._threads, self._base_of)
        info = file.info(name)
        data = file.read(name, self._threads, self._base_of)
        return arrays.to_numpy(
            info.dtype, info.shape, data if data.flags.writeable else data.copy()
        )

    def get_slice(self, name: str) -> "Slice":
        """A tensor that is decoded, as a whole, when it is indexed."""
        if self._archive is not None:
            info = self._archive.info(name)
            return Slice(self, name, info.dtype, info.shape)
        assert self._packed is not None
        described = self._packed.info(name)
        return Slice(self, name, described.dtype, described.shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._archive is not None:
            self._archive.close()


class Slice:
    """A tensor in a file, read when it is indexed."""

    def __init__(self, file: safe_open, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        self._file = file
        self._name = name
        self._dtype = dtype
        self._shape = shape

    def get_shape(self) -> list[int]:
        """The shape of the whole tensor."""
        return list(self._shape)

    def get_dtype(self) -> str:
        """The element type, by its safetensors name."""
        return self._dtype

    def __getitem__(self, key: Any) -> Any:
        """What indexing the whole tensor with `key` would give."""
        return self._file.get_tensor(self._name)[key]


def _is_archive(filename: str | os.PathLike[str]) -> bool:
    with errors_of(filename), open(filename, "rb") as file:
        return file.read(len(wire.MAGIC)) == wire.MAGIC
