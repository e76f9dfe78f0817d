"""Entry point. Help and version come at once, everything else from `densor.cli.dispatch`."""

import os
import sys


def main(argv: list[str]) -> int:
    """Runs one command line, without the program's name; returns the exit code."""
    text = _at_once(argv)
    if text is None:
        from densor.cli.dispatch import dispatch

        return dispatch(argv)
    try:
        print(text, flush=True)
    except OSError as error:
        print(f"densor: stdout: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _at_once(argv: list[str]) -> str | None:
    """What can be answered without a parser, which takes longer to load than Python itself."""
    if argv in (["--help"], ["-h"]):
        from densor.cli.usage import HELP

        return HELP
    if argv in (["--version"], ["-V"]):
        from densor.version import __version__

        return f"densor {__version__}"
    return None


def run() -> None:
    """The program `densor`."""
    try:
        if _at_once(sys.argv[1:]) is None:
            from densor.cli.dispatch import prepare_process

            prepare_process()
        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # so early, or so late, that nobody else could catch it
        print("densor: interrupted", file=sys.stderr)
        code = 130
    _drop_unwritten()
    sys.exit(code)


def _drop_unwritten() -> None:
    """After a failed write, keeps the interpreter from failing once more as it ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
