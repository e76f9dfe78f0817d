"""The files of a model's folder: which there have to be, and which of them holds which tensors.

The folder's index says so, or else their names. Importing this loads nothing heavy: engines need it
whenever they start.
"""

import functools
import json
import os
import re
from collections.abc import Container
from pathlib import Path
from typing import Any

from densor.errors import FileError, FormatError

INDEX = "model.safetensors.index.json"
_INDEXES = (INDEX, f"diffusion_pytorch_{INDEX}")  # of transformers and diffusers
_NUMBERED = re.compile(r"(.+-)(\d{1,9})(-of-(\d{1,9}).*\.safetensors)")  # one file of so many
_MAX_NAMED = 3


def shards_of(folder: str | os.PathLike[str]) -> dict[str, list[str]]:
    """The tensors of each file that a folder's index names; nothing where there is no index."""
    shards: dict[str, list[str]] = {}
    for index in _INDEXES:
        listed = json_object(Path(folder) / index).get("weight_map")
        for tensor, name in listed.items() if isinstance(listed, dict) else ():
            if isinstance(name, str) and Path(name).name == name:
                shards.setdefault(name, []).append(tensor)
    return dict(sorted(shards.items()))


def check_shards(folder: str | os.PathLike[str], suffix: str = "") -> None:
    """FileError unless all files that the index of a folder names are there; where there is no
    index, unless as many are there as their own names say.

    `suffix`: what stands behind their names, such as ".densor".
    """
    listed = shards_of(folder)
    if not listed:
        _check_numbers(Path(folder), suffix)
    missing = {
        name: tensors
        for name, tensors in listed.items()
        if not (Path(folder) / f"{name}{suffix}").is_file()
    }
    for name, tensors in missing.items():
        some = ", ".join(repr(tensor) for tensor in tensors[:_MAX_NAMED])
        more = f" and {len(tensors) - _MAX_NAMED} more" if len(tensors) > _MAX_NAMED else ""
        raise FileError(
            f"{Path(folder) / name}{suffix}: is missing, and with it the tensors {some}{more}"
        )


def _check_numbers(folder: Path, suffix: str) -> None:
    """FileError where one of the files "model-00001-of-00005.safetensors" and so on is not there.

    Engines that need no index would leave its weights as memory happens to be.
    """
    there: dict[tuple[str, str, int], dict[int, int]] = {}  # digits of each number of a set
    for path in folder.glob(f"*-of-*.safetensors{suffix}"):
        found = _NUMBERED.fullmatch(path.name.removesuffix(suffix))
        if found is not None:
            begin, number, end, count = found.groups()
            there.setdefault((begin, end, int(count)), {})[int(number)] = len(number)
    for (begin, end, most), numbers in sorted(there.items()):
        if len(numbers) < most:
            number = next(n for n in range(1, most + 1) if n not in numbers)
            name = f"{begin}{number:0{max(numbers.values())}}{end}{suffix}"
            raise FileError(f"{folder / name}: is missing, one of {most} files of tensors")


def check_holds(path: str | os.PathLike[str], names: Container[str], suffix: str = "") -> None:
    """FormatError where a file holds none of the tensors that the index of its folder says it does:
    it is another file of that model, or of another one. `suffix` as for `check_shards`.

    Indexes that name tensors which nobody has are not rare, so that one of them is enough.
    """
    folder, name = Path(path).parent, Path(path).name.removesuffix(suffix)
    listed = _listed(folder, *_stamps(folder)).get(name, [])
    if listed and not any(tensor in names for tensor in listed):
        raise FormatError(
            f"{path}: lacks the tensor {listed[0]!r:.200}, as all that the folder's index has there"
        )


def _stamps(folder: Path) -> list[tuple[int, int]]:
    """What tells an index from a later one."""
    found = []
    for index in _INDEXES:
        try:
            status = (folder / index).stat()
        except OSError:
            found.append((0, 0))
        else:
            found.append((status.st_size, status.st_mtime_ns))
    return found


@functools.lru_cache(maxsize=4)  # every file of the folder is looked up
def _listed(folder: Path, *stamps: tuple[int, int]) -> dict[str, list[str]]:
    return shards_of(folder)


def json_object(path: Path) -> dict[str, Any]:
    """A JSON object in a file; an empty one where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
