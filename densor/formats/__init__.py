"""Containers and files: which tensors and bytes are in them, put back byte for byte."""

import sys
from types import ModuleType
from typing import Any

from densor.former import former_name


class _Former(ModuleType):
    """A module that has moved to another room; its name goes with the next version."""

    def __getattr__(self, name: str) -> Any:
        if name != "append":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return former_name(self.__name__, name, "densor.files.append.append")


sys.modules[f"{__name__}.append"] = _Former(f"{__name__}.append")
