"""Locks that do not outlive a fork: a child process finds them open, whichever thread held them.

Threads do not live on in the child of `os.fork`, such as the worker of a DataLoader; a lock that
one of them held at that moment would never be opened again. What such a lock guards must be sound
after each single step of its holder.
"""

import os
import threading
import weakref


class Lock:
    """A `threading.Lock` for `with` statements."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _locks.add(self)

    def reopen(self) -> None:
        """Makes it a lock that nobody holds."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_locks: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def _reopen_all() -> None:
    for lock in list(_locks):
        lock.reopen()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reopen_all)
