"""One process compiles a kernel while others that need it too wait for what it keeps on disk.

Several that begin with nothing on disk, such as the workers of a DataLoader, would all compile
everything, and take the processors from each other.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

_PATIENCE = 60.0  # seconds; whoever holds the lock for longer may have been stopped
_PAUSE = 0.02


@contextlib.contextmanager
def compile_lock(places: Iterable[Path]) -> Iterator[None]:
    """Waits for other processes in this block with the same file; for a minute at most.

    `places`: where that file may be, of which the first that can be written is made and locked, and
    removed at the end. Nothing is locked, and nobody waited for, where there is none, or the system
    locks no files. The end of a process, however it comes, opens its lock.
    """
    number, path = _opened(places)
    if number is None:
        yield
        return
    try:
        _wait(number)
        yield
    finally:
        with contextlib.suppress(OSError):  # others may have removed it, or the folder
            path.unlink()
        with contextlib.suppress(OSError):  # a child of this process may still have it open
            fcntl.flock(number, fcntl.LOCK_UN)
        os.close(number)


def _opened(places: Iterable[Path]) -> tuple[int | None, Path]:
    for path in places if fcntl is not None else ():
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), path
    return None, Path()


def _wait(number: int) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                return
            time.sleep(_PAUSE)
        except OSError:  # a file system that has no locks
            return
