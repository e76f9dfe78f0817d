"""Packed weights decoded before transformers asks for them, while it makes the model."""

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

import torch

from densor.formats.packed.reader import PackedFile
from densor.torch.blob import read_tensor

_WINDOW = 1 << 30  # bytes that are decoded and not taken yet, at most
_Key = tuple[str, str]


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sorts names as transformers asks for them: numbers in them by value."""
    return [
        (0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part
    ]


class Ahead:
    """Decodes the blobs of files in a thread of its own, which has those of the pool to help it.

    Heads come last. Up to 1 GiB of tensors wait to be taken, and at least one. Safe to use from
    several threads.
    """

    def __init__(self, files: Iterable[PackedFile], base_of: Callable[[Any], Any]) -> None:
        self._base_of = base_of
        self._order = [(file, name) for file in files for name in file if file.is_blob(name)]
        base = _base_prefix(name for _, name in self._order)
        self._order.sort(key=lambda item: (not item[1].startswith(base), natural(item[1])))
        self._changed = threading.Condition()
        self._left = {_key(file, name) for file, name in self._order}
        self._current: _Key | None = None
        self._done: dict[_Key, torch.Tensor | BaseException] = {}
        self._bytes = 0
        self._thread = threading.Thread(target=self._run, name="densor-ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for file, name in self._claimed():
            try:
                found: torch.Tensor | BaseException = read_tensor(file, name, 0, self._base_of)
            except BaseException as error:
                found = error
            with self._changed:
                if self._current is not None:
                    self._done[self._current] = found
                    self._bytes += _size(found)
                self._current = None
                self._changed.notify_all()

    def _claimed(self) -> Iterator[tuple[PackedFile, str]]:
        """What is to be decoded next, as soon as there is room."""
        for file, name in self._order:
            key = _key(file, name)
            with self._changed:
                self._changed.wait_for(lambda: self._bytes < _WINDOW)
                if key not in self._left:  # somebody could not wait, or nobody wants it
                    continue
                self._left.discard(key)
                self._current = key
            yield file, name

    def take(self, file: PackedFile, name: str) -> torch.Tensor | None:
        """A decoded tensor, or what went wrong, raised; None where the caller is to decode it."""
        key = _key(file, name)
        with self._changed:
            self._changed.wait_for(lambda: self._current != key)
            self._left.discard(key)
            found = self._done.pop(key, None)
            self._bytes -= _size(found)
            self._changed.notify_all()
        if isinstance(found, BaseException):
            raise found
        return found

    def forget(self, names: Container[str]) -> None:
        """Lets tensors go, or does not decode them: nobody is likely to take them."""
        with self._changed:
            for file, name in self._order:
                if name in names:
                    key = _key(file, name)
                    self._left.discard(key)
                    self._bytes -= _size(self._done.pop(key, None))
                    if self._current == key:  # it is dropped when it is done
                        self._current = None
            self._changed.notify_all()

    def close(self) -> None:
        """Stops, and lets everything go that was not taken."""
        with self._changed:
            self._left.clear()
            self._done.clear()
            self._bytes = 0
            self._changed.notify_all()
        self._thread.join()
        self._done.clear()
        self._bytes = 0


def _base_prefix(names: Iterable[str]) -> str:
    """What names of most numbered layers begin with, up to the first dot: heads, which a model may
    be loaded without, begin with something else."""
    heads = (name.partition(".") for name in names if re.search(r"\.\d+\.", name))
    common = Counter(first + dot for first, dot, _ in heads).most_common(1)
    return common[0][0] if common else ""


def _key(file: PackedFile, name: str) -> _Key:
    return os.path.abspath(file.path), name


def _size(found: torch.Tensor | BaseException | None) -> int:
    return found.nbytes if isinstance(found, torch.Tensor) else 0
