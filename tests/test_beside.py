"""Work beside its owner's: order, failures, interrupts, forks, the end of the interpreter."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import pytest

from densor.errors import ArgumentError
from densor.runtime.beside import Beside
from tests.support.interrupts import interrupted


def test_one_after_the_other() -> None:
    found: list[Any] = []
    beside = Beside("test")
    for number in range(50):
        beside.submit(found.append, number)
    beside.wait()
    assert found == list(range(50)) and not beside.busy
    beside.submit(divmod, 1, 0)
    beside.submit(found.append, 50)
    beside.submit(int, "x")
    with pytest.raises(ZeroDivisionError):
        beside.wait()
    with pytest.raises(ValueError, match="invalid literal"):
        beside.wait()
    beside.wait()
    assert found[-1] == 50
    beside.close()
    with pytest.raises(ArgumentError, match="closed"):
        beside.submit(int)
    beside.close()


def test_failures_are_raised_without_waiting() -> None:
    gate = threading.Event()
    beside = Beside("test")
    beside.submit(gate.wait)
    beside.submit(divmod, 1, 0)
    beside.raise_failure()
    assert beside.busy
    gate.set()
    while beside.busy:
        time.sleep(0.001)
    with pytest.raises(ZeroDivisionError):
        beside.raise_failure()
    beside.close()


def test_an_interrupt_forgets_nothing() -> None:
    gate = threading.Event()
    beside = Beside("test")
    beside.submit(gate.wait, 60)
    beside.submit(divmod, 1, 0)
    with interrupted():
        beside.wait()
    assert beside.busy
    gate.set()
    with pytest.raises(ZeroDivisionError):
        beside.close()


def test_an_interrupt_while_the_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def starts(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    def does_not(_: threading.Thread) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    for broken in (starts, does_not):
        found: list[int] = []
        beside = Beside("test")
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", broken)
            with pytest.raises(KeyboardInterrupt):
                beside.submit(found.append, 0)
        beside.submit(found.append, 1)
        beside.wait()
        assert found == [0, 1]
        beside.close()
    assert threading.active_count() == before


def test_no_thread_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    found: list[int] = []
    beside = Beside("test")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        beside.submit(found.append, 0)
        beside.wait()
    beside.submit(found.append, 1)
    beside.close()
    assert found == [0, 1]


def test_what_is_left_of_an_owner_that_is_gone() -> None:
    found: list[int] = []
    before = threading.active_count()
    beside = Beside("test")
    beside.submit(found.append, 0)
    gone = weakref.ref(beside)
    del beside
    gc.collect()
    assert gone() is None
    end = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.001)
    assert found == [0] and threading.active_count() == before


_AT_THE_END = """
import os, time
from densor.runtime.beside import Beside
beside = Beside("test")
for k in range(3):
    beside.submit(lambda k=k: (time.sleep(.05), os.write(1, b"%d " % k)))
beside.submit(divmod, 1, 0)
"""


def test_what_was_submitted_is_done_at_the_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _AT_THE_END], capture_output=True, timeout=60, check=True
    )
    assert done.stdout == b"0 1 2 "
    assert b"test, for which nobody waited: " in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_has_a_thread_of_its_own() -> None:
    gate = threading.Event()
    found: list[int] = []
    beside = Beside("test")
    beside.submit(gate.wait, 60)
    child = os.fork()
    if not child:
        beside.wait()  # for nothing: the parent does it
        beside.submit(found.append, 1)
        beside.wait()
        os._exit(0 if found == [1] else 1)
    end = time.monotonic() + 30
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, 9)
        time.sleep(0.001)
    assert ended[1] == 0
    gate.set()
    beside.close()
    assert found == []
