"""All targets by name."""

from fuzz import codecs, containers, parsers
from fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for target in (*parsers.TARGETS, *codecs.TARGETS, *containers.TARGETS)
}
