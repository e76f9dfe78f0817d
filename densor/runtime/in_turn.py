"""Work that has to be done in order, by whichever thread has what it takes."""

import threading
from collections.abc import Callable


class InTurn:
    """Does the work of consecutive stretches, from 0 on, one after the other.

    Any thread may add a stretch at any time; the one that adds what comes next does it, and what
    others have added behind it meanwhile. So a hash in order, or writes that a file system does
    not do at the same time, keep one thread busy at most, and none waiting. What one of them raises
    is raised by `wait`, and nothing is done after it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ready: dict[int, tuple[int, Callable[[], object]]] = {}
        self._at = 0  # where what was done ends
        self._busy = False
        self._error: BaseException | None = None
        self._stopped = False

    def add(self, begin: int, end: int, work: Callable[[], object]) -> None:
        """Adds the stretch from `begin` to `end`, which is not empty."""
        with self._changed:
            self._ready[begin] = end, work
            if self._busy or self._at not in self._ready:
                return
            self._busy = True
        self._go_on()

    def _go_on(self) -> None:
        while True:
            with self._changed:
                found = None if self._stopped else self._ready.pop(self._at, None)
                if found is None:
                    self._busy = False
                    self._changed.notify_all()
                    return
            end, work = found
            error: BaseException | None = None
            try:
                work()
            except BaseException as raised:  # an interrupt, too, is for the thread that waits
                error = raised
            with self._changed:
                self._at = end
                if error is not None:
                    self._error, self._stopped = error, True
                self._changed.notify_all()

    def is_done(self, end: int) -> bool:
        """Whether all up to `end` is done."""
        return self._at >= end

    def wait(self, end: int) -> None:
        """Waits until all up to `end` is done, or raises what was raised; it has been added."""
        if self._at >= end and self._error is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._at >= end or self._stopped)
            if self._error is not None:
                raise self._error

    def stop(self) -> None:
        """Drops what was not begun, and waits for the end of what was."""
        with self._changed:
            self._stopped = True
            self._ready.clear()
            self._changed.wait_for(lambda: not self._busy)
