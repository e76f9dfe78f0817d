"""Refuses arguments of another type in words, where the first use of one would not."""


def need(thing: object, kind: type, name: str) -> None:
    """TypeError unless an argument, called `name`, is a `kind`."""
    if not isinstance(thing, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, not {type(thing).__name__}")
