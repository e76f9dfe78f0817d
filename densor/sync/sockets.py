"""A store behind a TCP socket: the publisher serves it, subscribers ask for messages.

For networks whose hosts trust each other: nothing is encrypted, and whoever reaches the port reads
the weights. Subscribers cannot write. A request is a line: `names`, or `get NAME LIMIT`; the answer
a u64, the number of bytes that follow, or 2^64 - 1 for a message that is not there.
"""

import contextlib
import os
import socket
import socketserver
import struct
import threading
from typing import Any, Self
from urllib.parse import urlsplit

from densor.errors import ArgumentError, DensorError, FileError
from densor.runtime.arguments import need
from densor.runtime.locks import Lock
from densor.sync.stores import Store, checked_name

_LENGTH = struct.Struct("<Q")
_MISSING = (1 << 64) - 1
_MAX_LINE = 256
_MAX_NAMES = 1 << 24  # bytes of a list of names
_PIECE = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte


class _Handler(socketserver.StreamRequestHandler):
    timeout = _TIMEOUT

    def handle(self) -> None:
        store: Store = self.server.store  # type: ignore[attr-defined]
        with contextlib.suppress(OSError, ValueError, DensorError):  # the other side asks again
            while line := self.rfile.readline(_MAX_LINE):
                words = line.decode("ascii").split()
                if words == ["names"]:
                    answer: bytes | None = "\n".join(store.names()).encode()
                elif len(words) == 3 and words[0] == "get":
                    answer = store.get(checked_name(words[1]), int(words[2]))
                else:
                    return
                head = _LENGTH.pack(_MISSING if answer is None else len(answer))
                self.wfile.write(head)
                self.wfile.write(answer or b"")


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    store: Store


class StoreServer:
    """Serves a store, mostly a `MemoryStore`, to `SocketStore`s, until `close`.

    `address`: host and port, 0 for any that is free. `url`: what subscribers are given.
    """

    def __init__(self, store: Store, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        try:
            self._server = _Server(address, _Handler)
        except OSError as error:
            raise FileError(f"cannot listen at {address[0]}:{address[1]}: {error}") from error
        self._server.store = store
        host, port = self._server.server_address[:2]
        self.url = f"tcp://{host!s}:{port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="densor-store", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SocketStore:
    """The subscriber's side of a `StoreServer`, at its `url`. Connects anew after a fault, and in a
    child process, whose answers would mix with those of its parent."""

    def __init__(self, url: str, *, timeout: float = _TIMEOUT) -> None:
        need(url, str, "url")
        parts = urlsplit(url)
        if parts.scheme != "tcp" or parts.hostname is None or parts.port is None:
            raise ArgumentError(f"{url!r:.200} is no address, tcp://host:port")
        self._url = url
        self._address = parts.hostname, parts.port
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._process = os.getpid()  # whose connection it is
        self._lock = Lock()

    def put(self, name: str, data: bytes) -> None:
        """Cannot be: the publisher writes to the store that it serves."""
        raise FileError(f"{self._url}: can only be read; publish to the store that is served")

    def remove(self, name: str) -> None:
        """Cannot be, likewise."""
        raise FileError(f"{self._url}: can only be read")

    def names(self) -> list[str]:
        """All names."""
        data = self._ask("names\n", _MAX_NAMES)
        try:
            return (data or b"").decode("ascii").split()
        except UnicodeDecodeError:
            raise FileError(f"{self._url}: sent names that are none") from None

    def get(self, name: str, limit: int) -> bytes | None:
        """A message; None if it is not there."""
        return self._ask(f"get {checked_name(name)} {limit}\n", limit)

    def close(self) -> None:
        """Ends the connection; the next request makes a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, line: str, limit: int) -> bytes | None:
        with self._lock:
            try:
                if self._process != os.getpid():
                    self.close()
                    self._process = os.getpid()
                if self._socket is None:
                    self._socket = socket.create_connection(self._address, self._timeout)
                self._socket.sendall(line.encode("ascii"))
                size = _LENGTH.unpack(self._receive(self._socket, _LENGTH.size))[0]
                if size == _MISSING:
                    return None
                if size > limit:
                    raise FileError(f"{self._url}: sends {size} bytes, {limit} are allowed")
                return self._receive(self._socket, size)
            except OSError as error:
                self.close()
                raise FileError(f"{self._url}: {error}") from error
            except BaseException:  # an interrupt too: the answer that comes is not the next one's
                self.close()
                raise

    def _receive(self, connection: socket.socket, size: int) -> bytes:
        """Exactly `size` bytes. Memory grows as they come, not as they are announced."""
        pieces: list[Any] = []
        while size:
            piece = connection.recv(min(size, _PIECE))
            if not piece:
                raise FileError(f"{self._url}: the connection ended within a message")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)
