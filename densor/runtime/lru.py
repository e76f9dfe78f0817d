"""A cache of what was used last."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from densor.runtime.locks import Lock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """The values that were used last, as many as weigh no more than `most` together.

    `least`: as many are kept whatever they weigh. Safe to use from several threads, also after a
    fork at any moment: then it may keep less than it could, never more.
    """

    def __init__(
        self, most: int, weight: Callable[[V], int] = lambda value: 1, least: int = 0
    ) -> None:
        self._most = most
        self._weight = weight
        self._least = least
        self._values: OrderedDict[K, V] = OrderedDict()
        self._total = 0
        self._lock = Lock()

    def __len__(self) -> int:
        """How many values are kept."""
        return len(self._values)

    def get(self, key: K) -> V | None:
        """The value of a key, None if it is not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Keeps a value, which nobody may change, in place of what the key had."""
        with self._lock:
            self._total += self._weight(value)
            self._drop(key)
            self._values[key] = value
            while self._total > self._most and len(self._values) > self._least:
                self._drop(next(iter(self._values)))

    def drop(self, key: K) -> None:
        """Forgets a key, if it is kept."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: K) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self._total -= self._weight(value)
