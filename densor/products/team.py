"""Threads that share loops of some 10 µs, which is less than a pool takes to wake one up.

Who has a loop to run leads: it takes parts of the loop and does them, one after the other, while
other threads that still wait for work take parts as well. Those wait by spinning for a short while
after the last loop, then asleep; nobody ever waits for one that has taken nothing.
"""

import os
import threading

import numpy as np
import numpy.typing as npt

from densor.entropy.team_kernels import STATE_SIZE
from densor.products import entry_kernels
from densor.runtime.workers import thread_count

_PATIENCE = 20_000  # pauses, some 100 to 700 µs
_PARTS = 4  # of a loop, for each thread


class _Helper:
    """A thread that serves a team; asleep while there is nothing to do."""

    def __init__(self, state: int, memory: npt.NDArray[np.int64]) -> None:
        self._state = state
        self._memory = memory  # that the state is in, which a team that is gone leaves behind
        self._wake = threading.Semaphore(0)
        self.awake = False
        threading.Thread(target=self._run, name="densor-team", daemon=True).start()

    def wake(self) -> None:
        """Lets it look for work."""
        self.awake = True
        self._wake.release()

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            entry_kernels.serve(self._state, _PATIENCE)
            self.awake = False


class Team:
    """Runs compiled functions of a job's address and the number of a part.

    One loop at a time is shared: others that begin meanwhile are done by their own threads alone.
    """

    def __init__(self) -> None:
        self._memory = np.zeros(STATE_SIZE + 8, np.int64)
        self._state = -(-self._memory.ctypes.data // 64) * 64
        self._busy = threading.Lock()
        self._helpers: list[_Helper] = []

    def run(self, function: int, job: int, parts: int, threads: int) -> None:
        """Calls `function(job, part)` for all parts, by up to `threads` threads."""
        if threads > 1 and parts > 1 and self._busy.acquire(blocking=False):
            try:
                while len(self._helpers) < threads - 1:
                    self._helpers.append(_Helper(self._state, self._memory))
                for helper in self._helpers[: threads - 1]:
                    if not helper.awake:
                        helper.wake()
                entry_kernels.lead(self._state, function, job, parts)
            finally:
                self._busy.release()
        else:
            entry_kernels.alone(function, job, parts)


TEAM = Team()
if hasattr(os, "register_at_fork"):  # threads do not live on in the child
    os.register_at_fork(after_in_child=TEAM.__init__)  # type: ignore[misc]


def parts_for(groups: int, work: int, threads: int) -> int:
    """Parts of a loop over groups; one where `work`, in bytes, is done before a thread wakes up."""
    if threads == 1 or work < 1 << 17:
        return 1
    return max(1, min(groups, _PARTS * threads))


def threads_of(threads: int) -> int:
    """The number of threads that 0, or a number, stands for."""
    return thread_count(threads)
