"""Threads for chunks. All heavy work releases the GIL, so threads use all cores."""

import atexit
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from queue import SimpleQueue
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from densor.errors import ArgumentError
from densor.runtime.arguments import need_whole

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", covariant=True)


def thread_count(threads: int) -> int:
    """The number of threads to use; 0 means one per processor that this process may use."""
    need_whole(threads=threads)
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


class _Pool:
    """Threads that do what is submitted; each submission starts one while there may be more.

    Not a `ThreadPoolExecutor`: an interrupt while that starts a thread leaves it one that it does
    not know of, for which the interpreter then waits forever as it ends.
    """

    def __init__(self, threads: int) -> None:
        self._numbers = iter(range(threads))
        self._threads: list[threading.Thread] = []
        self._given: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Has a thread do `work`, if there is one before whoever waits for it does it."""
        future: Future[T] = Future()
        self._given.put((future, work))
        number = next(self._numbers, None)
        if number is not None:
            self._start(number)
        return future

    def _start(self, number: int) -> None:
        thread = threading.Thread(target=self._run, name=f"densor_{number}", daemon=True)
        with contextlib.suppress(RuntimeError):  # the system gives no more
            thread.start()
            self._threads.append(thread)

    def _run(self) -> None:
        while True:
            given = self._given.get()
            if given is None:
                self._given.put(None)  # for the next one, also where it is not among `_threads`
                return
            _do(*given)
            del given  # with all that it holds, before the next wait

    def close(self) -> None:
        """Ends the threads, once they have done what was submitted."""
        self._given.put(None)
        for thread in self._threads:
            thread.join()


def _do(future: "Future[Any]", work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
        del future  # which holds the error, and that this frame
    else:
        future.set_result(result)


class _Pools:
    """Pools by number of threads; kept, since their threads' buffers are expensive to allocate."""

    def __init__(self) -> None:
        self._pools: dict[int, _Pool] = {}

    def get(self, threads: int) -> _Pool:
        return self._pools.get(threads) or self._pools.setdefault(threads, _Pool(threads))

    def close(self) -> None:
        """Ends all threads; what is submitted later gets new ones, where there still are any."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.close()


_pools = _Pools()
atexit.register(_pools.close)
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
