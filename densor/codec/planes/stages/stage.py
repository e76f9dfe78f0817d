"""What the coding side asks of an entropy stage."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from densor.codec.planes.class_map import RunClasses
from densor.codec.planes.classes import Coding, Counts, RunCounts
from densor.codec.planes.params import C
from densor.runtime.types import Bytes

# Stores a plane by classes, after its class map: write(plane, runs, out, at) returns the end in
# `out`. `runs`: uint8[runs], the class of each; None where there is but one.
Writer = Callable[[Bytes, RunClasses | None, Bytes, int], int]


@dataclass(frozen=True)
class Precision:
    """How close an entropy coder comes to the entropy of a plane."""

    least: float  # bits per symbol at least, unless all symbols are equal
    worth: float  # a plane whose sample has an entropy below this share of its size is counted


@dataclass(frozen=True)
class Stage(Generic[C]):
    """How planes are coded by classes `C`, and what the result is called in archives.

    `choose(counts, total, most, chunks)`: the cheapest coding of a plane found with at most `most`
    classes, None if raw is best, from `counts`, uint16[runs, 256], the histogram of each run,
    `total`, int64[256], their sum, and the number of chunks. `capacity(n)`: room that a writer
    needs for n symbols. `writer(classes, run)`: what writes planes in runs of so many symbols; safe
    to use from several threads at once.
    """

    codec: int
    mode: int  # of a plane that is coded by classes
    precision: Precision
    choose: Callable[[RunCounts, Counts, int, int], Coding[C] | None]
    capacity: Callable[[int], int]
    writer: Callable[[C, int], Writer]
