"""All targets by name."""

from fuzz import (
    chunks,
    codecs,
    containers,
    derived,
    finder,
    language,
    large_headers,
    large_indexes,
    parsers,
    round_trip,
    snapshots,
    spans,
    steps,
    training,
    units,
)
from fuzz.target import Target

_ALL = (
    *parsers.TARGETS,
    *codecs.TARGETS,
    *units.TARGETS,
    *spans.TARGETS,
    *steps.TARGETS,
    *language.TARGETS,
    *containers.TARGETS,
    *large_headers.TARGETS,
    *large_indexes.TARGETS,
    *chunks.TARGETS,
    *derived.TARGETS,
    *finder.TARGETS,
    *training.TARGETS,
    *snapshots.TARGETS,
    *round_trip.TARGETS,
)
TARGETS: dict[str, Target] = {target.name: target for target in _ALL}
assert len(TARGETS) == len(_ALL)  # none hides another
