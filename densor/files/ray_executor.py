"""Ray as an executor of `concurrent.futures`. Imported where it is asked for."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from densor.errors import UnsupportedError

P = ParamSpec("P")
T = TypeVar("T")


class RayExecutor(Executor):
    """Runs functions as Ray tasks, on the cluster of `RAY_ADDRESS` or one of this machine.

    `cpus`: processors that a task takes. Functions and arguments must be importable there, paths
    must lead to the same files. A task whose worker dies fails; it is not tried again here.
    """

    def __init__(self, cpus: int = 1) -> None:
        try:
            import ray
        except ImportError:
            raise UnsupportedError('--jobs ray needs Ray: pip install "densor[ray]"') from None
        self._ray: Any = ray
        self._started = not ray.is_initialized()
        if self._started:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        self._decorate = ray.remote(num_cpus=cpus, max_retries=0)
        self._tasks: dict[Callable[..., Any], Any] = {}
        self._running: dict[Future[Any], Any] = {}

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Starts a task."""
        if fn not in self._tasks:
            self._tasks[fn] = self._decorate(fn)
        reference = self._tasks[fn].remote(*args, **kwargs)
        future: Future[T] = Future()
        self._running[future] = reference
        reference.future().add_done_callback(lambda ended: self._end(future, ended))
        return future

    def _end(self, future: Future[T], ended: Future[T]) -> None:
        self._running.pop(future, None)
        if not future.set_running_or_notify_cancel():
            return
        error = ended.exception()
        if error is None:
            future.set_result(ended.result())
        else:  # what the function raised, without the traceback of the worker in its text
            future.set_exception(getattr(error, "cause", None) or error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Waits for the tasks, or ends them; stops the cluster if it was started here."""
        references = list(self._running.values())
        if cancel_futures:
            for reference in references:
                self._ray.cancel(reference)
        if wait and references:
            self._ray.wait(references, num_returns=len(references))
        if self._started:
            self._ray.shutdown()
