"""Mutants of the reference decoders that nothing can tell from these, each with its reason.

`reference_mutants.py` counts them apart, and complains if one does not exist, or if a golden
archive tells it.
"""

from typing import NamedTuple


class Equivalent(NamedTuple):
    """Mutants of one line: the changes are written as by `reference_mutants.py --survivors`."""

    module: str
    text: str  # the line, without what is around it
    changes: tuple[str, ...]  # "(1)" behind one that the line has several of: the first of them
    why: str


EQUIVALENT = (
    Equivalent(
        "byte_cm",
        "twice = min(pair_of_counts) > 0 and sum(pair_of_counts) <= 17",
        (
            "min(pair_of_counts) > 0 -> min(pair_of_counts) >= 0",
            "0 -> -1",
            "sum(pair_of_counts) <= 17 -> sum(pair_of_counts) < 17",
            "17 -> 18",
            "17 -> 16",
        ),
        "of such pairs one of both states is never reached, and the order of the others stays",
    ),
    Equivalent(
        "byte_cm",
        "more, less = (more * (less - 1) + less // 2) // less, less - 1",
        ("2 -> 3",),
        "gives the same states after all 219 that are reached: all pairs of states were followed",
    ),
    Equivalent(
        "byte_cm",
        "s, o = (more, less) if s >= o else (less, more)",
        ("s >= o -> s > o",),
        "no two equal counts that are reached make a pair that does not exist",
    ),
    Equivalent(
        "byte_cm",
        "row = [SQUASH[(4096 * i + 15) // 31] for i in range(31)] + [SQUASH[4095]]",
        ("4095 -> 4094",),
        "the last two entries of the table are equal",
    ),
    Equivalent(
        "float_cm",
        "u = clip(((x - self.mean) * self.precision) >> 15, -4096, 4095) + 4096",
        ("4096 -> 4095 (1)", "4095 -> 4094"),
        "the table is flat at both ends",
    ),
    Equivalent(
        "float_cm",
        "x = s * INVERSE[self.octaves & 7]",
        ("7 -> 6",),
        "octaves are even",
    ),
)
