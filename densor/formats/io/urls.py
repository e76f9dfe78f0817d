"""What can be told of a URL by looking at it. Light: the command line asks before all else."""

import os
import re
from typing import TypeVar
from urllib.parse import unquote

from densor.errors import ArgumentError

T = TypeVar("T")
CHAIN = "::"  # between the URLs of file systems that are put on each other

# Two letters at least, so that a drive is none; `simplecache::s3://` and its like are URLs too.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::[A-Za-z][A-Za-z0-9+.-]+)*://")


def is_url(place: object) -> bool:
    """Whether `place` is a URL, `scheme://...`, rather than a path or a file object."""
    return isinstance(place, str) and _URL.match(place) is not None


def plain(place: T) -> T | str:
    """The path where `place` is a `file://` URL (RFC 8089), else `place` as it is.

    ArgumentError for a text that can be no path.
    """
    if isinstance(place, str):
        _check(place)
    elif isinstance(place, os.PathLike):
        _check(os.fspath(place))
    if not isinstance(place, str) or not place.lower().startswith("file://"):
        return place
    _, _, rest = place.partition("://")
    host, slash, path = rest.partition("/")
    return unquote(slash + path) if host in ("", "localhost") else place


def _check(path: str | bytes) -> None:
    """Refuses what the system takes for the current folder, or what Python has errors of its own
    for."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        raise ArgumentError(f"{path!r}: no path has such a character") from None
    if not encoded or 0 in encoded:
        raise ArgumentError(f"{path!r}: is no path")


def label(place: object) -> str:
    """A place as messages name it: a URL without password and query, which may be a signature."""
    text = str(place)
    if not is_url(text):
        return text
    scheme, _, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    host = host.rpartition("@")[2]
    if scheme.startswith("http"):
        path = re.split("[?#]", path, maxsplit=1)[0]
    return f"{scheme}://{host}{slash}{path}"


def name_of(url: str) -> str:
    """The last part of a URL's path, what the file would be called in a folder; may be empty."""
    path = url.partition("://")[2]
    if url.startswith("http"):
        path = re.split("[?#]", path, maxsplit=1)[0].partition("/")[2]
    name = path.partition(CHAIN)[0].rstrip("/").rpartition("/")[2]
    return unquote(name) if url.startswith("http") else name


def join(url: str, name: str) -> str:
    """The URL of what is called `name`, with `/` between its parts, below another."""
    return f"{url.rstrip('/')}/{name}" if not url.endswith("://") else url + name
