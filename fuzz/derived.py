"""Recipes of files that follow from others: parsed, and part of what they make."""

import json
from functools import cache
from random import Random
from typing import Any

import numpy as np
import quantised
from reference import derived as reference
from reference.reading import Refused

from densor.errors import DensorError
from densor.formats.container import derived
from densor.formats.container.entry import BaseRef
from densor.runtime.types import Bytes
from fuzz.mutate import mutated
from fuzz.target import Target, Wrong

_MOST = 1 << 11  # bytes of a base that are made
_FORMS = (*reference.WIDTHS, *reference.BLOCKS)


@cache
def _entries() -> dict[str, bytes]:
    """What may be made from: few numbers of all sizes, some of them infinite or none."""
    bits = np.random.default_rng(7).integers(0, 256, 4096, np.uint8)
    scales = np.random.default_rng(8).integers(0, 256, 600, np.uint8).tobytes()
    return {"model": quantised.model(), "bits": bits.tobytes(), "": b"", derived.SCALES: scales}


def run(content: bytes) -> object:
    """What is made does not depend on how much is asked for, and is what the reference makes."""
    try:
        right = reference.recipes(content)
    except Refused:
        right = None
    found = derived.parse(content)
    if right is None or [recipe.to_json() for recipe in found] != [_plain(r) for r in right]:
        raise Wrong("the reference reads other recipes")
    for recipe, alike in zip(found[:2], right, strict=False):
        _compare(recipe, alike)
    return len(found), {tensor.form for recipe in found for tensor in recipe.tensors}


def _plain(recipe: dict[str, Any]) -> dict[str, Any]:
    return {key: recipe[key] for key in ("size", "digest", "tensors")}


def _compare(recipe: derived.Recipe, alike: dict[str, Any]) -> None:
    def read(name: str, begin: int, end: int) -> Bytes:
        part = np.frombuffer(_entries()[name][begin:end], np.uint8)
        if part.size != end - begin:
            raise Wrong("a read beyond the end of an entry")
        return part

    def find(name: str) -> int | None:
        return len(_entries()[name]) if name in _entries() else None

    base = derived.DerivedBase(lambda: [recipe], read, find)
    begin = recipe.tensors[0].offset if recipe.tensors else 0
    end = min(recipe.size, begin + _MOST)
    try:
        source = base.matching(BaseRef(*recipe[:3]))
    except DensorError:
        source = None
    try:
        right = reference.part(alike, _entries(), begin, end)
    except Refused:
        if source is not None:
            raise Wrong("taken, though the reference refuses it") from None
        return
    if source is None:
        raise Wrong("refused, though the reference takes it")
    made = source.read_at(begin, end - begin).tobytes()
    middle = (begin + end) // 2
    parts = source.read_at(begin, middle - begin), source.read_at(middle, end - middle)
    if made != right or b"".join(part.tobytes() for part in parts) != right:
        raise Wrong("other bytes than the reference makes")


def mutate(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes a value, mostly for one that is allowed by itself; seldom bytes as they are."""
    try:
        recipes = json.loads(data)
        tensors = [tensor for recipe in recipes["files"] for tensor in recipe["tensors"]]
        tensor = rng.choice(tensors)
    except (ValueError, KeyError, TypeError, IndexError):
        return mutated(data, rng, others)
    if rng.random() < 0.1:
        return mutated(data, rng, others)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if rng.random() < 0.1:
            tensor[8:] = [] if len(tensor) > 8 else [rng.randrange(600)]
        place = rng.randrange(len(tensor))
        choices: list[object] = [0, 1, 2, rng.randrange(600), 256 * rng.randrange(4), 1 << 40, -1]
        if place == 1:
            choices = [*_FORMS, "Q8_K", None, []]
        elif place == 6:
            choices = [*reference.WIDTHS, "F64", [], {}]
        elif place == 4:
            choices = [*_entries(), "none", 5]
        tensor[place] = rng.choice(choices)
    return json.dumps(recipes).encode()


def seeds() -> list[bytes]:
    """Recipes of each type, with heads and without, of one tensor or two."""
    found = []
    for number, form in enumerate(_FORMS):
        first = [3, form, 4, 256, "model", 200, ("BF16", "F16")[number % 2], number % 3]
        second = [40_000, form, 2, 512, "bits", 0, "F32", 0]
        tensors = [first, second] if number % 2 else [second]
        if form in reference.RECORDS:
            second.append(7 * number)
            tensors.append([60_000, form, 1, 256, "model", 200, "BF16", 0, 0])
        files = [{"size": 1 << 16, "digest": [1, "00" * 16], "tensors": tensors}]
        found.append(json.dumps({"files": files}).encode())
    return found


TARGETS = (Target("derived", run, seeds, mutate, most_memory=1 << 25),)
