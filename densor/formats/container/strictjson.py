"""JSON from archives and headers: parsed strictly, every fault a FormatError."""

import json
from collections.abc import Iterable
from typing import Any

from densor.errors import FormatError

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FormatError("JSON object has a key twice")
    return found


def _refuse(text: str) -> Any:
    raise FormatError(f"JSON has the number {text}, which is no integer")


def loads(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`; no duplicate keys, no fractions."""
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_float=_refuse,
            parse_constant=_refuse,
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not a JSON object")
    return value


def text(value: object) -> str:
    """Compact JSON."""
    return _ENCODER.encode(value)


def string(value: str) -> str:
    """Likewise of a text."""
    return json.encoder.encode_basestring(value)


def strings(values: list[str]) -> list[str]:
    """Likewise of many, of which mostly none has anything to escape."""
    joined = "".join(values)
    if len(string(joined)) == len(joined) + 2:
        return [f'"{value}"' for value in values]
    return list(map(string, values))


def parts(text: bytes, places: Iterable[tuple[int, int]]) -> list[str]:
    """What stands in UTF-8 between such places, (begin, end) each; UnicodeDecodeError."""
    if text.isascii():
        whole = text.decode()
        return [whole[begin:end] for begin, end in places]
    return [text[begin:end].decode() for begin, end in places]


def encoded(text: str) -> bytes:
    """JSON as UTF-8."""
    return text.encode(errors="backslashreplace")  # a lone surrogate becomes its escape


def dumps(value: object) -> bytes:
    """Compact UTF-8 JSON."""
    return encoded(text(value))


def integer(value: object, what: str, most: int = (1 << 63) - 1, least: int = 0) -> int:
    """`value` if it is an integer within bounds, else a FormatError."""
    if type(value) is not int or not least <= value <= most:  # a bool is none
        raise FormatError(f"{what} is not an integer from {least} to {most}")
    return value


def shape(value: object, what: str) -> tuple[int, ...]:
    """`value` as a tensor shape of at most 64 dimensions, else a FormatError."""
    if not isinstance(value, list) or len(value) > 64:
        raise FormatError(f"{what} is not a list of at most 64 integers")
    for size in value:
        if type(size) is not int or not 0 <= size < 1 << 63:  # a bool is none
            raise FormatError(f"{what} is not a list of integers from 0 to {(1 << 63) - 1}")
    return tuple(value)
