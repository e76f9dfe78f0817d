"""The tensors of a folder of safetensors files, as bases."""

import os
from pathlib import Path

from densor.errors import ArgumentError, FileError
from densor.formats.container.base import GivenBase
from densor.formats.container.tensor_blob import Tensor
from densor.formats.io.outputs import errors_of
from densor.formats.io.sources import MemoryRandomSource
from densor.formats.packed.reader import PackedFile


class BaseFolder:
    """The tensors of a folder of safetensors files, by name, as bases for those of another."""

    def __init__(self, folder: str | os.PathLike[str], threads: int = 0) -> None:
        self.path = Path(folder).absolute()
        self._threads = threads
        self._files: dict[str, PackedFile] = {}
        with errors_of(self.path):
            paths = sorted(self.path.glob("*.safetensors"))
        for path in paths:
            file = PackedFile(path)
            self._files.update(dict.fromkeys(file, file))
        if not self._files:
            raise FileError(f"{self.path}: no folder of safetensors files")

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def find(self, tensor: Tensor) -> GivenBase | None:
        """What a new tensor may be coded against: that of the same name, type and shape."""
        file = self._files.get(tensor.name)
        if file is None or file.info(tensor.name)[1:4] != tensor[1:4]:
            return None
        return self._given(tensor.name)

    def need(self, tensor: Tensor) -> GivenBase:
        """What a tensor was coded against; ArgumentError where it is not here."""
        if tensor.name not in self._files:
            raise ArgumentError(f"needs a base, which {self.path} does not hold")
        return self._given(tensor.name)

    def _given(self, name: str) -> GivenBase:
        file = self._files[name]
        if file.is_blob(name) and file.describe(name).base is not None:
            raise ArgumentError(f"{file.path}: is coded against a base itself; unpack it first")
        # Not kept: a base is needed once, and may be decoded memory.
        data = file.read(name, self._threads)
        return GivenBase(MemoryRandomSource(data), f"{self.path.name}/{name}")
