"""Work that has to be done in order, by whichever thread has what it takes."""

import threading
from collections.abc import Callable
from typing import Any


class InTurn:
    """Does the work of consecutive stretches, from 0 on, one after the other.

    Any thread may add a stretch at any time; the one that adds what comes next does it, and what
    others have added behind it meanwhile. So a hash in order, or writes that a file system does
    not do at the same time, keep one thread busy at most, and none waiting. What one of them raises
    is raised by `wait`, and nothing is done after it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # entered without a call of Python, as the condition is not
        self._changed = threading.Condition(self._lock)
        self._waiting = 0  # threads that are to be told
        self._ready: dict[int, tuple[int, Callable[..., object], tuple[Any, ...]]] = {}
        self._at = 0  # where what was done ends
        self._owner: int | None = None  # the thread that is at work
        self._error: BaseException | None = None
        self._stopped = False

    def add(self, begin: int, end: int, work: Callable[..., object], *arguments: Any) -> None:
        """Adds the stretch from `begin` to `end`; of an empty one nothing is done."""
        if begin == end:
            return
        with self._lock:
            if self._owner is not None or self._stopped or begin != self._at:
                self._ready[begin] = end, work, arguments
                return
            self._owner = threading.get_ident()
        found: tuple[int, Callable[..., object], tuple[Any, ...]] | None = (end, work, arguments)
        while found is not None:
            found = self._do(*found)

    def _do(
        self, end: int, work: Callable[..., object], arguments: tuple[Any, ...]
    ) -> tuple[int, Callable[..., object], tuple[Any, ...]] | None:
        """Does the work of the next stretch; returns that of the one behind it, if it is there."""
        try:
            work(*arguments)
        except BaseException as error:  # an interrupt, too, is for the thread that waits
            self._error, self._stopped = error, True
            end = self._at
        with self._lock:
            self._at = end
            found = None if self._stopped else self._ready.pop(end, None)
            if found is None:
                self._owner = None
            if self._waiting:
                self._changed.notify_all()
        return found

    def is_done(self, end: int) -> bool:
        """Whether all up to `end` is done."""
        return self._at >= end

    def wait(self, end: int) -> None:
        """Waits until all up to `end` is done, or raises what was raised; it has been added."""
        if self.is_done(end):
            return
        with self._lock:
            self._wait_for(lambda: self._at >= end or self._stopped)
            if self._at < end and self._error is not None:
                raise self._error

    def _wait_for(self, true: Callable[[], bool]) -> None:
        self._waiting += 1
        try:
            self._changed.wait_for(true)
        finally:
            self._waiting -= 1

    def stop(self) -> None:
        """Drops what was not begun, and waits for the end of what was.

        The thread that calls this may have been interrupted at work; that has come to its end.
        """
        with self._lock:
            self._stopped = True
            self._ready.clear()
            mine = threading.get_ident()
            self._wait_for(lambda: self._owner in (None, mine))
