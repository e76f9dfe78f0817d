"""Output files that appear whole or not at all."""

import contextlib
import ctypes
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from densor.errors import FileError, MissingFileError
from densor.runtime.buffers import NewBytes


class Sizes(NamedTuple):
    """What a call has done, in bytes."""

    original: int
    stored: int


@contextlib.contextmanager
def errors_of(path: object) -> Iterator[None]:
    """Turns an OSError into a FileError that names the file and the reason."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        name = error.filename or path
        kind = MissingFileError if isinstance(error, FileNotFoundError) else FileError
        raise kind(f"{name}: {error.strerror or error}") from error


def write_all(file: BinaryIO, data: Any) -> None:
    """Writes all of a buffer, also to unbuffered files; FileError where that fails."""
    view = memoryview(data).cast("B")
    try:
        while view.nbytes:
            written = file.write(view)
            if written is None and isinstance(file, io.RawIOBase):  # of a pipe that is full
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            if written is not None and written <= 0:  # it would be tried for ever
                raise FileError("cannot write: the file took nothing")
            view = view[written:] if written is not None else view[:0]
    except BufferError:  # of an `io.BytesIO` that others look into
        raise FileError("cannot write: the memory of the file is in use") from None
    except OSError as error:
        raise FileError(f"cannot write: {error.strerror or error}") from error


_ROOM = 1.01  # of its size: what does not shrink fits too, and what is never written costs nothing


class MemoryFile:
    """A file in memory. `size`: bytes of what is packed into it, a guess.

    In place of `io.BytesIO` for its `getvalue`, which copies nothing here.
    """

    def __init__(self, size: int) -> None:
        self._buffer = NewBytes(int(_ROOM * size) + (1 << 12))
        self._size = 0
        self._at = 0

    def write(self, data: Any) -> int:
        piece = np.frombuffer(data, np.uint8)
        end = self._at + piece.size
        self.expect(end)
        self._buffer.put(self._at, piece)
        self._at = end
        return piece.size

    def has_room(self, size: int) -> bool:
        """Whether it can grow to `size` bytes without being moved."""
        return size <= self._buffer.size

    def expect(self, size: int) -> None:
        """Makes room for `size` bytes, for `write_at`; while nothing is being written there."""
        if size > self._buffer.size:
            self._buffer.resize(max(size, 2 * self._buffer.size))
        self._size = max(self._size, size)

    def write_at(self, data: Any, offset: int) -> None:
        """Writes all of a buffer where there is room for it. For several threads."""
        self._buffer.put(offset, np.frombuffer(data, np.uint8))

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int) -> int:
        self._at = offset
        return offset

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        pass

    def getvalue(self) -> bytes:
        """All that was written; the file cannot be used afterwards."""
        self._buffer.resize(self._size)
        return self._buffer.finished()


class WholeFile(io.FileIO):
    """An output file that nobody else knows of yet, so that its parts may be written in any order.

    Room is asked for ahead of what is written: a file system places 64 MB at once sooner than it
    does page by page (256 MB in 31 ms of processor time against 50).
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._holes: list[tuple[int, int]] = []

    def write(self, data: Any) -> int:
        """Writes all of a buffer, which a file without a buffer of its own need not: of what a full
        disk has room for in part, or of more than 2 GiB. OSError where that fails."""
        view = memoryview(data).cast("B")
        at = 0
        while at < view.nbytes:
            at += super().write(view[at:])
        return at

    _allocated = 0
    _can_allocate = sys.platform.startswith("linux")

    def has_room(self, size: int) -> bool:
        """Whether `size` bytes can be written before more is asked for; always."""
        return True

    def write_at(self, data: Any, offset: int) -> None:
        """Writes all of a buffer at a place; FileError where that fails. For several threads.

        Of many zeros only the last page is written, so that the file has its size; the rest, and in
        the end that page too, is a hole.
        """
        view = memoryview(data).cast("B")
        at = 0
        for begin, end in _zeros(np.frombuffer(view, np.uint8), offset):
            self._put(view[at:begin], offset + at)
            self._holes.append((offset + begin, offset + end))
            self._can_allocate = False
            at = end - _PAGE
        self._put(view[at:], offset + at)

    def _put(self, view: memoryview, offset: int) -> None:
        try:
            while view.nbytes:
                written = os.pwrite(self.fileno(), view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise FileError(f"cannot write: {error.strerror or error}") from error

    def expect(self, size: int) -> None:
        """Says that the file will have `size` bytes or more. For one thread."""
        if size <= self._allocated or not self._can_allocate or size < _LEAST_ROOM:
            return
        more = max(size - self._allocated, min(size, _MOST_ROOM))
        self._can_allocate = _allocate(self.fileno(), self._allocated, more)
        if self._can_allocate:
            self._allocated += more

    def trim(self) -> None:
        """Gives back the room that was asked for and not used."""
        size = os.fstat(self.fileno()).st_size
        if size < self._allocated:
            os.ftruncate(self.fileno(), size)
        self._punch()

    def _punch(self) -> None:
        """Gives back what holes take, as far as the file system can."""
        begin = end = 0
        for hole in [*sorted(self._holes), (-1, -1)]:
            if hole[0] == end:
                end = hole[1]
                continue
            if end > begin:
                _allocate(self.fileno(), begin, end - begin, _PUNCH_HOLE)
            begin, end = hole


def _zeros(data: "np.ndarray[Any, np.dtype[np.uint8]]", offset: int) -> list[tuple[int, int]]:
    """Where `data`, to be written at `offset`, is zero for so long that a hole is worth it.

    Begin and end of each such place, whole pages of the file.
    """
    first = -offset % _PAGE
    pages = (data.size - first) // _PAGE
    if pages < _LEAST_PAGES:
        return []
    grid = data[first : first + pages * _PAGE].reshape(pages, _PAGE)
    if not _may_be_zero(grid[_LEAST_PAGES - 1 :: _LEAST_PAGES]).any():  # one of each hole
        return []
    zero = _may_be_zero(grid)
    for page in np.flatnonzero(zero).tolist():
        zero[page] = not grid[page].any()
    edges = np.flatnonzero(np.diff(zero, prepend=False, append=False)).reshape(-1, 2)
    return [
        (first + begin * _PAGE, first + end * _PAGE)
        for begin, end in edges.tolist()
        if end - begin >= _LEAST_PAGES
    ]


def _may_be_zero(pages: "np.ndarray[Any, np.dtype[np.uint8]]") -> "np.ndarray[Any, Any]":
    """Which pages are zero at three places."""
    zero: np.ndarray[Any, Any] = (pages[:, 0] | pages[:, 1] | pages[:, _PAGE // 2 + 1]) == 0
    return zero


_PAGE = 4096  # the block of most file systems
_LEAST_PAGES = 16  # of a hole
_LEAST_ROOM, _MOST_ROOM = 1 << 20, 1 << 26
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # of Linux's fallocate


def _allocate(number: int, offset: int, size: int, mode: int = 0) -> bool:
    """Asks for room behind the end of a file; False where there is none, or no way to ask.

    Not `os.posix_fallocate`, which writes to every block where a file system cannot do it.
    """
    try:
        allocate = ctypes.CDLL(None).fallocate64
    except (OSError, AttributeError):
        return False
    allocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return bool(allocate(number, _KEEP_SIZE | mode, offset, size) == 0)


def is_special(path: Path) -> bool:
    """Whether a path leads to what is written to as it is: a device, a pipe, an open file.

    Such as /dev/stdout, even where that is redirected to a regular file.
    """
    for _ in range(_MAX_LINKS):
        if _OPEN_FILES.fullmatch(os.path.realpath(path.parent)):
            return True
        if not path.is_symlink():
            break
        path = path.parent / os.readlink(path)
    return path.exists() and not path.is_file()


_MAX_LINKS = 40
_OPEN_FILES = re.compile(r"/proc/\d+(/task/\d+)?/fd|/dev/fd")


@contextlib.contextmanager
def whole_file(
    path: Path,
    overwrite: bool,
    mode: Callable[[], int | None] = lambda: None,
    sync: bool = True,
    last_check: Callable[[], None] = lambda: None,
) -> Iterator[WholeFile]:
    """A temporary file beside `path`, renamed to it at the end; removed on any exception.

    Only the owner can read it until it is whole. `mode`: asked then for its permissions, None for
    those of any new file. `sync`: whether it is on the disk when it gets its name; always where it
    takes the place of another. `last_check`: called just before, and raises if it may not.

    FileError if `path` exists and `overwrite` is false, or leads to a device, or for faults of the
    file system.
    """
    with errors_of(path):
        if path.is_dir():
            raise FileError(f"{path}: is a directory")
        if os.path.lexists(path) and is_special(path):  # whose place a file would take, for all
            raise FileError(f"{path}: is no regular file")
        if not overwrite and os.path.lexists(path):
            raise _exists(path)
    # At most 128 bytes of its name, where file systems allow 255.
    temporary = path.with_name(f".{path.name[:32]}.{os.urandom(8).hex()}.tmp")
    try:  # from before the file is there, since an interrupt can come at any time
        try:
            file = WholeFile(temporary, "x+b", opener=_open_private)
        except OSError as error:  # its file name is of no interest
            raise FileError(f"{path}: {error.strerror or error}") from error
        with errors_of(path):
            with file:
                yield file
                file.trim()
                if hasattr(os, "fchmod"):
                    wanted = mode()
                    with contextlib.suppress(OSError):  # a file system without permissions
                        os.fchmod(file.fileno(), _new_mode(path) if wanted is None else wanted)
                sync = sync or os.path.lexists(path)
                if sync:
                    os.fsync(file.fileno())
            last_check()
            move_into_place(temporary, path, overwrite, sync)
    except BaseException:
        with contextlib.suppress(OSError):  # such as a folder that may not be written
            temporary.unlink()
        raise


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _new_mode(path: Path) -> int:
    """The permissions that a new file gets.

    The umask cannot be read but by changing it, for all threads; Linux tells it, and elsewhere a
    new file shows it.
    """
    try:
        status = Path("/proc/self/status").read_bytes()
        return 0o666 & ~int(status.split(b"Umask:", 1)[1].split()[0], 8)
    except (OSError, IndexError, ValueError):
        probe = path.with_name(f".{os.urandom(8).hex()}.tmp")
        try:
            with probe.open("xb") as file:
                return os.fstat(file.fileno()).st_mode & 0o777
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()


def move_into_place(temporary: Path, path: Path, overwrite: bool, sync: bool = True) -> None:
    """Gives a whole file its name; FileError if that exists and `overwrite` is false.

    `sync`: whether the name is on the disk then.
    """
    if overwrite:
        temporary.replace(path)
    else:  # a link fails where another process has made the file meanwhile
        try:
            os.link(temporary, path)
            temporary.unlink()
        except FileExistsError:
            raise _exists(path) from None
        except OSError:  # no hard links here
            temporary.replace(path)
    if sync and hasattr(os, "O_DIRECTORY"):
        _sync(path.parent)


def sync_below(folder: Path) -> None:
    """Waits until all files and folders in a folder are on the disk, as far as the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    for parent, _, names in os.walk(folder):
        for path in (*(Path(parent, name) for name in names), Path(parent)):
            _sync(path)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _exists(path: Path) -> FileError:
    return FileError(f"{path}: already exists; use -f (overwrite=True) to replace it")


@contextlib.contextmanager
def to_be_replaced(path: Path, file: BinaryIO) -> Iterator[os.stat_result]:
    """Keeps others from replacing a file at the same time; yields its status.

    FileError if another process has locked it, or has put another one in its place meanwhile.
    `file` is open on it.
    """
    try:
        import fcntl
    except ImportError:  # not on this system
        pass
    else:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileError(f"{path}: is being written by another process") from None
        except OSError:  # a file system without locks
            pass
    before = os.fstat(file.fileno())
    check_still_there(path, before)
    yield before


def check_still_there(path: Path, before: os.stat_result) -> None:
    """FileError unless the path still leads to the file that it did, unchanged."""
    with errors_of(path):
        now = os.stat(path)
    same = os.path.samestat(now, before)
    if not same or (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise FileError(f"{path}: changed while it was read")


def copy_times_and_mode(source: Path, target: Path) -> None:
    """Gives `target` the permissions, times and owner of `source`, as far as the system allows.

    But what runs under the rights of its owner: an archive is no program. Where the group cannot be
    the same, the new one may no more than all others.
    """
    import shutil  # with all of its ways to pack

    with contextlib.suppress(OSError):
        status = source.stat()
        mode = status.st_mode & 0o777
        if not _give(target, status):
            mode &= 0o707 | (mode & 0o007) << 3
        shutil.copystat(source, target)
        target.chmod(mode)


def _give(path: Path, wanted: os.stat_result) -> bool:
    """Gives a file to a user and a group, or at least to the group; whether it has that."""
    now = path.stat()
    if not hasattr(os, "chown") or (now.st_uid, now.st_gid) == (wanted.st_uid, wanted.st_gid):
        return True
    for user in (wanted.st_uid, -1):
        with contextlib.suppress(OSError):
            os.chown(path, user, wanted.st_gid)
            return True
    return False


def foreign_owner(status: os.stat_result) -> tuple[int, int] | None:
    """Numbers of user and group of a file; None where they are those of this process."""
    if not hasattr(os, "geteuid"):
        return None
    owner = status.st_uid, status.st_gid
    return None if owner == (os.geteuid(), os.getegid()) else owner


def apply_times_and_mode(
    path: Path, mode: int | None, mtime_ns: int | None, owner: tuple[int, int] | None = None
) -> None:
    """Sets permission bits and modification time, as far as they are known and allowed.

    `owner`: numbers of user and group, which only the superuser sets.
    """
    if owner is not None and hasattr(os, "geteuid") and os.geteuid() == 0:
        with contextlib.suppress(OSError):
            os.chown(path, *owner)
    with contextlib.suppress(OSError):
        if mode is not None:
            path.chmod(mode)
        if mtime_ns is not None:
            os.utime(path, ns=(mtime_ns, mtime_ns))


def make_parents(folder: Path, parent: Path) -> None:
    """Makes folders below the target one by one, none of them through a symbolic link."""
    with errors_of(parent):
        folder.mkdir(parents=True, exist_ok=True)
        at = folder
        for part in parent.relative_to(folder).parts:
            at = at / part
            if at.is_symlink():
                raise FileError(f"{at}: is a symbolic link; extract elsewhere")
            at.mkdir(exist_ok=True)
