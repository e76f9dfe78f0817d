"""What the parsers of all commands share. Imports argparse alone."""

import argparse
from typing import NoReturn

SUFFIX = ".densor"
_MARK = "\0"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class UsageError(Exception):
    """The command line makes no sense; exit code 2."""

    def __init__(self, message: str, program: str = "densor") -> None:
        super().__init__(message)
        self.program = program


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations and raises UsageError."""

    def __init__(self, command: str = "", **options: str) -> None:
        super().__init__(
            prog=f"densor {command}".rstrip(),
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
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
    args = parser.parse_intermixed_args(argv)
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


def add_levels(parser: argparse.ArgumentParser) -> None:
    """Adds the levels, `-1` to `-9`, as `level`; 3 by default."""
    words = {1: "fastest", 3: "the default", 9: "smallest; all numbers between exist too"}
    for level in range(1, 10):
        parser.add_argument(
            f"-{level}",
            dest="level",
            action="store_const",
            const=level,
            default=3,
            help=words.get(level, argparse.SUPPRESS),
        )


def add_writing(parser: argparse.ArgumentParser) -> None:
    """What commands that write archives understand."""
    add_levels(parser)
    parser.add_argument(
        "--dtype", metavar="TYPE", help="take all bytes as numbers of this type, such as bf16"
    )
    parser.add_argument("--text", action="store_true", help="code text and other bytes as -9 does")
    parser.add_argument(
        "--sha256", action="store_true", help="store SHA-256 of the original, not XXH3-128"
    )
    add_gpu_index(parser)
    add_recovery(parser)


def add_gpu_index(parser: argparse.ArgumentParser) -> None:
    """Adds `--gpu-index`, for commands that write archives."""
    parser.add_argument(
        "--gpu-index",
        action="store_true",
        help="store entry points for decoding on a GPU (levels 1 to 5)",
    )


def add_recovery(parser: argparse.ArgumentParser) -> None:
    """Adds `--recovery`, a share in percent."""
    parser.add_argument(
        "--recovery",
        type=percent,
        metavar="PERCENT",
        help="add data from which densor repair mends damage of so much of the archive",
    )


def add_threads(parser: argparse.ArgumentParser, default: int = 0) -> None:
    """Adds `-T`, `--threads`; 0 stands for all processors."""
    parser.add_argument(
        "-T",
        "--threads",
        type=count,
        default=default,
        metavar="#",
        help=f"threads, 0 for all processors (default {default})",
    )


def add_force(parser: argparse.ArgumentParser) -> None:
    """Adds `-f`, `--force`, for commands that write files."""
    parser.add_argument(
        "-f", "--force", action="store_true", help="overwrite files; write to a terminal"
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Adds `-q`, `--quiet`."""
    parser.add_argument("-q", "--quiet", action="store_true", help="errors only on stderr")


def add_max_size(parser: argparse.ArgumentParser) -> None:
    """Adds `--max-size`, a limit in bytes of what is decoded."""
    parser.add_argument(
        "--max-size",
        type=byte_count,
        metavar="N[K|M|G]",
        help="give up on archives that hold more bytes",
    )


def add_llm(parser: argparse.ArgumentParser) -> None:
    """Adds `--llm`, the language model for text."""
    parser.add_argument(
        "--llm",
        metavar="MODEL",
        help="the language model of texts: smollm2, sample, a folder or a GGUF file",
    )


def add_no_verify(parser: argparse.ArgumentParser) -> None:
    """--no-verify, of what a language model codes."""
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="with --llm: do not decode at once what was coded",
    )


def add_base(parser: argparse.ArgumentParser) -> None:
    """Adds `--base`, a file or folder that is coded against."""
    parser.add_argument(
        "--base",
        metavar="FILE",
        help="the file that this one is coded against, or an archive of it",
    )


def canonical_dtype(args: argparse.Namespace) -> str | None:
    """The type given by --dtype as the library spells it; UsageError for an unknown one."""
    if args.dtype is None:
        return None
    from densor.dtypes import parse_dtype
    from densor.errors import ArgumentError

    try:
        return parse_dtype(args.dtype)
    except ArgumentError as error:
        raise UsageError(f"argument --dtype: {error}") from None
