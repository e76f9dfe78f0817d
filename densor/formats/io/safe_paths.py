"""Where the entries of an archive may go below a folder."""

import contextlib
import os
from pathlib import Path

from densor.errors import FileError

_DEVICES = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}.union(
        f"{port}{number}" for port in ("COM", "LPT") for number in "123456789¹²³"
    )
)


class Places:
    """The files that one extraction has made below a folder.

    Two names of an archive can mean the same file where the file system folds case or Unicode
    forms; the second one must not replace the first. What a system folds is not guessed: it is
    asked which file is there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[tuple[int, int], str] = {}  # names by device and number of the file

    def path(self, name: str) -> Path:
        """Where an entry goes; FileError if its name is not for this system, or means a file
        that was made for another entry."""
        check_portable(name)
        path = self._folder / name
        try:
            status = path.lstat()
        except OSError:
            return path  # nothing there
        other = self._made.get((status.st_dev, status.st_ino))
        if other is not None:
            raise FileError(f"{path}: is the same file as {other} here; extract one of them alone")
        return path

    def made(self, name: str) -> None:
        """Notes that the file of an entry is there."""
        with contextlib.suppress(OSError):  # others may have taken it away again
            status = (self._folder / name).lstat()
            self._made[status.st_dev, status.st_ino] = name


def check_portable(name: str, windows: bool = os.name == "nt") -> None:
    """FileError for a path that Windows would take for a device or another path, on Windows.

    See "Naming Files, Paths, and Namespaces" in its documentation. Elsewhere, these are names like
    any other.
    """
    if not windows:
        return
    for part in name.split("/"):
        stem = part.partition(".")[0].rstrip(" ").upper()
        if stem in _DEVICES or part[-1:] in (".", " ") or any(c in '<>"|?*' for c in part):
            raise FileError(f"{name}: no file can have this name on Windows")
