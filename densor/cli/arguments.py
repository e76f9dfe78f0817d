"""What the parsers of all commands share: flags, each declared once, and the options they make."""

import argparse
import contextlib
import functools
import os
import sys
from dataclasses import fields, replace
from typing import Any, NoReturn

from densor.options import DEFAULT_LEVEL, Progress, ReadOptions, WriteOptions

SUFFIX = ".densor"
_MARK = "\0"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class UsageError(Exception):
    """The command line makes no sense; exit code 2."""

    def __init__(self, message: str, program: str = "densor") -> None:
        super().__init__(message)
        self.program = program


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """One that asks for the width of the terminal without `shutil`, since each option makes one."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


@functools.cache
def _columns() -> int:
    """Of the terminal that help goes to, as `shutil.get_terminal_size` has them."""
    with contextlib.suppress(ValueError):
        given = int(os.environ.get("COLUMNS", ""))
        if given > 0:
            return given
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or _COLUMNS  # type: ignore[union-attr]
    return _COLUMNS


_COLUMNS = 80


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations and raises UsageError."""

    def __init__(self, command: str = "", **options: str) -> None:
        super().__init__(
            prog=f"densor {command}".rstrip(),
            allow_abbrev=False,
            formatter_class=_Formatter,
            **options,  # type: ignore[arg-type]
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self.prog)


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parses options and names in any order; what comes after `--` is a name.

    argparse, when it takes any order, does not know `--` in all versions of Python, so that a
    mark hides the dash of such names from it.
    """
    if "--" in argv:
        at = argv.index("--")
        names = [_MARK + name if name[:1] == "-" != name else name for name in argv[at + 1 :]]
        argv = [*argv[:at], *names]
    try:
        args = parser.parse_intermixed_args(argv)
    except (AttributeError, NameError) as error:  # of argparse, which an interrupt came to
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__context__
        raise cause or error from None
    for key, value in vars(args).items():
        if isinstance(value, str):
            setattr(args, key, value.removeprefix(_MARK))
        elif isinstance(value, list):
            bare = [v.removeprefix(_MARK) if isinstance(v, str) else v for v in value]
            setattr(args, key, bare)
    return args


def count(text: str) -> int:
    """A whole number from 0 on."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def byte_count(text: str) -> int:
    """A number of bytes such as 4096, 64K, 100M or 2G, in powers of 1024."""
    number = text.upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:] in ("K", "M", "G") else ""
    digits = number.removesuffix(unit) if unit else number
    if not (digits.isascii() and digits.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 4096, 64K, 100M or 2G")
    return int(digits) * _UNITS[unit]


def percent(text: str) -> float:
    """A share such as 5% or 0.5%; the sign may be left out."""
    digits = text.removesuffix("%")
    if not digits.isascii() or not digits.replace(".", "", 1).isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a share such as 5%")
    value = float(digits)
    if not 0.1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0.1% and 100%")
    return value


def levels(text: str) -> list[int]:
    """Levels separated by commas, such as 1,3,9."""
    parts = text.split(",")
    if not all(len(part) == 1 and part in "123456789" for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of levels such as 1,3,9")
    return [int(part) for part in parts]


# Flags of options. Where a flag sets a field of `WriteOptions` or `ReadOptions`, it has its name,
# and `write_options` and `read_options` find it.


def add_levels(parser: argparse.ArgumentParser) -> None:
    """Adds the levels, `-1` to `-9`, as `level`; 3 by default."""
    words = {1: "fastest", 3: "the default", 9: "smallest; all numbers between exist too"}
    for level in range(1, 10):
        parser.add_argument(
            f"-{level}",
            dest="level",
            action="store_const",
            const=level,
            default=DEFAULT_LEVEL,
            help=words.get(level, argparse.SUPPRESS),
        )


_BASE = {"metavar": "FILE", "help": "the file that this one is coded against, or an archive of it"}
_FLAGS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "dtype": (
        ("--dtype",),
        {"metavar": "TYPE", "help": "take all bytes as numbers of this type, such as bf16"},
    ),
    "audio": (
        ("--audio",),
        {
            "dest": "raw",
            "type": "audio:{}".format,
            "metavar": "RATE:CHANNELS:TYPE",
            "help": "take all bytes as sound, such as 44100:2:s16",
        },
    ),
    "image": (
        ("--image",),
        {
            "dest": "raw",
            "type": "image:{}".format,
            "metavar": "WxHxC:TYPE",
            "help": "take all bytes as images of this size, such as 640x480x3:u8",
        },
    ),
    "text": (("--text",), {"action": "store_true", "help": "code text and other bytes as -9 does"}),
    "table_latents": (
        ("--table-latents",),
        {
            "action": "store_true",
            "help": "code tables also under latent classes, and keep the smaller (docs/tables.md)",
        },
    ),
    "tokens": (
        ("--tokens",),
        {
            "action": "store_true",
            "help": "integers are tokens; plain files too, of 16 bits if --dtype gives no other",
        },
    ),
    "hash": (
        ("--sha256",),
        {
            "action": "store_const",
            "const": "sha256",
            "help": "store SHA-256 of the original, not XXH3-128",
        },
    ),
    "gpu_index": (
        ("--gpu-index",),
        {
            "action": "store_true",
            "help": "store entry points for decoding on a GPU (levels 1 to 5)",
        },
    ),
    "recovery": (
        ("--recovery",),
        {
            "type": percent,
            "metavar": "PERCENT",
            "help": "add data from which densor repair mends damage of so much of the archive",
        },
    ),
    "threads": (
        ("-T", "--threads"),
        {
            "type": count,
            "default": 0,
            "metavar": "#",
            "help": "threads, 0 for all processors (default %(default)s)",
        },
    ),
    "overwrite": (
        ("-f", "--force"),
        {"action": "store_true", "help": "overwrite files; write to a terminal"},
    ),
    "sync": (
        ("--sync",),
        {"action": "store_true", "help": "wait until what was written is on the disk"},
    ),
    "max_output_size": (
        ("--max-size",),
        {
            "type": byte_count,
            "metavar": "N[K|M|G]",
            "help": "give up on archives that hold more bytes",
        },
    ),
    "language_model": (
        ("--llm",),
        {
            "metavar": "MODEL",
            "help": "the language model of texts: smollm2, sample, a folder or a GGUF file",
        },
    ),
    "image_model": (
        ("--image-model",),
        {
            "metavar": "MODEL",
            "help": "the model of images, from densor train; each is coded by itself",
        },
    ),
    "base": (("--base",), _BASE),
    "quiet": (("-q", "--quiet"), {"action": "store_true", "help": "errors only on stderr"}),
    "json": (("--json",), {"action": "store_true", "help": "write JSON, sizes in bytes"}),
}
WRITING = (
    *("dtype", "audio", "image", "text", "table_latents", "tokens"),
    *("hash", "gpu_index", "recovery", "sync"),
)


def add_flags(parser: argparse.ArgumentParser, *names: str, **changes: Any) -> None:
    """Flags by the names of their fields, in this order; `changes`: what argparse is given other
    than usual, for all of them."""
    for name in names:
        if name == "level":
            add_levels(parser)
            continue
        flags, about = _FLAGS[name]
        parser.add_argument(*flags, **{"dest": name, **about, **changes})


def add_writing(parser: argparse.ArgumentParser) -> None:
    """What commands that write archives understand."""
    add_flags(parser, "level", *WRITING)


def add_no_verify(parser: argparse.ArgumentParser) -> None:
    """--no-verify, of what a language model codes."""
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_const",
        const=False,
        help="with --llm: do not decode at once what was coded",
    )


def write_options(args: argparse.Namespace, progress: Progress | None = None) -> WriteOptions:
    """The options that a command line gives, for what writes archives."""
    options = WriteOptions(**_given(args, WriteOptions), progress=progress)
    return replace(options, dtype=canonical_dtype(args))


def read_options(args: argparse.Namespace, progress: Progress | None = None) -> ReadOptions:
    """Likewise for what reads them."""
    return ReadOptions(**_given(args, ReadOptions), progress=progress)


def _given(args: argparse.Namespace, kind: type) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in vars(args).items() if name in names}


def canonical_dtype(args: argparse.Namespace) -> str | None:
    """The type given by --dtype as the library spells it; UsageError for an unknown one."""
    if getattr(args, "dtype", None) is None:
        return None
    from densor.dtypes import parse_dtype
    from densor.errors import ArgumentError

    try:
        return parse_dtype(args.dtype)
    except ArgumentError as error:
        raise UsageError(f"argument --dtype: {error}") from None
