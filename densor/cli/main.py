"""Entry point. Help and version come at once, everything else from `densor.cli.dispatch`."""

import atexit
import gc
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
    except BrokenPipeError:
        return 1  # whoever read has gone away, such as `head`
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
    _prepare()
    _in_one_piece()


def _run() -> None:
    try:
        if _at_once(sys.argv[1:]) is None:
            from densor.cli.dispatch import prepare_process

            prepare_process()
        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # so early, or so late, that nobody else could catch it
        print("densor: interrupted", file=sys.stderr)
        code = 130
    _drop_unwritten()
    _end(code)


def _prepare() -> None:
    """Spares what a short run never needs: a team of threads for numpy's matrix products, which
    spin while there is nothing to do, and looking for garbage among what is being imported."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(50_000, 20, 20)


def _in_one_piece() -> None:
    """Runs the command line with room for the frames of all that it calls.

    The interpreter takes memory for frames in pieces, and gives one back as soon as it is empty: it
    asks the system for the same one again and again where calls go back and forth across its end,
    as they do while modules are imported. A frame that is larger than a piece gets a larger one,
    the rest of which is for what is called from there.
    """

    def large() -> None:
        _run()

    if hasattr(large.__code__, "replace") and sys.version_info >= (3, 11):
        large.__code__ = large.__code__.replace(co_stacksize=_FRAME)
    large()


_FRAME = 1 << 14  # objects; what is not used takes no memory


def _end(code: int) -> None:
    """Ends the process; where nothing waits for others, without taking all objects apart first,
    which takes longer than many a command."""
    gc.freeze()  # the interpreter would look through all objects several times as it ends
    threading = sys.modules.get("threading")
    main = threading and threading.main_thread()
    if threading and not all(one.daemon or one is main for one in threading.enumerate()):
        sys.exit(code)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):  # closed, or what was said before
        pass
    os._exit(code)


def _drop_unwritten() -> None:
    """After a failed write, keeps the interpreter from failing once more as it ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
