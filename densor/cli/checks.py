"""Faults that can be seen before the library is loaded, said in the words of the command line."""

import os
import stat

from densor.cli.streams import DASH
from densor.errors import FileError
from densor.formats.io.urls import is_url, plain


def source_file(path: str, hint: str = "", missing: str = "") -> None:
    """FileError if there is no such file, or if it is a folder.

    `hint`: what to do where it is a folder; `missing`: where there is none of this name.
    """
    if path == DASH or is_url(path := plain(path)):
        return
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            raise FileError(f"is a folder{hint}")
    except FileNotFoundError as error:
        raise FileError(f"{error.strerror}{missing}") from None
    except OSError as error:
        raise FileError(error.strerror or str(error)) from None


def target_file(path: str, force: bool, source: str = DASH) -> None:
    """FileError if writing `path` would overwrite something that it should not."""
    path, source = plain(path), plain(source)
    if path == source != DASH:
        raise FileError("input and output are the same file")
    if path == DASH or is_url(path) or not os.path.lexists(path):
        return
    if os.path.isdir(path):
        raise FileError(f"{path}: is a folder")
    local = source != DASH and not is_url(source)
    if local and os.path.exists(path) and os.path.samefile(source, path):
        raise FileError("input and output are the same file")
    device = os.path.exists(path) and not os.path.isfile(path)
    if not force and not device:
        raise FileError(f"{path}: already exists; use -f to overwrite it")


def existing(path: str, named: bool = False) -> None:
    """FileError unless there is a file or folder of this name; `named`: say which."""
    if not os.path.exists(path):
        raise FileError(f"{path}: no such file or folder" if named else "no such file or folder")
