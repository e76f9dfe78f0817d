"""Arguments of a wrong type, refused in words before they are another error further down."""

from collections.abc import Mapping
from numbers import Integral, Real

_WORDS: dict[type, str] = {
    Integral: "whole number",
    Real: "number",
    str: "text",
    Mapping: "mapping",
}


def need(thing: object, kind: type, name: str) -> None:
    """TypeError unless an argument, called `name`, is a `kind`."""
    if not isinstance(thing, kind):
        words = _WORDS.get(kind, kind.__name__)
        raise TypeError(f"{name} must be a {words}, not {type(thing).__name__}")


def need_whole(**given: object) -> None:
    """TypeError unless all these arguments are whole numbers."""
    for name, thing in given.items():
        need(thing, Integral, name)
