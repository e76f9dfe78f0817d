"""The commands as a page of the documents and as a manual page, made from their parsers.

python -m densor.cli.manual docs     writes docs/cli.md and docs/densor.1
"""

import argparse
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from densor.cli.completion import Option, commands, options
from densor.cli.usage import HELP
from densor.version import __version__

_EXITS = "0 all is well, 1 an error, 2 wrong usage, 130 interrupted"


def _prose(parser: argparse.ArgumentParser) -> str:
    """What a command does, without the line breaks of a terminal."""
    return " ".join((parser.description or "").split())


def _positionals(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        if not action.option_strings and action.help not in (None, argparse.SUPPRESS):
            name = action.metavar or action.dest
            yield str(name), " ".join((action.help or "").split())


def markdown() -> str:
    """A page with a section for each command."""
    parts = [
        "# Command line\n\nMade from the parsers by `python -m densor.cli.manual docs`.\n",
        f"## densor\n\n```text\n{HELP}\n```\n",
    ]
    for name, parser in commands():
        if name:
            parts.append(f"## densor {name}\n\n{textwrap.fill(_prose(parser), 118)}\n")
            rows = [*_positionals(parser), *((_shown(o), o.help) for o in options(parser))]
            parts.append("| | |\n|---|---|\n" + "".join(map(_table_row, rows)))
    return "\n".join(parts)


def _shown(option: Option) -> str:
    return ", ".join(option.names)


def _table_row(row: tuple[str, str]) -> str:
    name, about = row
    return f"| `{name}` | {about.replace('|', chr(92) + '|')} |\n"


def manual_page() -> str:
    """The same in the language of man."""
    lines = [
        f'.TH DENSOR 1 "" "densor {__version__}" "User Commands"',
        ".SH NAME",
        "densor \\- lossless compression of neural\\-network weights and data",
        ".SH SYNOPSIS",
        ".B densor",
        "[OPTIONS] [FILE...]",
        ".br",
        ".B densor",
        "COMMAND ...",
    ]
    lines += [".SH DESCRIPTION", ".nf", *map(_roff, HELP.splitlines()), ".fi", ".SH COMMANDS"]
    for name, parser in commands():
        if name:
            lines += [f".SS {_roff(f'densor {name}')}", _roff(_prose(parser))]
            rows = [*_positionals(parser), *((_shown(o), o.help) for o in options(parser))]
            lines += [line for row in rows for line in _tagged(*row)]
    return "\n".join([*lines, ".SH EXIT STATUS", _roff(_EXITS)]) + "\n"


def _tagged(name: str, about: str) -> list[str]:
    return [".TP", f".B {_roff(name)}", _roff(about)]


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def main(folder: str) -> None:
    """Writes both into a folder."""
    (Path(folder) / "cli.md").write_text(markdown(), encoding="utf-8")
    (Path(folder) / "densor.1").write_text(manual_page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
