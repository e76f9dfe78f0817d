"""Memory for the tables of adaptive models, of which each thread needs its own."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Memory:
    """Lets threads wait for each other, so that their tables fit into memory together."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._used = 0

    @contextmanager
    def borrowed(self, size: int) -> Iterator[None]:
        """Waits until there is room for `size` bytes, or no other thread has any."""
        with self._free:
            self._free.wait_for(lambda: not self._used or self._used + size <= _most_memory())
            self._used += size
        try:
            yield
        finally:
            with self._free:
                self._used -= size
                self._free.notify_all()


def _most_memory() -> int:
    """A quarter of what the machine has; 1 GiB where that is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    except (AttributeError, ValueError, OSError):
        return 1 << 30


MEMORY = Memory()
if hasattr(os, "register_at_fork"):  # threads that borrowed do not live on in the child
    os.register_at_fork(after_in_child=MEMORY.__init__)  # type: ignore[misc]
