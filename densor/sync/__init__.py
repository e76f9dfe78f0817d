"""Weights that follow a training: a publisher sends what changed, subscribers apply it in place.

>>> publisher = Publisher(model, "runs/7/weights", every=1)  # doctest: +SKIP
>>> publisher.step()  # after each step of the optimizer  # doctest: +SKIP

and, in another process, on another machine:

>>> subscriber = Subscriber(model, "runs/7/weights")  # doctest: +SKIP
>>> subscriber.update()  # between generations  # doctest: +SKIP

Messages: docs/sync-format.md. Nothing heavy is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densor.sync.publisher import Publisher
    from densor.sync.sockets import SocketStore, StoreServer
    from densor.sync.stores import FolderStore, MemoryStore, Store, UrlStore
    from densor.sync.subscriber import Subscriber

_LAZY = {
    "FolderStore": "densor.sync.stores",
    "MemoryStore": "densor.sync.stores",
    "Publisher": "densor.sync.publisher",
    "SocketStore": "densor.sync.sockets",
    "Store": "densor.sync.stores",
    "StoreServer": "densor.sync.sockets",
    "Subscriber": "densor.sync.subscriber",
    "UrlStore": "densor.sync.stores",
}

__all__ = [
    "FolderStore",
    "MemoryStore",
    "Publisher",
    "SocketStore",
    "Store",
    "StoreServer",
    "Subscriber",
    "UrlStore",
]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'densor.sync' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
