"""stdin and stdout as binary files, guarded against terminals."""

import errno
import os
import sys
from typing import Any, BinaryIO, cast

from densor.errors import DensorError, FileError
from densor.formats.io.urls import is_url, plain

DASH = "-"
# Text may hold tab, line feed, form feed and carriage return, but no other control character.
_CONTROLS = bytes({*range(32), 127} - {9, 10, 12, 13})


def stdin(force: bool) -> BinaryIO:
    """Standard input; FileError if it is a terminal."""
    if sys.stdin is None:
        raise FileError("stdin is closed")
    if sys.stdin.isatty() and not force:
        raise FileError("stdin is a terminal; name a file, or use -f")
    return sys.stdin.buffer


class _Pipe:
    """Standard output as a file that is written front to back, even if it could do more.

    A file behind it may be open for appending, so nothing is ever sought in it.
    """

    def __init__(self, file: Any, text_only: bool) -> None:
        self._file = file
        self._text_only = text_only

    def write(self, data: Any) -> int:
        block = bytes(data) if self._text_only else data
        if self._text_only and len(block.translate(None, _CONTROLS)) < len(block):
            raise FileError("binary data is not written to a terminal; use -o FILE or -f")
        written: int | None = self._file.write(block)
        if written is None:  # a pipe that is full, and does not wait
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return written

    def flush(self) -> None:
        self._file.flush()

    def seekable(self) -> bool:
        return False

    def readable(self) -> bool:
        return False


def stdout(force: bool, archive: bool) -> BinaryIO:
    """Standard output. If it is a terminal, FileError for an `archive` and for binary data."""
    if sys.stdout is None:
        raise FileError("stdout is closed")
    guarded = sys.stdout.isatty() and not force
    if guarded and archive:
        raise FileError("an archive is not written to a terminal; use -o FILE or -f")
    sys.stdout.flush()
    return cast(BinaryIO, _Pipe(sys.stdout.buffer, guarded))


def regular_size(path: str) -> int | None:
    """The size of a regular file or of what is behind a URL, None where that cannot be told."""
    if is_url(path := plain(path)):
        from densor.formats.io.remote import Remote

        try:
            return Remote(path).status().size
        except DensorError:
            return None
    return os.path.getsize(path) if os.path.isfile(path) else None
