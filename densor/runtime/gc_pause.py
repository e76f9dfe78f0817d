"""Garbage collection, paused while many small objects are made that all stay."""

import contextlib
import gc
import os
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Builds many small objects that all stay: looking for garbage takes half of the time."""
    if not gc.isenabled():
        yield
        return
    thread = threading.get_ident()
    _pausing.add(thread)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        _pausing.discard(thread)


_pausing: set[int] = set()  # threads that have turned collection off


def _resume() -> None:
    """In a forked child, where a thread that has turned collection off may not go on."""
    if _pausing:
        _pausing.clear()
        gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_resume)
