"""JSON lines: objects that share their keys, one on a line, with their values as cells.

Literals are what the values of most lines stand between, as written there; objects within are
cells too where most lines share their keys, and arrays are one cell. Lines that are written in
another way are kept as they are.
"""

import json
import re
from collections import Counter

from densor.codec.table.layout import MAX_COLUMNS, Layout
from densor.codec.table.params import MAX_NAMES

_MIN_ROWS = 8
_MIN_SHARE = 0.6  # of lines that share all literals
_ENOUGH = 0.9  # from which objects within are not tried as one cell
_STRING = rb'"(?:[^"\\\n]|\\[^\n])*"'
_TOKEN = re.compile(rb"(?P<string>" + _STRING + rb")|(?P<word>[^\s\[\]{},:\"]+)|(?P<mark>[\[\]{}])")


def layout_of(lines: list[bytes]) -> Layout | None:
    """The layout that most lines have in common; None where these are no such objects."""
    lines = [line for line in lines if line]
    if len(lines) < _MIN_ROWS or sum(line[:1] == b"{" for line in lines) < _MIN_SHARE * len(lines):
        return None
    returns = sum(line.endswith(b"\r") for line in lines) > len(lines) / 2
    best: tuple[float, tuple[bytes, ...]] | None = None
    for deep in (True, False):
        found = Counter(_literals(line.rstrip(b"\r"), deep) for line in lines)
        found.pop((), None)
        for literals, count in found.most_common(1):
            if best is None or count / len(lines) > best[0]:
                best = count / len(lines), literals
        if best is not None and best[0] >= _ENOUGH:
            break
    if best is None or best[0] < _MIN_SHARE or sum(map(len, best[1])) > MAX_NAMES:
        return None
    columns = len(best[1]) - 1
    if not 1 <= columns <= MAX_COLUMNS:
        return None
    return Layout(columns, 44, returns, literals=best[1])


def _literals(line: bytes, deep: bool) -> tuple[bytes, ...]:
    """What stands between the values of an object; nothing where it is none.

    `deep`: the values of objects within it are told apart.
    """
    literals: list[bytes] = []
    closers: list[bytes] = []
    at = end = depth = 0  # of the literal at hand, and brackets within a value
    for token in _TOKEN.finditer(line):
        mark = token["mark"]
        if depth:
            depth += (mark in (b"[", b"{")) - (mark in (b"]", b"}")) if mark else 0
            if not depth:
                end = token.end()
            continue
        if mark in (b"]", b"}"):
            if not closers or closers.pop() != mark:
                return ()
        elif token["string"] and line[token.end() :].lstrip()[:1] == b":":
            continue  # a key
        elif mark == b"{" and (not closers or deep) and line[token.end() :].lstrip()[:1] != b"}":
            closers.append(b"}")
        elif not closers:
            return ()
        else:
            literals.append(line[end : token.start()])
            depth, end = int(mark is not None), token.end()
    at = end
    return (*literals, line[at:]) if not closers and not depth and literals else ()


def names_of(layout: Layout) -> list[str]:
    """Keys of the values; those of objects within follow the key of these and a point."""
    names: list[str] = []
    path: list[str] = []
    key = ""
    for literal in layout.literals[:-1]:
        for token in _TOKEN.finditer(literal):
            if token["string"]:
                key = _loaded(token["string"])
            elif token["mark"] == b"{":
                path.append(key)
            elif token["mark"] == b"}" and path:
                path.pop()
        names.append(".".join([*path[1:], key]))
    return names


def _loaded(text: bytes) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text.decode("utf-8", "surrogateescape")


def literals_for(names: list[str]) -> tuple[bytes, ...]:
    """The literals of objects with these keys."""
    keys = [json.dumps(name, ensure_ascii=False).encode("utf-8", "surrogateescape") + b": "
            for name in names]  # fmt: skip
    return (b"{" + keys[0], *(b", " + key for key in keys[1:]), b"}")


def plain(cell: bytes) -> bytes:
    """A value as text: strings without their quotes and escapes, others as they stand there."""
    if cell[:1] != b'"':
        return cell
    try:
        return str(json.loads(cell)).encode("utf-8", "surrogatepass")
    except ValueError:
        return cell
