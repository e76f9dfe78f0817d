"""Files behind URLs, by fsspec: object stores, web servers, memory. Imported where a URL is met."""

import contextlib
import email.utils
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from densor.errors import (
    ArgumentError,
    DensorError,
    FileError,
    MissingFileError,
    TruncatedError,
    UnsupportedError,
)
from densor.formats.io.sources import Bytes, as_bytes
from densor.formats.io.urls import CHAIN, join, label, name_of
from densor.runtime.arguments import need
from densor.runtime.locks import Lock
from densor.runtime.lru import LruCache

_READ_AHEAD = 8 << 20  # bytes asked for at a time where a file is read from front to back
_PART = 32 << 20  # bytes of a part of an upload; S3 takes 10,000 parts
_TAIL = 1 << 16  # bytes at the end of an archive that are read at once: END, often the INDEX
_NO_PARTS = "the server does not serve parts of files"
_WEB = ("http://", "https://")
_NO_FILE = (404, 410)  # what a web server answers
_BLOCKS = 4  # blocks of _READ_AHEAD bytes kept by what is read at random

# Where a file appears whole at its close, or not at all. Elsewhere it is renamed into place.
_APPEAR_AT_CLOSE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "hf"})


class Status(NamedTuple):
    """What a store says about a file, None for what it does not say."""

    size: int | None
    mtime_ns: int | None
    tag: str | None  # of the content, such as an ETag


class Remote:
    """A place in one of fsspec's file systems. Its errors are FileErrors that name the URL."""

    def __init__(self, url: str) -> None:
        need(url, str, "url")
        self.url = url
        self.label = label(url)
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise UnsupportedError(
                f'{self.label}: URLs need fsspec: pip install "densor[remote]"'
            ) from None
        with self.errors():
            try:
                self.fs, self.path = url_to_fs(url)
            except (ImportError, ValueError) as error:  # unknown scheme, or a package is missing
                raise UnsupportedError(f"{self.label}: {error}") from error

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Around calls of fsspec alone: every file system raises errors of its own kinds."""
        try:
            yield
        except DensorError:
            raise
        except FileNotFoundError as error:
            reason = self._refusal(error.__cause__)
            if reason is not None:
                raise FileError(f"{self.label}: {reason}") from error
            raise MissingFileError(f"{self.label}: no such file") from error
        except NotImplementedError as error:
            raise FileError(f"{self.label}: not possible with this kind of URL") from error
        except Exception as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            reason = reason.replace(self.url, self.label)
            raise FileError(f"{self.label}: {reason}") from error

    def _refusal(self, cause: BaseException | None) -> str | None:
        """Why a web server gives no file, where it does not say that there is none.

        For whatever goes wrong, fsspec says that.
        """
        if cause is None or not self.url.lower().startswith(_WEB):
            return None
        status = getattr(cause, "status", None)
        if status is None:
            return str(cause).replace(self.url, self.label) or type(cause).__name__
        return None if status in _NO_FILE else f"{status} {getattr(cause, 'message', '')}".strip()

    def exists(self) -> bool:
        """Whether there is a file, or a folder, at this place."""
        with self.errors():
            self.fs.invalidate_cache(self.path)
            return bool(self.fs.exists(self.path))

    def is_folder(self) -> bool:
        """Whether there are files below this place; on a web server, what ends with a slash."""
        if self.url.lower().startswith(_WEB):  # asking would fetch the file
            return self.url.endswith("/")
        with self.errors():
            return bool(self.fs.isdir(self.path))

    def status(self) -> Status:
        """Asks the store anew; FileError if there is no file."""
        with self.errors():
            self.fs.invalidate_cache(self.path)
            info = self.fs.info(self.path)
            if info.get("type") == "directory":
                raise FileError(f"{self.label}: is a folder")
            tag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
            return Status(info.get("size"), self._modified(info), None if tag is None else str(tag))

    def _modified(self, info: dict[str, Any]) -> int | None:
        try:
            when = self.fs.modified(self.path)
        except (NotImplementedError, RuntimeError):
            text = info.get("Last-Modified")
            try:
                when = email.utils.parsedate_to_datetime(text) if text else None
            except ValueError:
                when = None
        return None if when is None else round(when.timestamp() * 1e6) * 1000

    def remove(self) -> None:
        """Removes the file."""
        with self.errors():
            self.fs.rm_file(self.path)

    def files_below(self) -> list[tuple[str, str]]:
        """URL and relative name, with `/` between parts, of each file below, in a fixed order.

        FileError for a name that a URL cannot have.
        """
        with self.errors():
            found = sorted(self.fs.find(self.path))
        start = self.path.rstrip("/") + "/"
        names = [path[len(start) :] for path in found if path.startswith(start)]
        for name in names:
            if CHAIN in name:  # its URL would be that of another file
                raise FileError(f"{self.label}: {name!r:.200}: URLs have no names with {CHAIN}")
        return [(join(self.url, name), name) for name in names if name]


class _Reader:
    """A file read from front to back."""

    def __init__(self, place: Remote) -> None:
        self._place = place
        with place.errors():
            self._file = place.fs.open(
                place.path, "rb", block_size=_READ_AHEAD, cache_type="readahead"
            )
        cache: Any = getattr(self._file, "cache", None)  # of files that are read in parts
        if hasattr(cache, "fetcher"):
            cache.fetcher = partial(self._part, cache.fetcher)

    def _part(self, fetch: Callable[[int, int], bytes], begin: int, end: int) -> bytes:
        """A part of the file; what is longer than was asked for would move all that follows.

        A web server is asked for a byte beyond what it said that the file has.
        """
        last = end == self._file.size and self._place.url.lower().startswith(_WEB)
        data = fetch(begin, end + last)
        if last and len(data) == end + 1 - begin:
            raise FileError(f"{self._place.label}: is longer than the server said")
        if len(data) > end - begin:
            raise FileError(f"{self._place.label}: {_NO_PARTS}")
        return data

    def readinto(self, target: Any) -> int:
        with self._place.errors():
            data = self._file.read(memoryview(target).nbytes)
        memoryview(target)[: len(data)] = data
        return len(data)

    def read(self, count: int) -> bytes:
        with self._place.errors():
            return bytes(self._file.read(count))

    def close(self) -> None:
        with contextlib.suppress(FileError), self._place.errors():
            self._file.close()


@contextlib.contextmanager
def open_reader(place: Remote) -> Iterator[BinaryIO]:
    """The bytes of a file from front to back, in bounded memory."""
    reader = _Reader(place)
    try:
        yield cast(BinaryIO, reader)
    finally:
        reader.close()


class RemoteSource:
    """Bytes at any place of a file; each request asks for just the bytes that are wanted.

    Safe to use from several threads. FileError where the store cannot serve parts of a file.
    """

    def __init__(self, place: Remote, size: int | None = None) -> None:
        self._place = place
        found = place.status().size if size is None else size
        if found is None:
            raise FileError(f"{place.label}: the server does not tell its size")
        self._size = found
        self._lock = Lock()
        self._expected: tuple[int, int] = (0, 0)
        self._blocks: LruCache[tuple[int, int], Bytes] = LruCache(_BLOCKS)

    @property
    def size(self) -> int:
        return self._size

    def expect(self, begin: int, end: int) -> None:
        """Says that these bytes and no others will be read soon, so that fewer requests do."""
        with self._lock:
            self._expected = begin, end

    def read_at(self, offset: int, count: int) -> Bytes:
        end = offset + count
        if offset < 0 or end > self._size:
            raise TruncatedError("archive is shorter than its frames say")
        with self._lock:
            if self._expected[0] <= offset and end <= self._expected[1]:
                return self._from_blocks(*self._expected, offset, end)
            tail = max(0, self._size - _TAIL)
            if offset >= tail:
                return self._from_blocks(tail, self._size, offset, end)
        return self._fetch(offset, end)

    def _from_blocks(self, low: int, high: int, begin: int, end: int) -> Bytes:
        """Bytes of a stretch from `low` to `high` that is fetched block by block."""
        pieces = []
        at = begin
        while at < end:
            start = at - (at - low) % _READ_AHEAD
            stop = min(start + _READ_AHEAD, high)
            block = self._block(start, stop)
            pieces.append(block[at - start : end - start])
            at = stop
        return pieces[0].copy() if len(pieces) == 1 else np.concatenate([_NONE, *pieces])

    def _block(self, begin: int, end: int) -> Bytes:
        block = self._blocks.get((begin, end))
        if block is None:
            block = self._fetch(begin, end)
            self._blocks.put((begin, end), block)
        return block

    def _fetch(self, begin: int, end: int) -> Bytes:
        if begin == end:
            return _NONE
        place = self._place
        with place.errors():
            data = as_bytes(place.fs.cat_file(place.path, begin, end))
        if data.size > end - begin:
            raise FileError(f"{place.label}: {_NO_PARTS}")
        if data.size < end - begin:
            raise TruncatedError(f"{place.label}: is shorter than it was said to be")
        return data


_NONE = np.empty(0, np.uint8)


class _Output:
    """A file that is written from front to back, and back to its header where that is possible."""

    def __init__(self, place: Remote, file: Any) -> None:
        self._place = place
        self.file = file

    def write(self, data: Any) -> int:
        with self._place.errors():
            return int(self.file.write(data))

    def flush(self) -> None:
        pass  # closing the file does that, in parts that the store accepts

    def seekable(self) -> bool:
        return bool(self.file.seekable())

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        with self._place.errors():
            return int(self.file.tell())

    def seek(self, offset: int) -> int:
        with self._place.errors():
            return int(self.file.seek(offset))


@contextlib.contextmanager
def whole_file(url: str, overwrite: bool) -> Iterator[BinaryIO]:
    """A file for output that appears at `url` whole, or not at all on any exception.

    Object stores make an upload visible when it is complete. In other file systems the file is
    written under a temporary name beside, and moved. FileError if there is one and `overwrite` is
    false; another process that makes it meanwhile is overwritten.
    """
    place = Remote(url)
    if url.endswith("/") or not name_of(url):
        raise ArgumentError(f"{place.label}: names no file")
    if not overwrite and place.exists():
        raise FileError(f"{place.label}: already exists; use -f (overwrite=True) to replace it")
    protocols = [place.fs.protocol] if isinstance(place.fs.protocol, str) else place.fs.protocol
    way = _uploaded if _APPEAR_AT_CLOSE.intersection(protocols) else _renamed
    with way(place) as file:
        yield cast(BinaryIO, _Output(place, file))


@contextlib.contextmanager
def _uploaded(place: Remote) -> Iterator[Any]:
    with place.errors():
        file = place.fs.open(place.path, "wb", block_size=_PART, autocommit=False)
    try:
        yield file
        with place.errors():
            file.close()
            file.commit()
    except BaseException:
        with contextlib.suppress(Exception):
            file.discard()
        file.closed = True  # else its destructor would complete the upload
        raise


@contextlib.contextmanager
def _renamed(place: Remote) -> Iterator[Any]:
    from fsspec import AbstractFileSystem

    fs, parent = place.fs, place.fs._parent(place.path)
    name = f".{place.path.rpartition('/')[2][:32]}.{secrets.token_hex(4)}.tmp"
    temporary = f"{parent.rstrip('/')}/{name}"
    with place.errors():
        if fs.isdir(place.path):
            raise FileError(f"{place.label}: is a folder")
        if parent.strip("/"):
            fs.makedirs(parent, exist_ok=True)
        file = fs.open(temporary, "wb")
    try:
        yield file
        with place.errors():
            file.close()
            if type(fs).mv is AbstractFileSystem.mv:  # which takes names for patterns
                fs.cp_file(temporary, place.path)
                fs.rm_file(temporary)
            else:
                fs.mv(temporary, place.path)
    except BaseException:
        with contextlib.suppress(Exception):
            file.close()
        with contextlib.suppress(Exception):
            fs.rm_file(temporary)
        raise
