"""Threads for chunks: what an interrupt, or a system without threads to spare, does to them."""

import subprocess
import sys
import threading

import pytest

from densor.runtime.workers import Workers

_INTERRUPTED = """
import threading
import time
from densor.runtime.workers import Workers

start = threading.Thread.start

def interrupted(self):
    start(self)
    raise KeyboardInterrupt

workers = Workers(3)
threading.Thread.start = interrupted
try:
    workers.submit(int)
except KeyboardInterrupt:
    print("interrupted")
threading.Thread.start = start
tasks = [workers.submit(time.sleep, 0.1) for _ in range(6)]
assert [task.result() for task in tasks] == [None] * 6
"""


def test_interrupt_while_a_thread_starts() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"interrupted\n", b"")


def test_no_threads_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    tasks = [Workers(53).submit(divmod, number, 7) for number in range(100)]
    assert [task.result() for task in tasks] == [divmod(number, 7) for number in range(100)]


def test_what_was_submitted_is_done_at_the_end() -> None:
    code = (
        "import os, time; from densor.runtime.workers import Workers\n"
        "workers = Workers(2)\n"
        "for k in range(5): workers.submit(lambda k=k: (time.sleep(.05), os.write(1, b'%d ' % k)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert sorted(done.stdout.split()) == [b"0", b"1", b"2", b"3", b"4"]


def test_no_more_threads_than_asked_for() -> None:
    gate = threading.Event()
    before = threading.active_count()
    tasks = [Workers(17).submit(gate.wait) for _ in range(40)]
    assert threading.active_count() <= before + 17
    gate.set()
    assert all(task.result() for task in tasks)
