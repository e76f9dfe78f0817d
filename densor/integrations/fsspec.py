"""Transparent reading and writing of archives of one file through fsspec.

    densor.integrations.fsspec.register()
    with fsspec.open("s3://bucket/model.safetensors.densor", compression="infer") as file:
        ...

fsspec has no entry points for compressions, so that `register` has to be called.
"""

import io
import tempfile
from typing import Any

from densor.errors import UnsupportedError
from densor.files.single import compress_file, decompress_file

try:
    from fsspec.compression import available_compressions, register_compression
except ImportError as error:
    raise UnsupportedError('needs fsspec: pip install "densor[fsspec]"') from error

_IN_MEMORY = 1 << 26  # bytes from which what is read or written waits in a file
_NAME = "densor"


def register() -> None:
    """Makes fsspec know `compression="densor"` and the extension `.densor`; twice is as once."""
    if _NAME not in available_compressions():
        register_compression(_NAME, open_file, [_NAME])


def open_file(infile: Any, mode: str = "rb", level: int = 3, threads: int = 0) -> Any:
    """A file of the original bytes behind a binary file of packed ones.

    Reading restores all of it, and verifies it, before the first byte is handed out; what is
    written is packed when the file is closed. Raises a DensorError for bad input.

    UnsupportedError for adding to a file: an archive ends where it ends.
    """
    if "a" in mode or "+" in mode:
        raise UnsupportedError(f"mode {mode!r}: an archive is written as a whole, or read")
    if "r" not in mode:
        return _Writer(infile, level, threads)
    spool = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
    try:
        decompress_file(infile, spool, threads)  # type: ignore[arg-type]
    except BaseException:
        spool.close()
        raise
    spool.seek(0)
    return io.BufferedReader(spool)


class _Writer(io.RawIOBase):
    """Collects what is written and packs it into `target` in the end."""

    def __init__(self, target: Any, level: int, threads: int) -> None:
        self._target = target
        self._level = level
        self._threads = threads
        self._spool = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._spool.write(data)

    def tell(self) -> int:
        """Bytes that were written so far."""
        return self._spool.tell()

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._spool.seek(0)
            compress_file(
                self._spool,  # type: ignore[arg-type]
                self._target,
                self._level,
                self._threads,
                name="data",
            )
        finally:
            self._spool.close()
            super().close()
