"""Packed weights decoded before whoever loads a model asks for them.

Nothing here needs torch, so that decoding can begin before it is imported.
"""

import contextlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterable
from typing import Any

from densor.files.tensor_bytes import read_bytes, threads_of
from densor.formats.io.sources import Bytes
from densor.formats.packed.page_cache import Fetching
from densor.formats.packed.reader import PackedFile
from densor.runtime.workers import thread_count

_WINDOW = 1 << 30  # bytes that are decoded and not taken yet, at most
_Key = tuple[str, str]


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sorts names as transformers asks for them: numbers in them by value."""
    return [
        (0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part
    ]


class Ahead:
    """Decodes the blobs of files in threads of its own, one for each processor but those `spared`.

    Each decodes whole tensors, which keeps all of them busy, but for large ones, in which the pool
    takes part. Heads come last. Up to 1 GiB of tensors are being decoded or wait to be taken, or
    one for each thread. Safe to use from several threads.
    """

    def __init__(
        self, files: Iterable[PackedFile], base_of: Callable[[Any], Any], spared: int = 0
    ) -> None:
        self._base_of = base_of
        opened = list(files)
        for file in opened:
            file.fetch_heads()  # as long as nothing else is read
        self._order = [(file, name) for file in opened for name in file if file.is_blob(name)]
        base = _base_prefix(name for _, name in self._order)
        self._order.sort(key=lambda item: (not item[1].startswith(base), natural(item[1])))
        self._next = 0  # of the order
        self._changed = threading.Condition()
        self._left = {_key(file, name) for file, name in self._order}
        self._current: dict[_Key, int] = {}  # bytes of what is being decoded
        self._done: dict[_Key, Bytes] = {}
        self._bytes = 0  # of both
        self._threads = [
            threading.Thread(target=self._run, name="densor-ahead", daemon=True)
            for _ in range(max(1, thread_count(0) - spared))
        ]
        self._total = sum(file.info(name).size for file, name in self._order)
        stored = [file.stored(name).size for file, name in self._order]
        self._fetching = Fetching(stored, self._fetch)
        for thread in self._threads:
            thread.start()

    def _fetch(self, number: int) -> None:
        file, name = self._order[number]
        if _key(file, name) in self._left:  # nobody decodes it yet, and somebody may want it
            file.fetch(name)

    def _run(self) -> None:
        while (claimed := self._claim()) is not None:
            file, name = claimed
            threads = threads_of(file.info(name).size, 0, self._total)
            found = None  # whoever wants it meets the fault, unless it is mended by then
            with contextlib.suppress(Exception):
                found = read_bytes(file, name, threads, self._base_of)
            key = _key(file, name)
            with self._changed:
                size = self._current.pop(key, None)
                if size is not None:  # somebody may still want it
                    self._bytes -= size
                    if found is not None:
                        self._done[key] = found
                        self._bytes += found.nbytes
                self._changed.notify_all()

    def _claim(self) -> tuple[PackedFile, str] | None:
        """What is to be decoded next, as soon as there is room; None after the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._bytes < _WINDOW)
            while self._next < len(self._order):
                file, name = self._order[self._next]
                self._fetching.reached(self._next)
                self._next += 1
                key = _key(file, name)
                if key in self._left:  # nobody could not wait, and somebody may want it
                    self._left.discard(key)
                    self._current[key] = file.info(name).size
                    self._bytes += self._current[key]
                    return file, name
        return None

    def take(self, file: PackedFile, name: str) -> Bytes | None:
        """The bytes of a tensor; None where the caller is to decode it."""
        key = _key(file, name)
        with self._changed:
            self._changed.wait_for(lambda: key not in self._current)
            self._left.discard(key)
            found = self._done.pop(key, None)
            self._bytes -= _size(found)
            self._changed.notify_all()
        return found

    def forget(self, names: Container[str]) -> None:
        """Lets tensors go, or does not decode them: nobody is likely to take them."""
        with self._changed:
            for file, name in self._order:
                if name in names:
                    key = _key(file, name)
                    self._left.discard(key)
                    self._bytes -= _size(self._done.pop(key, None)) + self._current.pop(key, 0)
            self._changed.notify_all()

    def close(self) -> None:
        """Stops, and lets everything go that was not taken."""
        with self._changed:
            self._left.clear()
            self._current.clear()  # it is dropped when it is done
            self._done.clear()
            self._bytes = 0
            self._changed.notify_all()
        self._fetching.close()
        for thread in self._threads:
            thread.join()


def _base_prefix(names: Iterable[str]) -> str:
    """What names of most numbered layers begin with, up to the first dot: heads, which a model may
    be loaded without, begin with something else."""
    heads = (name.partition(".") for name in names if re.search(r"\.\d+\.", name))
    common = Counter(first + dot for first, dot, _ in heads).most_common(1)
    return common[0][0] if common else ""


def _key(file: PackedFile, name: str) -> _Key:
    return file.place, name


def _size(found: Bytes | None) -> int:
    return 0 if found is None else found.nbytes
