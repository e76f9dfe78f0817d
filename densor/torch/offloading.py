"""Modules whose weights stay on disk, or packed in memory, and are decoded ahead of each block.

While one block computes, threads read and decode the next one into the other of two buffers, and
the system reads the one after it (cf. Endor, arXiv 2406.11674, and DFloat11, arXiv 2504.11651).
What is read from the disk is the packed weights; sparse ones are a bitmap and the values that are
not 0 (`docs/format/sparse.md`).
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from densor.errors import ArgumentError, FileError
from densor.files.packed_model import check_packed, weight_files
from densor.files.shards_listed import check_shards
from densor.formats.container.packed_array import PackedArray
from densor.formats.io.urls import plain
from densor.formats.packed.reader import PackedFile
from densor.formats.packed.stored_array import OpenFile, StoredArray
from densor.runtime.arguments import need
from densor.torch.blob import read_tensor
from densor.torch.packed import PackedTensor
from densor.torch.places import CPU, DISK, check_map, place_of
from densor.torch.resident import attach

MIN_OFFLOADED = 1 << 14  # bytes; what is smaller stays plain, in memory
_MAX_NAMED = 3


class Offloaded(NamedTuple):
    """Bytes of a module's weights by where they are: `on_disk` and `packed` as stored there, and
    `plain` in memory; `taken`: bytes that were read from files so far."""

    on_disk: int
    packed: int
    plain: int
    taken: int


class Folder:
    """The tensors of a model's folder, packed or plain, opened as they are asked for."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        folder = plain(folder)
        check_shards(folder)
        paths = weight_files(Path(folder))
        if not paths:
            raise FileError(f"{folder}: holds no model*.safetensors")
        self.path = Path(folder)
        self._of: dict[str, PackedFile] = {}
        self._open: dict[Path, OpenFile] = {}
        for path in paths:
            file = check_packed(PackedFile(path))
            self._of.update(dict.fromkeys(file, file))

    def __contains__(self, name: str) -> bool:
        return name in self._of

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def size(self, name: str) -> int:
        """Bytes of a tensor, unpacked."""
        return self._of[name].info(name).size

    def plain(self, name: str, threads: int = 0) -> torch.Tensor:
        """A tensor in memory of its own."""
        return read_tensor(self._of[name], name, threads)

    def stored(self, name: str) -> StoredArray:
        """A tensor that stays in its file, which is read once and checked."""
        return stored_in(self._of[name], name, self._open)

    def packed(self, name: str) -> PackedArray:
        """A blob in memory."""
        return self._of[name].array(name, copy=True)

    def is_blob(self, name: str) -> bool:
        """Whether a tensor is packed."""
        return self._of[name].is_blob(name)


def stored_in(file: PackedFile, name: str, opened: dict[Path, OpenFile]) -> StoredArray:
    """A tensor of a file that stays there; `opened`: files that were opened before, by path."""
    path = file.path
    if path not in opened:
        opened[path] = OpenFile(path)
    return StoredArray(file, name, opened[path])


def offload(
    module: nn.Module,
    folder: str | os.PathLike[str],
    device_map: str | Mapping[str, str] = DISK,
    threads: int = 0,
    *,
    ahead: bool = True,
    blocks: Iterable[nn.Module] | None = None,
) -> nn.Module:
    """Takes the weights of a module from a folder, to be decoded when they are used; returns it.

    `module`: its parameters may be on the meta device, its buffers may not. `folder`: model*.
    safetensors, as `densor hf-pack` writes them or plain, whose tensors have the names of the
    parameters. `device_map`: "disk" or "cpu", or which of them by the name of a parameter or of a
    module around it, of which the longest counts. On disk, weights are read for each pass; on the
    CPU, packed ones stay packed in memory. What is smaller than 16 KiB, or on the CPU not packed,
    becomes plain. The module computes on the CPU, as it would with plain weights, bit for bit.
    `threads`, `ahead` and `blocks` as for `densor.torch.pack_module`.

    All that is used of the folder is read once here and its hashes are checked; what is read later
    is compared with that. The files must stay where they are. Errors name file and tensor:
    ArgumentError for parameters that the folder does not have or that have another shape,
    UnsupportedError for weights that are coded against a base.
    """
    need(module, nn.Module, "module")
    check_map(device_map)
    source = Folder(folder)
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    parameters = dict(module.named_parameters())  # none is freed while its id is a key
    _check_there(module, source, names.values())
    arrays: dict[str, PackedArray] = {}
    for parameter in parameters.values():
        some = names[id(parameter)]
        name = next(name for name in some if name in source)
        place = place_of(name, device_map)
        if source.size(name) < MIN_OFFLOADED or (place == CPU and not source.is_blob(name)):
            _set_plain(module, some, parameter, source.plain(name, threads))
        else:
            arrays[name] = source.stored(name) if place == DISK else source.packed(name)
    return attach(module, arrays, threads, ahead=ahead, blocks=blocks)


def _check_there(module: nn.Module, source: Folder, names: Iterable[list[str]]) -> None:
    """ArgumentError unless the folder has everything that is missing."""
    lost = [some[0] for some in names if not any(name in source for name in some)]
    if lost:
        more = f" and {len(lost) - _MAX_NAMED} more" if len(lost) > _MAX_NAMED else ""
        raise ArgumentError(f"{source.path}: has no tensors {lost[:_MAX_NAMED]}{more}")
    empty = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if empty:
        raise ArgumentError(
            f"buffer {empty[0]!r} is on the meta device, and in no file: make the module's "
            "parameters alone there, as accelerate.init_empty_weights does"
        )


def _set_plain(
    module: nn.Module, names: list[str], parameter: nn.Parameter, value: torch.Tensor
) -> None:
    if value.shape != parameter.shape:
        shape, wanted = tuple(value.shape), tuple(parameter.shape)
        raise ArgumentError(f"{names[0]}: tensor has shape {shape}, not {wanted}")
    wanted_gradient = parameter.requires_grad and value.is_floating_point()
    made = nn.Parameter(value, wanted_gradient)
    for name in names:
        path, _, last = name.rpartition(".")
        module.get_submodule(path)._parameters[last] = made


def offloaded(module: nn.Module) -> Offloaded:
    """Where the weights of a module are, and how much was read for them."""
    need(module, nn.Module, "module")
    on_disk = packed = plain = 0
    files: dict[int, OpenFile] = {}
    for parameter in module.parameters():
        array = parameter.cell.packed if isinstance(parameter, PackedTensor) else None
        if isinstance(array, StoredArray):
            on_disk += array.on_disk
            files[id(array.source)] = array.source
        elif array is not None:
            packed += array.stored
        else:
            plain += parameter.nbytes
    return Offloaded(on_disk, packed, plain, sum(file.taken for file in files.values()))
