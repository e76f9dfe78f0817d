"""Makes `archives.json`: small archives at the bounds of containers, good and bad.

Of the candidates in `archive_edges.py`, those are kept that reach other lines of the reference
decoder than the ones before, or end otherwise, some of each sort, and those at bounds. What the
package sees otherwise is named, and left out: archives with two faults. Cases are added and never
changed: what is in the file stays. Run by hand:

    python tests/golden/make_archives.py [GROUP ...]
"""

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "support"), str(HERE)]

import archive_edges  # noqa: E402
import reference_mutants as mutants  # noqa: E402
from archive_cases import ArchiveCase, read_archives, write_archives  # noqa: E402

import densor  # noqa: E402

MODULES = frozenset((*mutants.CODECS["container"], "step"))
MOST_TRIED = 4000  # of a group
LONGEST = 1300  # bytes of an archive of a derived file


def sorts(group: str) -> Iterator[ArchiveCase]:
    """The candidates of a group that are kept, with what becomes of them by the reference."""
    make, most = archive_edges.GROUPS[group]
    every = list(make(Random("telling container")))
    if len(every) > 2 * MOST_TRIED:
        every = Random(1).sample(every, MOST_TRIED)
    seen: set[bytes] = set()
    counts: Counter[object] = Counter()
    for one in every:
        digest = hashlib.sha256(one.archive + (one.base or b"-")).digest()
        if digest in seen or (group == "derived_files" and len(one.archive) >= LONGEST):
            continue
        seen.add(digest)
        case = mutants.as_case(one)
        lines = mutants.lines_of(case, MODULES)
        found = mutants.outcome(case)
        if isinstance(found, Exception):
            print(f"{one.name}: {found!r} of the reference")
            continue
        place = one.name.split("-")[0] if group == "indices" else ""
        key = place, found if isinstance(found, str) else None, frozenset(lines.items())
        counts[key] += 1
        if counts[key] <= most:
            number = sum(min(most, n) for n in counts.values())
            yield with_outcome(one, f"{group}-{number}-{one.name}"[:60], found)


def with_outcome(one: ArchiveCase, name: str, found: list[str] | str) -> ArchiveCase:
    """A case with its name and what becomes of it."""
    if isinstance(found, str):
        return replace(one, name=name, error=found)
    return replace(one, name=name, sha256=found[0])


def at_bounds(group: str) -> Iterator[ArchiveCase]:
    """Those of `ALWAYS`, likewise."""
    pattern, longest, most = archive_edges.ALWAYS.get(group, ("", 0, 0))
    make, _ = archive_edges.GROUPS[group]
    every = [
        one
        for one in make(Random("telling container"))
        if re.search(pattern, one.name) and len(one.archive) <= longest
    ]
    for number, one in enumerate(Random(2).sample(every, min(most, len(every)))):
        found = mutants.outcome(mutants.as_case(one))
        if isinstance(found, Exception):
            print(f"{one.name}: {found!r} of the reference")
            continue
        yield with_outcome(one, f"{group}-edge-{number}-{one.name}"[:60], found)


def agrees(case: ArchiveCase) -> bool:
    """Whether the package makes the same of it."""
    try:
        found = case.by_package()
    except densor.DensorError as error:
        return type(error).__name__ == case.error
    return case.lenient if case.error else hashlib.sha256(found).hexdigest() == case.sha256


def main() -> None:
    known = {case.name: case for case in read_archives()}
    archives = {(case.archive, case.base) for case in known.values()}
    for group in sys.argv[1:] or archive_edges.GROUPS:
        for case in (*sorts(group), *at_bounds(group)):
            if (case.archive, case.base) in archives:
                continue
            archives.add((case.archive, case.base))
            if agrees(case):
                known.setdefault(case.name, case)
            else:
                print(f"{case.name}: {case.error}; the package disagrees")
        print(f"{group}: {len(known)} cases")
        write_archives(list(known.values()))


if __name__ == "__main__":
    main()
