"""A state as bytes, for another process or machine. See docs/format/snapshot.md."""

import re
import struct
from collections import Counter, OrderedDict
from typing import Any

import torch

import densor
from densor.errors import ArgumentError, FormatError, UnsupportedError
from densor.formats.container import strictjson
from densor.torch import sealed
from densor.torch.saving import is_plain
from densor.torch.snapshot_former import unpack_former

KIND = sealed.Kind(b"\x89DSNAP\r\n", 1, "snapshot")
MAX_DEPTH = 100  # dicts, lists and tuples in each other
_MAX_ALIKE = 64  # keys of a dict with the same hash: more would take quadratic time
_FORMER = b"PK"  # how files of torch.save begin
_SEQUENCES: dict[type, str] = {list: "list", tuple: "tuple"}
_DICTS: dict[type, str] = {dict: "dict", OrderedDict: "ordered"}
_MADE_OF = {name: kind for kind, name in {**_SEQUENCES, **_DICTS}.items()}
_INTEGER = re.compile(r"-?[1-9a-f][0-9a-f]{0,1023}")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_REAL = re.compile(r"[0-9a-f]{16}")
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
_BITS = struct.Struct(">d")


def pack_snapshot(state: Any, step: int, level: int = 1, threads: int = 1) -> bytes:
    """A state by itself, as bytes that another process may keep; its tensors are on CPUs.

    `step`: from -2^63 to 2^63 - 1. ArgumentError for what is no tensor, dict, OrderedDict, list,
    tuple, number, string, bytes or None, or lies in more than 100 of these; for strings with pairs
    of surrogates, and dicts with more than 64 keys of one hash.
    """
    if type(step) is not int or not _LEAST <= step <= _MOST:
        raise ArgumentError("step of a snapshot must be an integer of 64 bits")
    writer = _Writer(level, threads)
    tree = writer.node(state, 0)
    return sealed.sealed(KIND, {"step": step, "state": tree}, writer.pieces)


def unpack_snapshot(
    data: bytes, threads: int = 1, *, max_output_size: int | None = None
) -> tuple[Any, int]:
    """The state and step that `pack_snapshot` was given; a DensorError for anything else.

    Tensors are in memory of their own. What version 0.7.0 wrote is read as well. LimitError where
    all tensors and strings of bytes have more than `max_output_size` bytes, or what is beside them
    has.
    """
    room = sealed.Room(max_output_size)
    if memoryview(data)[:2] == _FORMER:
        return unpack_former(data, threads, room)
    body, table, at = sealed.opened(KIND, data, max_output_size)
    if table.keys() != {"step", "state"}:
        raise FormatError("table of a snapshot is malformed")
    step = strictjson.integer(table["step"], "step", least=_LEAST)
    reader = _Reader(body[at:], threads, room)
    state = reader.value(table["state"], 0)
    reader.finish()
    return state, step


def is_codable(leaf: Any) -> bool:
    """Whether this is a tensor whose bytes can be had: not sharded, on a CPU."""
    return isinstance(leaf, torch.Tensor) and is_plain(leaf) and leaf.device.type == "cpu"


class _Writer:
    """Makes nodes of the table, and the pieces that follow it, in the order of the nodes."""

    def __init__(self, level: int, threads: int) -> None:
        self._level, self._threads = level, threads
        self.pieces: list[bytes] = []

    def node(self, part: Any, depth: int) -> Any:
        kind = type(part)
        if part is None or kind is bool:
            return part
        if kind is str:
            return _text(part)
        if isinstance(part, torch.Tensor):
            if not is_codable(part):
                raise ArgumentError("tensors of a snapshot that is sent must be plain, on a CPU")
            return {"tensor": self._piece(part.detach())}
        if kind is bytes:
            return {"bytes": self._piece(part)}
        if kind in (int, float, complex):
            return _number(part)
        if depth == MAX_DEPTH:
            raise ArgumentError(f"state has more than {MAX_DEPTH} containers in each other")
        if kind in _SEQUENCES:
            return {_SEQUENCES[kind]: [self.node(one, depth + 1) for one in part]}
        if kind in _DICTS:
            pairs = part.items()
            if not all(map(_is_key, part)):
                raise ArgumentError("keys of a snapshot must be numbers, strings, bytes or tuples")
            if max(Counter(map(hash, part)).values(), default=0) > _MAX_ALIKE:
                raise ArgumentError("dict of a snapshot has too many keys of one hash")
            made = [[self.node(k, depth + 1), self.node(v, depth + 1)] for k, v in pairs]
            return {_DICTS[kind]: made}
        raise ArgumentError(f"snapshots that are sent take no {kind.__name__}")

    def _piece(self, content: Any) -> int:
        self.pieces.append(densor.compress(content, self._level, self._threads))
        return len(self.pieces[-1])


def _is_key(part: Any) -> bool:
    if type(part) is tuple:
        return all(map(_is_key, part))
    return part is None or type(part) in (bool, int, float, complex, str, bytes)


def _text(text: str) -> str:
    if _PAIR.search(text):  # of which JSON makes the one character that it stands for
        raise ArgumentError("strings of a snapshot must have no surrogates in pairs")
    return text


def _number(number: complex) -> Any:
    if isinstance(number, int):
        return number if _LEAST <= number <= _MOST else {"int": _digits(number)}
    if isinstance(number, float):
        return {"float": _BITS.pack(number).hex()}
    return {"complex": [_BITS.pack(part).hex() for part in (number.real, number.imag)]}


def _digits(number: int) -> str:
    digits = f"{number:x}"
    if not _INTEGER.fullmatch(digits):
        raise ArgumentError("integers of a snapshot have at most 4096 bits")
    return digits


class _Reader:
    """Values of nodes; takes pieces in the order of the nodes."""

    def __init__(self, pieces: memoryview, threads: int, room: sealed.Room) -> None:
        self._pieces, self._at, self._threads, self._room = pieces, 0, threads, room

    def finish(self) -> None:
        """FormatError if pieces are left."""
        if self._at != len(self._pieces):
            raise FormatError("snapshot is longer than its table says")

    def value(self, node: Any, depth: int) -> Any:
        if node is None or type(node) in (bool, str):
            return node
        if type(node) is int:
            return strictjson.integer(node, "integer", least=_LEAST)
        if not isinstance(node, dict) or len(node) != 1:
            raise FormatError("node of a snapshot is malformed")
        ((name, content),) = node.items()
        if name in ("tensor", "bytes"):
            return self._decoded(name, content)
        if name in ("int", "float", "complex"):
            return _parsed(name, content)
        if name not in _MADE_OF:
            raise UnsupportedError("snapshot has an unknown node; a newer densor may read it")
        if not isinstance(content, list) or depth == MAX_DEPTH:
            raise FormatError("snapshot has an impossible container")
        kind = _MADE_OF[name]
        if kind in _SEQUENCES:
            return kind(self.value(one, depth + 1) for one in content)
        return self._dict(kind, content, depth + 1)

    def _dict(self, kind: type, content: list[Any], depth: int) -> Any:
        found = kind()
        alike: Counter[int] = Counter()
        for pair in content:
            if not isinstance(pair, list) or len(pair) != 2:
                raise FormatError("dict of a snapshot is malformed")
            key = self.value(pair[0], depth)
            if not _is_key(key):
                raise FormatError("dict of a snapshot has an impossible key")
            alike[hash(key)] += 1
            if key in found or alike[hash(key)] > _MAX_ALIKE:
                raise FormatError("dict of a snapshot has a key twice, or too many of one hash")
            found[key] = self.value(pair[1], depth)
        return found

    def _decoded(self, name: str, length: Any) -> Any:
        left = len(self._pieces) - self._at
        end = self._at + strictjson.integer(length, "length of a piece", left)
        piece, self._at = self._pieces[self._at : end], end
        found = self._room.decoded(piece, self._threads)
        if not isinstance(found, torch.Tensor if name == "tensor" else bytes):
            raise FormatError(f"piece of a snapshot holds no {name}")
        return found


def _parsed(name: str, content: Any) -> Any:
    """A number that JSON has none for."""
    if name == "int" and isinstance(content, str) and _INTEGER.fullmatch(content):
        return int(content, 16)
    if name == "float":
        return _real(content)
    if name == "complex" and isinstance(content, list) and len(content) == 2:
        return complex(*map(_real, content))
    raise FormatError("number of a snapshot is malformed")


def _real(digits: Any) -> float:
    if not isinstance(digits, str) or not _REAL.fullmatch(digits):
        raise FormatError("number of a snapshot is malformed")
    found: float = _BITS.unpack(bytes.fromhex(digits))[0]
    return found
