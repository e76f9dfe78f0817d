"""A thread for work that goes on beside its owner's, such as saving beside a training.

Not a `ThreadPoolExecutor`: an interrupt while that starts a thread leaves it one that it does not
know of, for which the interpreter then waits forever as it ends; and one that meets the owner while
it waits must not make it forget what is still at work with its memory.
"""

import functools
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import ParamSpec

from densor.errors import ArgumentError

log = logging.getLogger("densor")

P = ParamSpec("P")


class Beside:
    """Does what is submitted in a thread of its own, one after the other.

    What was submitted counts until `wait` has seen its end, whatever interrupts that. As the
    interpreter ends, what was submitted is done first. In the child of a fork nothing is pending:
    the parent does it.
    """

    def __init__(self, name: str) -> None:
        self._shared = _Shared(name)
        weakref.finalize(self, _Shared.end, self._shared).atexit = False

    def submit(self, work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Has the thread do `work`. ArgumentError after `close`."""
        shared = self._shared
        if shared.closed:
            raise ArgumentError(f"{shared.name} was closed")
        shared.tasks.append(_Task(functools.partial(work, *args, **kwargs)))
        shared.wake()  # or `wait` does it

    @property
    def busy(self) -> bool:
        """Whether anything has not come to its end."""
        return any(not task.done() for task in self._shared.tasks.copy())

    def wait(self) -> None:
        """Until all is done; raises what the first that failed raised, and the next time the next
        one. After an interrupt nothing is forgotten."""
        while self._shared.tasks:
            self._shared.wait_for(self._shared.tasks[0])
            self.raise_failure()

    def raise_failure(self) -> None:
        """Raises what work raised that is done, without waiting; once each."""
        tasks = self._shared.tasks
        while tasks and tasks[0].done():
            error = tasks[0].error()
            tasks.popleft()
            if error is not None:
                raise error

    def close(self) -> None:
        """Waits, and ends the thread; raises what failed."""
        try:
            self._shared.closed = True
            self.wait()
        finally:
            self._shared.finish()


class _Task:
    def __init__(self, work: Callable[[], object]) -> None:
        self._work: Callable[[], object] | None = work
        self._future: Future[None] = Future()

    def do(self) -> None:
        work, self._work = self._work, None  # and what it holds is free once it is done
        try:
            if work is not None:
                work()
        except BaseException as error:
            self._future.set_exception(error)
            if not isinstance(error, Exception) and _is_main():  # an interrupt of who waits here
                raise
        else:
            self._future.set_result(None)

    def done(self) -> bool:
        return self._future.done()

    def error(self) -> BaseException | None:
        """Waits for the end."""
        return self._future.exception()


class _Shared:
    """What the thread has of its owner, so that it does not keep that."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False
        self.renew()
        _all.add(self)

    def renew(self) -> None:
        """No thread, and nothing to do."""
        self.tasks: deque[_Task] = deque()  # whose end nobody has seen
        self._woken: SimpleQueue[bool] = SimpleQueue()  # False: to end
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None

    def wake(self) -> bool:
        """Has the thread look for work; False where the system gives none."""
        if self._thread is None or not self._thread.is_alive():
            self.end()  # for one that an interrupt has left as it was started
            self._woken = SimpleQueue()
            self._thread = threading.Thread(
                target=self._run, name=self.name, args=(self._woken,), daemon=True
            )
            try:
                self._thread.start()
            except RuntimeError:
                return False
        self._woken.put(True)
        return True

    def wait_for(self, task: _Task) -> None:
        """Until a task is done, by this thread where there is no other."""
        if not task.done() and not self.wake():
            self._work()
        task.error()

    def _run(self, woken: "SimpleQueue[bool]") -> None:
        while woken.get():
            self._work()

    def _work(self) -> None:
        with self._turn:  # where there are two threads
            while task := next((one for one in self.tasks.copy() if not one.done()), None):
                task.do()
                del task

    def end(self) -> None:
        """Has the thread end when all is done."""
        self._woken.put(False)

    def finish(self) -> None:
        """Ends the thread, and waits for that."""
        self.end()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()


_all: "weakref.WeakSet[_Shared]" = weakref.WeakSet()


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _finish_all() -> None:
    for shared in list(_all):
        shared.closed = True
        for task in shared.tasks.copy():
            shared.wait_for(task)
            if error := task.error():
                log.error("%s, for which nobody waited: %s", shared.name, error)
        shared.finish()


def _renew_all() -> None:
    for shared in list(_all):
        shared.renew()


# With the end of `concurrent.futures`, before it is too late for new threads
getattr(threading, "_register_atexit")(_finish_all)  # noqa: B009
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
