"""What is fuzzed: a function of bytes, valid inputs to begin with, and how to change them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from fuzz.mutate import mutated

Mutator = Callable[[bytes, Random, Sequence[bytes]], bytes]


class Wrong(AssertionError):
    """A property does not hold: wrong data without an error, a write out of bounds, and so on."""


@dataclass(frozen=True)
class Target:
    """A decoder or parser under test.

    `run` raises a DensorError or nothing; everything else is a bug. What it returns tells inputs
    apart that are handled in different ways. `most_memory`: bytes that one
    input may make it allocate, plus `per_byte` for each of its bytes.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    mutate: Mutator = mutated
    most_memory: int = 1 << 22
    per_byte: int = 64
