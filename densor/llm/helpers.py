"""Threads that help with the steps of a network, each too short to wake a thread up for."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from densor.entropy.team_kernels import SECOND, STATE_SIZE

Run = Callable[[int, int, int], object]  # thread, threads, address of the team's state

_FIRST_TRIAL, _LAST_TRIAL = 8, 128  # runs after which the slower way is tried again
_NEW = 0.3  # weight of the latest time in a mean


class _Pace:
    """Whether runs of one size are faster alone or by all: on a busy machine, steps wait for
    helpers that were taken off their processor."""

    def __init__(self) -> None:
        self._means = [0.0, 0.0]  # seconds, alone and by all
        self._shared = True
        self._left = self._interval = _FIRST_TRIAL

    def choose(self) -> bool:
        """Whether helpers take part in the next run."""
        if not all(self._means):
            return not self._means[True]
        self._left -= 1
        return self._shared if self._left else not self._shared

    def learn(self, shared: bool, seconds: float) -> None:
        """Takes in how long a run took."""
        mean, other = self._means[shared], self._means[not shared]
        self._means[shared] = mean + _NEW * (seconds - mean) if mean else seconds
        faster = self._means[True] < self._means[False]
        if self._left <= 0 or faster != self._shared:
            doubtful = faster != self._shared or seconds < other
            self._interval = _FIRST_TRIAL if doubtful else min(2 * self._interval, _LAST_TRIAL)
            self._left, self._shared = self._interval, faster


class Team:
    """Up to `threads` threads that do the steps of one computation at a time.

    For one thread, which leads, and does itself what no other has taken. `limit`: threads that may
    take part now; whoever shares them out sets it.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = self.limit = threads
        memory = np.zeros(STATE_SIZE + 8, np.int64)
        self._state = memory[-memory.ctypes.data % 64 // 8 :]  # on a line of its own
        self._pool: ThreadPoolExecutor | None = None
        self._paces: dict[Any, _Pace] = {}

    def run(self, step: Run, size: Any) -> None:
        """Calls `step` in each thread; returns when all calls have.

        `size`: what runs that take about as long have in common.
        """
        if self.limit == 1:
            step(0, 1, 0)
            return
        pace = self._paces.setdefault(size, _Pace())
        shared = pace.choose()
        begin = time.perf_counter()
        if shared:
            self._together(step, self.limit)
        else:
            step(0, 1, 0)
        pace.learn(shared, time.perf_counter() - begin)

    def _together(self, step: Run, threads: int) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads - 1, "densor-llm")
        self._state[SECOND] = 0
        helpers: list[Future[Any]] = []
        try:
            for thread in range(1, threads):
                helpers.append(self._pool.submit(self._do, step, thread, threads))
            self._do(step, 0, threads)
        finally:
            self._state[SECOND] = 1
            for helper in helpers:
                if not helper.cancel():
                    helper.result()

    def _do(self, step: Run, thread: int, threads: int) -> None:
        step(thread, threads, self._state.ctypes.data)  # which this call keeps
