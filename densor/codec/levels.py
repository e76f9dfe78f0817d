"""What each level does. Levels differ in the writer only: one reader reads them all.

A level, and what is derived from it for some data, is settled here; nothing alters it on its way.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from densor.errors import ArgumentError

DEFAULT_LEVEL = 3
SLOWEST_ZSTD = 19
MAX_BYTES_OF_LITTLE = 1 << 20  # of an image or a table, from which simpler models may win


@dataclass(frozen=True)
class Level:
    """Settings of a level."""

    classes: int  # codes per plane and model, at most
    zstd: int  # Zstandard level, for bytes and planes that repeat
    try_zstd: bool  # whether planes of numbers are tried with Zstandard too
    floats: Literal["planes", "matrix_spans", "scale_context", "float_cm"] = (
        "planes"  # the codec of floating-point numbers; spans of scale contexts where these suit
    )
    planes: Literal["huffman", "rans"] = "huffman"  # how byte planes of everything else are coded
    bytes: Literal["zstd", "light", "full"] = "zstd"  # the codec of plain bytes, or its model
    spans: bool = False  # whether the fast encoder of planes is taken where it can be
    types: bool = True  # whether element types are looked for in plain bytes
    images: Literal["gradient", "light", "full"] = "gradient"  # by gradients, or the mixing model
    streams: Literal["none", "images", "all"] = "none"  # which DEFLATE streams are undone
    tables: int = 0  # contexts that are mixed for a column of a table, or the fast way
    sound: Literal["lanes", "light", "full"] = "lanes"  # fixed predictors, or those that adapt
    tokens: bool = False  # whether integers are looked at whether they are tokens
    latents: bool = False  # whether columns of tables are also coded under latent classes


def _balanced(zstd: int) -> Level:
    """Contexts and rANS, where size counts as much as speed."""
    return Level(
        classes=8,
        zstd=zstd,
        try_zstd=True,
        floats="scale_context",
        planes="rans",
        bytes="light",
        images="light",
    )


_LEVELS = {
    1: Level(classes=1, zstd=1, try_zstd=False, spans=True),
    2: Level(classes=2, zstd=2, try_zstd=True, spans=True),
    3: Level(classes=4, zstd=3, try_zstd=True, spans=True),
    4: Level(classes=4, zstd=6, try_zstd=True),
    5: Level(classes=4, zstd=9, try_zstd=True, bytes="light", images="light"),
    6: _balanced(12),
    7: _balanced(15),
    8: _balanced(17),
    9: Level(
        classes=8,
        zstd=SLOWEST_ZSTD,
        try_zstd=True,
        floats="float_cm",
        planes="rans",
        bytes="full",
        images="full",
    ),
}


@cache
def level_settings(level: int, text: bool = False, latents: bool = False) -> Level:
    """The settings of a level from 1 (fastest) to 9 (smallest); ArgumentError otherwise.

    `text`: plain bytes by context mixing whatever the level. `latents`: tables also under latent
    classes.
    """
    settings = _LEVELS.get(level)
    if settings is None:
        raise ArgumentError(f"level must be from 1 to 9, not {level!r}")
    settings = replace(
        settings,
        images="gradient" if level < 5 else "light" if level < 9 else "full",
        sound="lanes" if level < 5 else "light" if level < 9 else "full",
        streams="none" if level < 3 else "images" if level < 5 else "all",
        tables=0 if level < 5 else 2 if level < 7 else 4 if level < 9 else 12,
        tokens=level >= 5,
        latents=latents,
    )
    return replace(settings, bytes="full", types=False) if text else settings


@cache
def beside_tensors(level: Level) -> Level:
    """A level for a file that holds tensors: its other bytes are not to be slower than those."""
    return replace(level, bytes="zstd") if level.bytes == "light" else level


@cache
def beside_language_model(level: Level) -> Level:
    """A level for bytes under a language model, next to which nothing else takes time."""
    return replace(level, bytes="full", zstd=max(level.zstd, SLOWEST_ZSTD))


@cache
def with_huffman_codes(level: Level) -> Level:
    """A level for batches so small that the tables of rANS count."""
    return replace(level, planes="huffman")


@cache
def with_rans(level: Level) -> Level:
    """A level for batches so few that the time of rANS does not count."""
    return replace(level, planes="rans")


@cache
def with_matrix_spans(level: Level) -> Level:
    """A level for floats whose matrices are known, under scale contexts where that is fast.

    No other program reads what is written, such as one that knows byte planes alone.
    """
    return replace(level, floats="matrix_spans") if level.floats == "planes" else level


@cache
def with_few_codes(level: Level) -> Level:
    """Likewise, with half the codes for a plane, as lower levels have."""
    return replace(with_huffman_codes(level), classes=max(1, level.classes // 2))


@cache
def with_fewer_contexts(level: Level) -> tuple[Level, ...]:
    """Levels whose models of images and tables are simpler.

    These win where there is little to learn from.
    """
    fewer = [replace(level, images="light", tables=min(level.tables, 4))]
    fewer.append(replace(level, images="gradient", tables=min(level.tables, 2)))
    return tuple(fewer[{"full": 0, "light": 1, "gradient": 2}[level.images] :])


@cache
def with_plain_tables(level: Level) -> Level:
    """A level that takes tables as the fastest ones do, which wins where they are short."""
    return replace(level, tables=0)


@cache
def with_simpler_sound(level: Level) -> tuple[Level, ...]:
    """Levels that take sound as lower ones do, whose ways take little time beside this one's."""
    ways: tuple[Literal["light", "lanes"], ...] = ("light", "lanes")
    first = {"full": 0, "light": 1, "lanes": 2}[level.sound]
    return tuple(replace(level, sound=way) for way in ways[first:])


@cache
def of_low_halves(level: Level) -> Level:
    """A level for the lower halves of numbers of 4 bytes, in which nothing repeats.

    They are coded by rANS, as the upper ones under scale contexts.
    """
    return replace(level, try_zstd=False, planes="rans")
