"""Options of writing and reading, made once at the face and handed down whole."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from densor.errors import ArgumentError

Progress = Callable[[int], object]
"""Called with the number of original bytes that were done since the last call."""

DEFAULT_LEVEL = 3


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How an archive is written."""

    level: int = DEFAULT_LEVEL
    """1 (fastest) to 9 (smallest); `densor.codec.levels`."""
    threads: int = 0
    """Threads that encode; 0 for all processors. The bytes do not depend on it."""
    hash: str | None = None
    """Hash of the original bytes: `xxh3-128` (None) or `sha256`."""
    text: bool = False
    """Code plain bytes by context mixing, whatever the level."""
    language_model: Any = None
    """Folder, GGUF file, known name or loaded model under which text is coded."""
    base: Any = None
    """Similar data that changes are coded against; needed again for reading."""
    verify: bool | None = None
    """Decode what was written and compare; None leaves it to the function."""
    recovery: float | None = None
    """Recovery data, in percent of the archive's size."""
    gpu_index: bool = False
    """Store entry points from which a GPU decodes in parallel."""
    overwrite: bool = False
    """Replace a target that exists."""
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.recovery is not None and not 0 < self.recovery <= 100:
            raise ArgumentError(f"recovery must be from 0 to 100 percent, not {self.recovery!r}")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How an archive is read."""

    threads: int = 0
    """Threads that decode; 0 for all processors."""
    max_output_size: int | None = None
    """Original bytes beyond which `LimitError` is raised; None for no limit."""
    base: Any = None
    """What the archive was coded against: path, file object, bytes, array or archive."""
    language_model: Any = None
    """The model that text was coded under, where it has no name that is known."""
    progress: Progress | None = None


DEFAULT_READ = ReadOptions()
