"""Finds the command, turns every fault into one line and an exit code.

Exit codes: 0 all is well, 1 an error, 2 wrong usage, 130 interrupted (Ctrl-C), 128 + number for
other signals that end a process.
"""

import _thread
import importlib
import signal
import sys
import time
from types import FrameType
from typing import Any

from densor.cli import console
from densor.cli.arguments import UsageError, parse
from densor.errors import DensorError

COMMANDS = (
    *("pack", "shards", "append", "list", "extract", "cat", "table", "diff", "test", "repair"),
    *("info", "report", "fit", "demo", "bench", "bits", "train", "hf-pack", "hf-unpack"),
    *("gpu-check", "hub", "quantize", "doctor", "warm", "completion"),
)


class _Signal(KeyboardInterrupt):
    """A signal that ends the process, after temporary files are removed."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def dispatch(argv: list[str]) -> int:
    """Runs one command line, without the program's name; returns the exit code."""
    try:
        code = _run(argv)
        if sys.stdout is not None and code == 0:  # else what could not be written was said
            sys.stdout.flush()
        return code
    except UsageError as error:
        console.say(f"densor: {error}; see {error.program} --help")
        return 2
    except KeyboardInterrupt as error:
        return _ended(error)
    except (DensorError, OSError, MemoryError, RecursionError) as error:
        console.fail([], error)
        return 1
    except Exception:
        if _ended_by is None:
            raise
        return _ended(_ended_by)  # of which something else, such as an import in C, has made that


def _ended(error: KeyboardInterrupt) -> int:
    """Says that a signal ended the process; returns the exit code."""
    _let_go()
    if isinstance(error, _Signal):
        console.say(f"densor: ended by {signal.Signals(error.number).name}")
        return 128 + error.number
    console.say("densor: interrupted")
    return 130


def _run(argv: list[str]) -> int:
    named = bool(argv) and argv[0] in COMMANDS
    module = argv[0].replace("-", "_") if named else "files"
    command: Any = importlib.import_module(f"densor.cli.commands.{module}")
    try:
        args = parse(command.parser(), argv[1:] if named else argv)
    except SystemExit as end:  # after --help and --version
        return int(end.code or 0)
    with console.notices(getattr(args, "quiet", False), getattr(args, "verbose", False)):
        code: int = command.run(args)
    return code


_ENDING = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
_TIDYING = 2.0  # seconds after a signal in which others are let pass
_ended_at = -_TIDYING
_ended_by: KeyboardInterrupt | None = None


def prepare_process() -> None:
    """Lets signals that end the process take its temporary files with it."""
    for number in _ENDING:
        before = (signal.SIG_DFL, signal.default_int_handler)  # no other, such as of nohup
        if signal.getsignal(number) in before:
            signal.signal(number, _end)
    sys.unraisablehook = _insist
    sys.excepthook = _insist_too
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _end(number: int, frame: FrameType | None) -> None:
    """Raises what ends the process, but not once more while that tidies up."""
    global _ended_at, _ended_by
    now = time.monotonic()
    if now < _ended_at + _TIDYING:
        return
    _ended_at = now
    _ended_by = KeyboardInterrupt() if number == signal.SIGINT else _Signal(number)
    raise _ended_by


def _insist(dropped: "sys.UnraisableHookArgs") -> None:
    """Ends the process a little later, where a signal came to what can raise nothing.

    Such as finalisers and callbacks from C, of which those of compilers are many.
    """
    if isinstance(dropped.exc_value, KeyboardInterrupt):
        _again(dropped.exc_value)
    else:
        sys.__unraisablehook__(dropped)


def _insist_too(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Likewise where C prints it, as some does while modules are imported."""
    if isinstance(error, KeyboardInterrupt):
        _again(error)
    else:
        sys.__excepthook__(kind, error, trace)


def _again(error: KeyboardInterrupt) -> None:
    global _ended_at
    _ended_at = -_TIDYING
    number = signal.Signals(getattr(error, "number", signal.SIGINT))
    _thread.start_new_thread(_signal_later, (number,))  # `threading` has locks, maybe held here


def _signal_later(number: signal.Signals) -> None:
    time.sleep(_LATER)
    _thread.interrupt_main(number)


_LATER = 0.02  # seconds


def _let_go() -> None:
    """Has further signals end the process at once: there is nothing left to tidy up."""
    for number in _ENDING:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)
