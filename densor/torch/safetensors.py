"""Files of torch tensors, called like those of safetensors.

Three kinds of files are read: packed and plain safetensors files, and archives of densor.
"""

import os
import warnings
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Self, Unpack

import torch

from densor import api, arrays
from densor.dtypes import SIZES, in_safetensors
from densor.errors import (
    ArgumentError,
    DensorError,
    FileError,
    FormatError,
    LimitError,
    UnsupportedError,
)
from densor.formats.io.outputs import whole_file
from densor.formats.io.sources import Bytes
from densor.formats.packed.base_folder import BaseFolder
from densor.formats.packed.reader import PackedFile
from densor.formats.packed.writer import write_packed
from densor.formats.parsers import safetensors
from densor.formats.tensors import span
from densor.options import (
    DEFAULT_LEVEL,
    ReadKeywords,
    ReadOptions,
    WriteKeywords,
    WriteOptions,
    read_options,
    write_options,
)
from densor.torch.blob import read_tensor

Device = str | int | torch.device


def load_file(
    filename: str | os.PathLike[str],
    device: Device = "cpu",
    *,
    threads: int | None = None,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> dict[str, torch.Tensor]:
    """All tensors of a file by name, as `safetensors.torch.load_file` returns them.

    `threads`: by default 0, all processors. Options are those of `densor.decompress_file`, but
    `base`, for a packed file: the folder of safetensors files that it was packed against, if it
    was.
    """
    with safe_open(filename, "pt", device, threads=threads, options=options, **keywords) as file:
        return file.get_tensors()


def save_packed_file(
    tensors: Mapping[str, torch.Tensor],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    level: int | None = None,
    threads: int | None = None,
    options: WriteOptions | None = None,
    **keywords: Unpack[WriteKeywords],
) -> None:
    """Writes a packed safetensors file, as `safetensors.torch.save_file` writes a plain one.

    Such a file is a valid safetensors file whose large tensors are packed; `densor.save_file`
    writes an archive. Options are those of `densor.compress_file`, of which `base` is a folder of
    safetensors files with tensors of the same names, as for `load_file`, and neither dtype nor
    recovery data can be asked for. The file appears whole or not at all. ArgumentError for tensors
    that share memory, of which a safetensors file would hold copies.
    """
    chosen = write_options(options, level=level, threads=threads, **keywords)
    if chosen.recovery is not None or chosen.dtype is not None:
        raise ArgumentError("a packed file takes neither recovery data nor another dtype")
    arrays.check_named(tensors)
    _check_separate(tensors)
    described = _described(tensors, metadata)
    listed = [(name, dtype, shape, data.size) for name, dtype, shape, data in described]
    header = safetensors.parse(safetensors.new_header(listed, metadata))
    data = {name: data for name, *_, data in described}
    base = None
    if chosen.base is not None:
        base = BaseFolder(chosen.base, chosen.threads)
    with whole_file(Path(filename), chosen.overwrite) as out:
        find = None if base is None else base.find
        write_packed(header, data.__getitem__, out, chosen, find)
        if chosen.verify:
            _check_written(out, header, chosen, base)


def save_file(
    tensors: Mapping[str, torch.Tensor],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    level: int = DEFAULT_LEVEL,
    threads: int = 0,
) -> None:
    """The former name of `save_packed_file`, with which a file that exists was replaced."""
    text = "densor.torch.save_packed_file is called save_packed_file now, and needs overwrite=True"
    warnings.warn(f"{text} to replace a file", DeprecationWarning, stacklevel=2)
    save_packed_file(tensors, filename, metadata, level=level, threads=threads, overwrite=True)


def _check_written(
    out: BinaryIO,
    header: safetensors.Header,
    options: WriteOptions,
    base: BaseFolder | None,
) -> None:
    """FileError unless a packed file that was written unpacks to what it should."""
    out.flush()
    try:
        written = PackedFile(out.name)
        if written.size != header.end:
            raise FormatError("has another size")
        with open(os.devnull, "wb") as nowhere:
            written.unpack(nowhere, options.threads, None if base is None else base.need)
    except DensorError as error:
        raise FileError(f"verification of what was written failed: {error}") from error


def _described(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None
) -> list[tuple[str, str, tuple[int, ...], Bytes]]:
    """Names, types, shapes and bytes of tensors, in the order of the file."""
    safetensors.check_new(tensors, metadata)
    described = []
    for name, tensor in tensors.items():
        meta, tensor_bytes = arrays.describe(tensor)
        stored = in_safetensors(meta.dtype or "", meta.shape or ())
        if stored is None:
            raise ArgumentError(f"{name}: {tensor.dtype} does not exist in safetensors files")
        described.append((name, *stored, tensor_bytes))
    described.sort(key=lambda item: (-SIZES.get(item[1], 0), item[0]))
    return described


def _check_separate(tensors: Mapping[str, torch.Tensor]) -> None:
    """ArgumentError for tensors that have bytes in common, and for what is more than a tensor.

    Different parts of one storage are tensors like any other.
    """
    places: list[tuple[str, int, int, str]] = []
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise ArgumentError(f"{name}: is no torch tensor but {type(tensor).__name__}")
        arrays.check_whole(tensor)
        if tensor.numel():
            begin = tensor.data_ptr()
            size = span(tuple(tensor.shape), tensor.stride()) * tensor.element_size()
            places.append((str(tensor.device), begin, begin + size, name))
    for before, behind in pairwise(sorted(places)):
        if before[0] == behind[0] and before[2] > behind[1]:
            names = f"{before[3]} and {behind[3]}"
            raise ArgumentError(f"{names} share memory; save one, or a clone")


class safe_open:
    """A file opened for reading, as by `safetensors.safe_open`: tensors come one at a time.

    `framework`: `pt` or `torch`, or `np` or `numpy`. `device`: where torch tensors are put.
    `threads` and options are those of `load_file`.
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        framework: str = "pt",
        device: Device = "cpu",
        *,
        threads: int | None = None,
        options: ReadOptions | None = None,
        **keywords: Unpack[ReadKeywords],
    ) -> None:
        if framework not in ("pt", "torch", "pytorch", "np", "numpy"):
            raise UnsupportedError(f"framework {framework!r} is not known; pt and np are")
        self._torch = framework in ("pt", "torch", "pytorch")
        self._device = device
        self._options = read_options(options, threads=threads, **keywords)
        self._archive: api.File | None = None
        self._packed_file: PackedFile | None = None
        self._base_of = None
        if api.is_archive(filename):
            framework = "torch" if self._torch else "numpy"
            self._archive = api.File(filename, framework, options=self._options)
            return
        self._packed_file = PackedFile(filename)
        most = self._options.max_output_size
        if most is not None and self._packed_file.size > most:
            raise LimitError(f"{filename}: holds more than {most} bytes")
        if self._options.base is not None:
            self._base_of = BaseFolder(self._options.base, self._options.threads).need

    @property
    def _packed(self) -> PackedFile:
        """The file, where it is none of densor's archives; FileError once it is closed."""
        if self._packed_file is None:
            raise FileError("file is closed")
        return self._packed_file

    def keys(self) -> list[str]:
        """Names of all tensors."""
        if self._archive is not None:
            return self._archive.keys()
        return sorted(self._packed.keys())

    def offset_keys(self) -> list[str]:
        """Names of all tensors, in the order of the file."""
        return self.keys() if self._archive is not None else self._packed.keys()

    def metadata(self) -> dict[str, str] | None:
        """The metadata that the file was saved with, None if there was none."""
        if self._archive is not None:
            return self._archive.metadata()
        return dict(self._packed.metadata) or None

    def get_tensor(self, name: str) -> Any:
        """A tensor with memory of its own; KeyError if there is none of that name."""
        if self._archive is not None:
            tensor = self._archive.get_tensor(name)
        else:
            tensor = self._read(self._packed, name)
        return tensor.to(self._device) if self._torch else tensor

    def _read(self, file: PackedFile, name: str) -> Any:
        info, options = file.info(name), self._options
        if self._torch:
            found: Any = read_tensor(file, name, options.threads, self._base_of)
        else:
            data = file.read(name, options.threads, self._base_of)
            data = data if data.flags.writeable else data.copy()
            found = arrays.to_numpy(info.dtype, info.shape, data)
        if options.progress is not None:
            options.progress(info.size)
        return found

    def get_tensors(self) -> dict[str, Any]:
        """All tensors by name, in the order of the file.

        UnsupportedError where an archive holds some that cannot be read.
        """
        if self._archive is not None:
            self._archive.check_readable()
        return {name: self.get_tensor(name) for name in self.offset_keys()}

    def get_slice(self, name: str) -> "Slice":
        """A tensor that is decoded, as a whole, when it is indexed."""
        if self._archive is not None:
            info = self._archive.info(name)
            return Slice(self, name, info.dtype, info.shape)
        described = self._packed.info(name)
        return Slice(self, name, described.dtype, described.shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()
        self._packed_file = None


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
