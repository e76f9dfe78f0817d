"""Which store a place names: a folder, a URL, a server."""

import os

from densor.errors import ArgumentError
from densor.formats.io.urls import is_url, plain
from densor.sync.sockets import SocketStore
from densor.sync.stores import FolderStore, Store, UrlStore


def open_store(store: Store | str | os.PathLike[str]) -> Store:
    """A store as it is, that at a URL (`tcp://host:port` for a `StoreServer`), or a folder."""
    if isinstance(store, str) and store.startswith("tcp://"):
        return SocketStore(store)
    if isinstance(store, str | os.PathLike):
        place = plain(store)
        return UrlStore(place) if isinstance(place, str) and is_url(place) else FolderStore(place)
    if not isinstance(store, Store):
        raise ArgumentError(f"{type(store).__name__} is no store: it lacks put, get, names, remove")
    return store
