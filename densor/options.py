"""Options of writing and reading, made once at the face and handed down whole.

Functions of the package take them as keywords or as an object, `options=`; keywords that are given
beside an object replace what it says:

>>> from densor.options import WriteOptions, write_options
>>> write_options(WriteOptions(level=6, text=True), level=9)
WriteOptions(level=9, text=True)

A new option is a field here, with its type among the keywords below it, its flag in
`densor/cli/arguments.py`, and what makes use of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, TypedDict, TypeVar

from densor.errors import ArgumentError

Progress = Callable[[int], object]
"""Called with the number of original bytes that were done since the last call."""

DEFAULT_LEVEL = 3
_Options = TypeVar("_Options")


def _shown(options: Any) -> str:
    """The options that are not at their defaults."""
    chosen = {f.name: getattr(options, f.name) for f in fields(options)}
    given = [f"{f.name}={chosen[f.name]!r}" for f in fields(options) if chosen[f.name] != f.default]
    return f"{type(options).__name__}({', '.join(given)})"


# What options must be; None is for those that are not given.
_KINDS: dict[str, tuple[Any, str]] = {
    "level": (Integral, "a whole number"),
    "threads": (Integral, "a whole number"),
    "max_output_size": (Real, "a number"),
    "recovery": (Real, "a number"),
    "raw": (str, "a text"),
    "hash": (str, "a text"),
    "progress": (Callable, "a function"),
}


def _check_kinds(options: Any) -> None:
    """TypeError for an option of a type that it cannot be."""
    for name, (kind, what) in _KINDS.items():
        value = getattr(options, name, None)
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} must be {what}, not {type(value).__name__}")


@dataclass(frozen=True, kw_only=True, repr=False)
class WriteOptions:
    """How an archive is written."""

    level: int = DEFAULT_LEVEL
    """1 (fastest) to 9 (smallest); `densor.codec.levels`."""
    threads: int = 0
    """Threads that encode; 0 for all processors. The bytes do not depend on it."""
    dtype: str | None = None
    """What the elements of the input really are, such as `bf16` for bits held as uint16."""
    raw: str | None = None
    """Samples without a header, `audio:44100:2:s16` or `image:640x480x3:u8`; `parsers/raw.py`."""
    hash: str | None = None
    """Hash of the original bytes: `xxh3-128` (None) or `sha256`."""
    text: bool = False
    """Code plain bytes by context mixing, whatever the level."""
    table_latents: bool = False
    """Code columns of tables also under latent classes, and keep the smaller; `docs/tables.md`."""
    tokens: bool = False
    """Take integers, and files of no known format (as uint16), for tokens; `docs/tokens.md`."""
    language_model: Any = None
    """Folder, GGUF file, known name or loaded model under which text is coded; `llm` for short."""
    image_model: Any = None
    """File of `densor train images` under which images of its size are coded, each by itself."""
    base: Any = None
    """Similar data that changes are coded against; needed again for reading."""
    max_output_size: int | None = None
    """Original bytes that a base may have that is an archive itself; None for no limit."""
    verify: bool | None = None
    """Decode what was written and compare; None does so for what a language model has coded."""
    recovery: float | None = None
    """Recovery data, in percent of the archive's size."""
    gpu_index: bool = False
    """Store entry points from which a GPU decodes in parallel; levels 1 to 5."""
    overwrite: bool = False
    """Replace a target that exists."""
    sync: bool = False
    """Wait until the target is on the disk; where a file is replaced, that is done in any case."""
    progress: Progress | None = None
    """Called as original bytes are coded."""

    def __post_init__(self) -> None:
        _check_kinds(self)
        if self.recovery is not None and not 0.1 <= self.recovery <= 100:
            raise ArgumentError(f"recovery data can be 0.1 to 100 percent, not {self.recovery!r}")

    __repr__ = _shown

    def reading(self, **changes: Any) -> "ReadOptions":
        """Options to read a base with, or to verify what was written."""
        common = {f.name: getattr(self, f.name) for f in fields(ReadOptions)}
        return ReadOptions(**common | {"progress": None} | changes)


class WriteKeywords(TypedDict, total=False):
    """The fields of `WriteOptions` as keywords, but level and threads, which have a position."""

    dtype: str | None
    raw: str | None
    hash: str | None
    text: bool
    table_latents: bool
    tokens: bool
    llm: Any
    image_model: Any
    base: Any
    max_output_size: int | None
    verify: bool | None
    recovery: float | None
    gpu_index: bool
    overwrite: bool
    sync: bool
    progress: Progress | None


@dataclass(frozen=True, kw_only=True, repr=False)
class ReadOptions:
    """How an archive is read."""

    threads: int = 0
    """Threads that decode; 0 for all processors."""
    max_output_size: int | None = None
    """Original bytes beyond which `LimitError` is raised; None for no limit."""
    base: Any = None
    """What the archive was coded against: path, file object, bytes, array or archive."""
    language_model: Any = None
    """The model that text was coded under, where it has no name that is known; `llm` for short."""
    image_model: Any = None
    """The model that images were coded under, which they cannot be read without."""
    sync: bool = False
    """Wait until restored files are on the disk."""
    progress: Progress | None = None
    """Called as original bytes are restored."""

    def __post_init__(self) -> None:
        _check_kinds(self)

    __repr__ = _shown


class ReadKeywords(TypedDict, total=False):
    """The fields of `ReadOptions` as keywords, but threads, which has a position."""

    max_output_size: int | None
    base: Any
    llm: Any
    image_model: Any
    sync: bool
    progress: Progress | None


DEFAULT_READ = ReadOptions()
DEFAULT_WRITE = WriteOptions()


def write_options(options: WriteOptions | None = None, **given: Any) -> WriteOptions:
    """`options` with what is given beside them; None for level or threads leaves those as are."""
    return _with(_of_kind(options, DEFAULT_WRITE), given)


def read_options(options: ReadOptions | None = None, **given: Any) -> ReadOptions:
    """Likewise for reading."""
    return _with(_of_kind(options, DEFAULT_READ), given)


def _of_kind(options: _Options | None, default: _Options) -> _Options:
    """`options`, or the default for None; TypeError for what are none, or those of reading."""
    if options is None:
        return default
    if not isinstance(options, type(default)):
        raise TypeError(f"options must be {type(default).__name__}, not {type(options).__name__}")
    return options


def _with(options: _Options, given: Mapping[str, Any]) -> _Options:
    changes = dict(given)
    for name in ("level", "threads"):
        if name in changes and changes[name] is None:
            del changes[name]
    if "llm" in changes:
        changes["language_model"] = changes.pop("llm")
    known = {field.name for field in fields(options)}  # type: ignore[arg-type]
    unknown = sorted(changes.keys() - known)
    if unknown:
        raise TypeError(f"{type(options).__name__} has no option {unknown[0]!r}")
    return replace(options, **changes)  # type: ignore[type-var]
