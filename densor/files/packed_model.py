"""What is loaded of a packed model's folder: its files of weights, and the base they may need.

Packing and unpacking of whole folders is in `model_folder`, which needs all that packs.
"""

import contextlib
import os
import re
from pathlib import Path

from densor.errors import ArgumentError, FileError, FormatError
from densor.files.shards_listed import check_holds
from densor.formats.container import wire
from densor.formats.container.base import GivenBase
from densor.formats.container.tensor_blob import Tensor
from densor.formats.io.outputs import errors_of
from densor.formats.packed.base_folder import BaseFolder
from densor.formats.packed.reader import PackedFile
from densor.formats.tensors import is_name
from densor.runtime.locks import Lock

METHOD = "densor"  # `quant_method` in config.json
BASE_VARIABLE = "DENSOR_BASE"
# What transformers and diffusers take a model's weights from; adapters and other files stay.
_WEIGHTS = re.compile(
    r"(diffusion_pytorch_)?model(\.[\w-]+)?(-\d+-of-\d+)?(\.[\w-]+)?\.safetensors"
)


def check_packed(file: PackedFile) -> PackedFile:
    """`file`; FormatError as by `check_blobs`, or where it holds other tensors than its folder's
    index says."""
    check_holds(file.path, file)
    return check_blobs(file)


def check_blobs(file: PackedFile) -> PackedFile:
    """`file`; FormatError where it holds blobs but has lost what they stand for."""
    for name in () if file.packed else file:
        info = file.info(name)
        looks = info.dtype == "U8" and len(info.shape) == 1
        if looks and wire.begins_archive(file.stored(name)):
            raise FormatError(
                f"{file.path}: tensor {name!r:.200}: blob of a file that is not packed"
            )
    return file


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a model's folder, by name."""
    with errors_of(folder):
        names = sorted(os.listdir(folder))
    return [folder / name for name in names if _WEIGHTS.fullmatch(name)]


class Bases:
    """Finds the base of a packed model when, and only if, a tensor needs it.

    Looked for are, in this order, `base`, the folders in the environment variable DENSOR_BASE
    (separated as in PATH), and a folder beside the packed one with the name that the base had. Safe
    to use from several threads.
    """

    _finding = Lock()  # of all, so that models that have one can be copied

    def __init__(
        self, folder: Path, base: str | os.PathLike[str] | None = None, threads: int = 0
    ) -> None:
        # Looked for later, and perhaps in another working directory
        self._folder = folder.absolute()
        self._given = None if base is None else Path(base).absolute()
        self._threads = threads
        self._found: BaseFolder | None = None

    def need(self, tensor: Tensor) -> GivenBase:
        """The base of a tensor, whose hash is still to be checked; ArgumentError if none."""
        assert tensor.base is not None
        with self._finding:
            if self._found is None:
                self._found = self._find(tensor)
        return self._found.need(tensor)

    def _find(self, tensor: Tensor) -> BaseFolder:
        assert tensor.base is not None
        name = (tensor.base.name or "").split("/")[0]
        if self._given is not None:
            return BaseFolder(self._given, self._threads)
        listed = os.environ.get(BASE_VARIABLE, "").split(os.pathsep)
        candidates = [Path(item) for item in listed if item]
        if is_name(name) and name not in ("", ".", ".."):
            candidates.append(self._folder.parent / name)
        for candidate in candidates:
            with contextlib.suppress(FileError):
                folder = BaseFolder(candidate, self._threads)
                if tensor.name in folder:
                    return folder
        raise ArgumentError(
            f"is coded against the model {name!r}, which is not at hand: give its folder "
            f"as base= (--base), or in the environment variable {BASE_VARIABLE}"
        )
