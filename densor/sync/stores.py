"""Where messages are kept: a folder, a place behind a URL, memory.

A store holds named strings of bytes. It may lose, damage, repeat or reorder what it is given;
messages are checked by those who read them.
"""

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from densor.errors import ArgumentError, FileError, LimitError
from densor.formats.io.outputs import errors_of, whole_file
from densor.formats.io.urls import join
from densor.runtime.locks import Lock

if TYPE_CHECKING:
    from densor.formats.io.remote import Remote

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_LEFT = re.compile(r"\.(full|change)-[0-9]+\.[0-9a-f]{16}\.tmp")


@runtime_checkable
class Store(Protocol):
    """What publishers and subscribers need of a store. Faults are raised as FileError."""

    def put(self, name: str, data: bytes) -> None:
        """Keeps `data` under a name, in place of what was there."""

    def get(self, name: str, limit: int) -> bytes | None:
        """What is kept under a name; None if nothing is. LimitError beyond `limit` bytes."""

    def names(self) -> list[str]:
        """All names, in any order."""

    def remove(self, name: str) -> None:
        """Forgets what is kept under a name, if anything is."""


def checked_name(name: str) -> str:
    """The name of a message, which is nothing but that; ArgumentError otherwise."""
    if not _NAME.fullmatch(name):
        raise ArgumentError(f"{name!r:.80} cannot be the name of a message")
    return name


class MemoryStore:
    """Messages in the memory of this process, for threads and for a `StoreServer`."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}
        self._lock = Lock()

    def put(self, name: str, data: bytes) -> None:
        """Keeps `data` under a name."""
        with self._lock:
            self._kept[checked_name(name)] = memoryview(data).tobytes()

    def get(self, name: str, limit: int) -> bytes | None:
        """What is kept under a name; None if nothing is."""
        with self._lock:
            data = self._kept.get(name)
        return None if data is None else _within(data, limit, name)

    def names(self) -> list[str]:
        """All names."""
        with self._lock:
            return list(self._kept)

    def remove(self, name: str) -> None:
        """Forgets what is kept under a name."""
        with self._lock:
            self._kept.pop(name, None)


class FolderStore:
    """Messages as files of a folder, which is made if it is not there.

    A file appears whole or not at all. `sync`: wait until it is on the disk. `tidy` removes what a
    publisher left half written when it was killed; only one may write to a folder at a time.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: bool = False) -> None:
        self._path = Path(path)
        self._sync = sync
        with errors_of(self._path):
            self._path.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, data: bytes) -> None:
        """Writes a file."""
        path = self._path / checked_name(name)
        with whole_file(path, overwrite=True, sync=self._sync) as file:
            file.write(data)

    def get(self, name: str, limit: int) -> bytes | None:
        """Reads a file; None if there is none."""
        path = self._path / checked_name(name)
        with errors_of(path):
            try:
                with open(path, "rb", opener=_without_waiting) as file:
                    found = os.fstat(file.fileno())
                    if not stat.S_ISREG(found.st_mode):
                        raise FileError(f"{path}: is no file")
                    if found.st_size > limit:
                        raise _too_large(name, limit)
                    return file.read(found.st_size)  # messages do not grow: they appear whole
            except FileNotFoundError:
                return None

    def names(self) -> list[str]:
        """The files whose names can be those of messages."""
        with errors_of(self._path):
            return [name for name in os.listdir(self._path) if _NAME.fullmatch(name)]

    def remove(self, name: str) -> None:
        """Removes a file."""
        path = self._path / checked_name(name)
        with errors_of(path), contextlib.suppress(FileNotFoundError):
            path.unlink()

    def tidy(self) -> None:
        """Removes files that were never finished."""
        with errors_of(self._path):
            for name in os.listdir(self._path):
                if _LEFT.fullmatch(name):
                    with contextlib.suppress(FileNotFoundError):
                        (self._path / name).unlink()


class UrlStore:
    """Messages as files below a URL of fsspec: an object store, a server, memory."""

    def __init__(self, url: str) -> None:
        from densor.formats.io.remote import Remote

        self._url = url
        self._place = Remote(url)

    def put(self, name: str, data: bytes) -> None:
        """Uploads a file; stores of objects show it only when it is whole."""
        place = self._at(name)
        with place.errors():
            parent = place.fs._parent(place.path)
            with contextlib.suppress(NotImplementedError):
                place.fs.makedirs(parent, exist_ok=True)
            place.fs.pipe_file(place.path, data)

    def get(self, name: str, limit: int) -> bytes | None:
        """Downloads a file; None if there is none."""
        place = self._at(name)
        with place.errors():
            try:
                size = place.fs.info(place.path).get("size")
                if size is not None and size > limit:
                    raise _too_large(name, limit)
                data = place.fs.cat_file(place.path)
            except FileNotFoundError:
                return None
        return _within(bytes(data), limit, name)

    def names(self) -> list[str]:
        """The files whose names can be those of messages."""
        with self._place.errors():
            self._place.fs.invalidate_cache(self._place.path)
            try:
                listed = self._place.fs.ls(self._place.path, detail=False)
            except FileNotFoundError:
                return []
        found = [str(path).rstrip("/").rpartition("/")[2] for path in listed]
        return [name for name in found if _NAME.fullmatch(name)]

    def remove(self, name: str) -> None:
        """Removes a file."""
        place = self._at(name)
        with place.errors(), contextlib.suppress(FileNotFoundError):
            place.fs.rm_file(place.path)

    def _at(self, name: str) -> "Remote":
        from densor.formats.io.remote import Remote

        place = Remote(join(self._url, checked_name(name)))
        with place.errors():
            place.fs.invalidate_cache(place.path)
        return place


def _within(data: bytes, limit: int, name: str) -> bytes:
    if len(data) > limit:
        raise _too_large(name, limit)
    return data


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file; a pipe in its place without waiting for who writes."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _too_large(name: str, limit: int) -> LimitError:
    return LimitError(f"{name}: has more than the {limit} bytes that a message may have")
