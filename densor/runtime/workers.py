"""Threads for chunks. All heavy work releases the GIL, so threads use all cores."""

import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from densor.errors import ArgumentError

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", covariant=True)


def thread_count(threads: int) -> int:
    """The number of threads to use; 0 means one per processor that this process may use."""
    if threads < 0:
        raise ArgumentError(f"threads must be 0 or more, not {threads}")
    if threads:
        return threads
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Task(Protocol[R]):
    """Work that was submitted, such as a `concurrent.futures.Future`."""

    def result(self) -> R:
        """Waits for the result, or raises what the work raised."""

    def cancel(self) -> bool:
        """Stops the work if it has not begun."""

    def begin(self) -> None:
        """Does the work if no thread has begun it; what it raises is for `result`.

        An interrupt is raised here too.
        """

    def done(self) -> bool:
        """Whether it has come to its end."""


class Done(Generic[T]):
    """The result of work that was done in the caller's thread, as a `Task`."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def result(self) -> T:
        return self._value

    def cancel(self) -> bool:
        return False

    def begin(self) -> None:
        pass

    def done(self) -> bool:
        return True


def settle(tasks: Iterable[Task[Any]]) -> None:
    """Cancels tasks, or waits for their end where they have begun; their errors are dropped."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    for task in tasks:
        try:
            task.result()
        except (Exception, CancelledError):
            pass
        except BaseException:  # the task's, which others are waited for after, or of this wait
            if not task.done():
                raise


class _Submitted(Generic[T]):
    """Work for the threads of a pool; a caller that waits for it does it itself if none has begun.

    All threads of a pool may be waiting for the one that waits here, such as for a lock that it
    holds, where a file object that an archive is read from reads from another archive.
    """

    def __init__(self, future: "Future[T]", work: Callable[[], T]) -> None:
        self._future = future
        self._work: Callable[[], T] | None = work

    def begin(self) -> None:
        work, self._work = self._work, None
        if work is not None and self._future.cancel():
            self._future = Future()
            try:
                self._future.set_result(work())
            except BaseException as error:
                self._future.set_exception(error)
                if not isinstance(error, Exception):
                    raise

    def done(self) -> bool:
        return self._future.done()

    def result(self) -> T:
        self.begin()
        return self._future.result()

    def cancel(self) -> bool:
        self._work = None
        return self._future.cancel()


class _Pools:
    """Pools by number of threads; kept, since their threads' buffers are expensive to allocate."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[int, ThreadPoolExecutor] = {}

    def get(self, threads: int) -> ThreadPoolExecutor:
        with self._lock:
            if threads not in self._pools:
                self._pools[threads] = ThreadPoolExecutor(threads, "densor")
            return self._pools[threads]


_pools = _Pools()
if hasattr(os, "register_at_fork"):  # threads do not live on in the child
    os.register_at_fork(after_in_child=_pools.__init__)  # type: ignore[misc]


class Workers:
    """A pool of `threads` threads; with one, work is done at once in the caller's.

    Safe to use from several threads, also in a child process after a fork.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = thread_count(threads)
        self._tasks: set[Future[Any]] = set()  # not yet done

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Task[T]:
        """Starts `work`, or does it at once and raises what it raises."""
        if self.threads == 1:
            return Done(work(*args, **kwargs))
        bound = functools.partial(work, *args, **kwargs)
        future = _pools.get(self.threads).submit(bound)  # another pool after a fork
        self._tasks.add(future)
        future.add_done_callback(self._tasks.discard)
        return _Submitted(future, bound)

    def close(self) -> None:
        """Cancels what was submitted here and has not begun."""
        for task in list(self._tasks):
            task.cancel()
