"""Words to the user: errors, closing lines, notices, the progress bar. All on stderr."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from densor.errors import DensorError, FileError, printable

STDIN = "stdin"
DASH = "-"
_UNITS = ("B", "kB", "MB", "GB", "TB")
T = TypeVar("T")


def escape(text: str) -> str:
    """The text with everything that could control a terminal made visible."""
    return printable(text)


def say(text: str) -> None:
    """One line on stderr."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(escape(text), file=sys.stderr, flush=True)


def put(text: str, flush: bool = False) -> None:
    """Text for stdout, at once if what follows takes long; FileError if there is none."""
    if sys.stdout is None:
        raise FileError("stdout is closed")
    print(text, flush=flush)


def fail(names: Sequence[str], error: BaseException) -> None:
    """The one line for an error: begins with one of the files `names`, else with the first.

    None where whoever read stdout has gone away, such as `head`: there is nothing to be told.
    """
    if _nobody_reads(error):
        return
    reason = _reason(error)
    if names and not any(reason.startswith(f"{name}: ") for name in names):
        reason = f"{names[0]}: {reason}"
    say(f"densor: {reason}")


def _nobody_reads(error: BaseException | None) -> bool:
    """Whether the error comes from a pipe without a reader, and stdout is one: others, such as
    connections and named pipes, break too."""
    while error is not None and not isinstance(error, BrokenPipeError):
        error = error.__cause__ or error.__context__
    if error is None or sys.stdout is None:
        return False
    import select

    if not hasattr(select, "poll"):  # not on Windows
        return False
    with contextlib.suppress(OSError, ValueError):  # of a stdout that is no file
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        text = error.strerror or str(error)
        return text if error.filename is None else f"{os.fsdecode(error.filename)}: {text}"
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, RecursionError):
        return "folders are nested too deeply"
    return str(error)


def size(count: float) -> str:
    """Bytes for people, in powers of 1000: 45.4 MB."""
    unit = 0
    while count >= 999.95 and unit + 1 < len(_UNITS):
        count, unit = count / 1000, unit + 1
    return f"{count:.1f} {_UNITS[unit]}" if unit else f"{count:.0f} B"


def speed(mb_s: float) -> str:
    """MB/s, with decimals where there would be one digit at most: 1143, 7.4, 0.06."""
    return f"{mb_s:.{0 if mb_s >= 9.95 else 1 if mb_s >= 0.995 else 2}f}"


def percent(stored: int, original: int) -> str:
    """What remains of the original size: 66.33%."""
    return f"{stored / original:.2%}" if original else "-"


def each(
    items: Iterable[T], names: Callable[[T], Sequence[str]], work: Callable[[T], object]
) -> int:
    """Does `work` for every item, whatever becomes of the others; returns the exit code.

    `names`: the files that an item is about, first the one to be named with an error.
    """
    code = 0
    for item in items:
        try:
            work(item)
        except (DensorError, OSError, MemoryError) as error:
            fail(names(item), error)
            code = 1
    return code


@contextlib.contextmanager
def notices(quiet: bool, verbose: bool = False) -> Iterator[None]:
    """Shows what the library logs, such as that kernels are being compiled.

    `verbose`: also what it finds in files.
    """
    if quiet or sys.stderr is None:
        yield
        return
    import logging

    logger = logging.getLogger("densor")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("densor: %(message)s"))
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def shows_progress(quiet: bool) -> bool:
    """Whether a progress bar would be seen."""
    return not quiet and sys.stderr is not None and sys.stderr.isatty()


@contextlib.contextmanager
def progress(
    label: str, total: Callable[[], int | None], quiet: bool
) -> Iterator[Callable[[int], object] | None]:
    """A bar that appears on long work, if stderr is a terminal; yields what moves it on.

    `total`: bytes expected; asked only where a bar may appear.
    """
    if not shows_progress(quiet):
        yield None
        return
    from tqdm import tqdm

    bar: Any = tqdm(
        desc=escape(label),
        total=total(),
        unit="B",
        unit_scale=True,
        delay=0.5,
        leave=False,
        dynamic_ncols=True,
        file=sys.stderr,
    )
    with bar:
        yield bar.update


@contextlib.contextmanager
def status(quiet: bool) -> Iterator[Callable[[str], object]]:
    """A line on a terminal that says what is being done, gone at the end."""
    if not shows_progress(quiet):
        yield lambda text: None
        return
    try:
        yield lambda text: print(f"\r\033[K{escape(text)} ...", end="", file=sys.stderr, flush=True)
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
