"""The index of a model's folder: which of its files holds which tensors.

Importing this loads nothing heavy: engines need it whenever they start.
"""

import json
import os
from pathlib import Path
from typing import Any

from densor.errors import FileError

INDEX = "model.safetensors.index.json"
_INDEXES = (INDEX, f"diffusion_pytorch_{INDEX}")  # of transformers and diffusers
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
    """FileError unless all files that the index of a folder names are there.

    `suffix`: what stands behind their names, such as ".densor".
    """
    missing = {
        name: tensors
        for name, tensors in shards_of(folder).items()
        if not (Path(folder) / f"{name}{suffix}").is_file()
    }
    for name, tensors in missing.items():
        some = ", ".join(repr(tensor) for tensor in tensors[:_MAX_NAMED])
        more = f" and {len(tensors) - _MAX_NAMED} more" if len(tensors) > _MAX_NAMED else ""
        raise FileError(
            f"{Path(folder) / name}{suffix}: is missing, and with it the tensors {some}{more}"
        )


def json_object(path: Path) -> dict[str, Any]:
    """A JSON object in a file; an empty one where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
