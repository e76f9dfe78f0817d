"""Planar chunks taken apart for decoders of many threads, with entry points and without.

An input is a case of `fuzz.codecs` whose base is the payload of a POINTS frame, or nothing.
"""

from random import Random
from typing import Any

import numpy as np
import xxhash
from helpers import bits_of, random_state

from densor.codec.planes.decoder import PlanesDecoder
from densor.codec.planes.params import parse
from densor.codec.planes.units import HUFFMAN, CodedPlane, UnitParser, entry_points
from densor.errors import DensorError
from densor.gpu import samples
from fuzz.codecs import Bytes, Case, mutate_case, unpack
from fuzz.target import Target, Wrong


def run(data: bytes) -> None:
    """Without points, just what the CPU decodes is taken; with them, what is in bounds."""
    case = unpack(data)
    payload = np.frombuffer(case.payload, np.uint8)
    model = parse(case.model)
    size = case.size // model.layout.size * model.layout.size
    points = np.frombuffer(case.base, np.uint8) if case.base else None
    right = None
    if points is None:
        try:
            PlanesDecoder(model).decode(payload, np.empty(size, np.uint8))
            right = True
        except DensorError:
            right = False
    try:
        planes = UnitParser(model).parse(payload, size // model.layout.size, points)
    except DensorError:
        if right:
            raise Wrong("units of a chunk that the CPU decodes are refused") from None
        raise
    if right is False:
        raise Wrong("a chunk that the CPU refuses has units")
    for plane in planes:
        if isinstance(plane, CodedPlane):
            _check(plane, size // model.layout.size)


def _check(plane: CodedPlane, elements: int) -> None:
    if sum(segment.end - segment.begin for segment in plane.segments) != elements:
        raise Wrong("segments do not hold all elements")
    for segment in plane.segments:
        if segment.kind != HUFFMAN:
            continue
        at = np.append(segment.entries, segment.stop).astype(np.int64)
        if segment.entries.size != segment.units or (np.diff(at) < 0).any():
            raise Wrong("entry points are not in order, or too few")
        if at[-1] > 8 * plane.section.size:
            raise Wrong("an entry point lies outside of its section")


def mutate(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes a case; mostly the hash in the points is made right again."""
    case = unpack(mutate_case(data, rng, others))
    if case.base and rng.random() < 0.9:
        right = xxhash.xxh3_64_intdigest(case.payload).to_bytes(8, "little")
        case = case._replace(base=right + case.base[8:])
    return case._replace(size=case.size - 1).pack()


def seeds() -> list[bytes]:
    """Chunks of all layouts with units, classes of all kinds, with their points and without."""
    rng = random_state("fuzz units")
    rows: Bytes = samples.weights("BF16", 60 * 100, 100)
    wild = bits_of("random", 2, 2000, rng).view(np.uint8)
    few = rng.integers(0, 3, 4 * 1500, np.uint8) * np.uint8(85)
    made = [
        samples.planar(rows, "BF16", 100, 2000, level=1),
        samples.planar(np.concatenate([rows, wild, np.repeat(wild[:2], 900)]), "BF16", 50, level=6),
        samples.planar(samples.weights("F16", 3000), "F16"),
        samples.planar(few, "F32", 70),
        samples.planar(samples.weights("F8_E4M3", 3000), "F8_E4M3"),
    ]
    found = []
    for packed in made:
        for chunk in packed.chunks[:2]:
            points = entry_points(chunk.model, chunk.payload, chunk.size)
            for base in (b"", points or b""):
                size = chunk.size - 1  # `unpack` adds 1
                found.append(Case(chunk.model, size, base, chunk.payload.tobytes()).pack())
    return found


TARGETS = (Target("units", run, seeds, mutate, most_memory=1 << 25),)
