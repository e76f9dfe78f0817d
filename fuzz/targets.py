"""All targets by name."""

from fuzz import codecs, containers, language, parsers
from fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (*parsers.TARGETS, *codecs.TARGETS, *language.TARGETS, *containers.TARGETS)
}
