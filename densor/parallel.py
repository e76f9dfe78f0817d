"""Threads for chunks. All heavy work releases the GIL, so threads use all cores."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Generic, ParamSpec, Protocol, Self, TypeVar

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
    """Work that was started."""

    def result(self) -> R:
        """Waits for the result, or raises what the work raised."""
        ...

    def cancel(self) -> bool:
        """Stops the work if it has not begun."""
        ...


class Done(Generic[T]):
    """Work that was done at once."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def result(self) -> T:
        return self._value

    def cancel(self) -> bool:
        return False


class Workers:
    """A pool of threads; with one thread, work is done at once in the caller's."""

    def __init__(self, threads: int = 1) -> None:
        self.threads = thread_count(threads)
        self._pool = ThreadPoolExecutor(self.threads, "densor") if self.threads > 1 else None

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Task[T]:
        """Starts `work`, or does it at once and raises what it raises."""
        if self._pool is not None:
            return self._pool.submit(work, *args, **kwargs)
        return Done(work(*args, **kwargs))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
