"""Ctrl-C at a moment."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interrupted(seconds: float = 0.05) -> Iterator[None]:
    """Expects the block to be ended by the interrupt that this thread, the main one, gets."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("was not interrupted")
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
