"""The frame of a command: its one subject, the progress bar, the closing line.

A command's module has `parser()` and `run(args)`; `run` hands a function to `subject`, which
reports what becomes of it. What the function returns is said at the end.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densor.cli import console
from densor.formats.io.urls import label

if TYPE_CHECKING:
    from densor.formats.io.outputs import Sizes
    from densor.options import Progress

Work = Callable[[argparse.Namespace], str | None]


def subject(args: argparse.Namespace, names: Sequence[str], work: Work) -> int:
    """Does the work of a command; returns the exit code. `names`: what errors may begin with."""

    def once(args: argparse.Namespace) -> None:
        said = work(args)
        if said and not getattr(args, "quiet", False):
            for line in said.splitlines():
                console.say(line)

    return console.each([args], lambda _: names, once)


def archive(args: argparse.Namespace, path: str, work: Work, dash: str = "-") -> int:
    """Likewise for a command about one archive; `dash` is what - stands for."""
    return subject(args, [dash if path == console.DASH else label(path), str(Path(path))], work)


def moving(
    args: argparse.Namespace, name: str, total: Callable[[], int | None]
) -> "AbstractContextManager[Progress | None]":
    """A progress bar, and what moves it on; None where none is seen."""
    return console.progress(name, total, args.quiet)


def packed(sizes: "Sizes", *more: str) -> str:
    """What packing has come to: 66.33% (4.5 MB => 3.0 MB)."""
    change = f"{console.size(sizes.original)} => {console.size(sizes.stored)}"
    return f"{console.percent(sizes.stored, sizes.original)} ({', '.join((change, *more))})"


def unpacked(sizes: "Sizes") -> str:
    """What unpacking has come to: 3.0 MB => 4.5 MB."""
    return f"{console.size(sizes.stored)} => {console.size(sizes.original)}"


def as_json(value: Any) -> None:
    """Writes JSON to stdout."""
    import json

    console.put(json.dumps(value, indent=1))
