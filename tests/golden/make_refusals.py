"""Adds chunks to `codecs.json` that reach refusals of the reference decoders which none reached.

A refusal is a place in `tests/reference` that calls `fail` or `Refused`. Candidates are those of
`make_telling.py`, and good golden chunks with a byte, a length or a field of packed bytes changed
by chance; of those that reach a place, the shortest is kept. Run by hand:

    python tests/golden/make_refusals.py --list             which are not reached
    python tests/golden/make_refusals.py SECONDS CODEC ...  looks, so long for each codec or group

What is not reached is refused before (the end of an archive by those who walk it, a frame of
Zstandard by its library), or takes a page of 64 MiB.
"""

import ast
import hashlib
import json
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from types import FrameType

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "support"), str(HERE)]

import make_telling  # noqa: E402
import reference_mutants as mutants  # noqa: E402
import zstandard  # noqa: E402
from codec_cases import CodecCase, read_cases, write_cases  # noqa: E402
from make_codecs import agrees, decoded  # noqa: E402
from reference import circuit, container  # noqa: E402
from reference.reading import Refused  # noqa: E402

Place = tuple[str, int]  # module and line
MAGIC = b"\x28\xb5\x2f\xfd"
MOST = 30_000  # bytes of a chunk that is changed
SECONDS = 0.3  # of a processor for one
LONG = 6000  # characters of a line of the file that a refusal is worth


@cache
def places(module: str) -> dict[Place, range]:
    """The refusals of a module, and the lines of each."""
    tree = ast.parse((HERE.parent / "reference" / f"{module}.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        (module, call.lineno): range(call.lineno, (call.end_lineno or call.lineno) + 1)
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id in ("fail", "Refused")
    }


def place_of(error: BaseException | None) -> set[Place]:
    """The refusals that an error, or one that it was caused by, came through."""
    if error is None:
        return set()
    found, trace = place_of(error.__context__), error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.parent.name == "reference":
            at = trace.tb_lineno
            found |= {place for place, lines in places(path.stem).items() if at in lines}
        trace = trace.tb_next
    return found


def reached_by(case: mutants.Case) -> set[Place]:
    """The refusals that a golden file reaches."""
    try:
        if case.circuit is not None:
            circuit.know(case.circuit)
        container.decode(case.archive, case.base)
        container.read_index(case.archive)
    except Refused as refused:
        return place_of(refused)
    return set()


def missing() -> set[Place]:
    """All refusals that no golden file reaches."""
    modules = {module for names in mutants.CODECS.values() for module in names}
    every = {place for module in modules for place in places(module)}
    for case in mutants.cases():
        if case.error is not None:
            every -= reached_by(case)
    return every


class Slow(Exception):
    """A chunk takes too long."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise Slow


def refusal(case: CodecCase) -> tuple[CodecCase, set[Place]]:
    """A case with the error that it ends in, and where; none if it is good or slow."""
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        decoded(case)
    except Refused as refused:
        bad = replace(case, error=f"{refused.reason.title()}Error", sha256=None)
        return bad, place_of(refused)
    except Exception as error:
        if not isinstance(error, Slow | MemoryError):
            print(f"{case.name}: {type(error).__name__} of the reference: {error}")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return case, set()


# Candidates


def changed(data: bytes, rng: Random) -> bytes:
    """Bytes with some or a field of four changed, cut or longer, or so inside of Zstandard."""
    if not data:
        return b"\0"
    at = min(rng.randrange(len(data)), rng.choice((6, 20, 60, 400, len(data))) - 1)
    way = rng.randrange(12)
    inside = data.find(MAGIC, rng.randrange(len(data)) if rng.random() < 0.5 else 0)
    if inside >= 0 and way < 6:
        return _repacked(data, inside, rng)
    if way == 0:
        return data[: rng.randrange(len(data))]
    if way == 1:
        return data + rng.randbytes(rng.choice((1, 1, 4, 9)))
    if way == 2:
        return data[:at] + data[at + rng.choice((1, 2, 4)) :]
    if way == 3:
        return data[:at] + bytes([rng.choice((0, 1, 128, 255))]) + data[at:]
    if way == 4:
        big = rng.choice((1 << 26, 1 << 24, (1 << 26) + 1, 1 << 31, 2**32 - 1, 0, 1 << 16))
        return data[:at] + big.to_bytes(4, "little") + data[at + 4 :]
    near = (data[at] + 1, data[at] - 1, data[at] ^ 128, 0, 255, 1, data[at] ^ 1 << rng.randrange(8))
    value = rng.choice((*near, rng.randrange(256)))
    return data[:at] + bytes([value & 255]) + data[at + 1 :]


def _repacked(data: bytes, at: int, rng: Random) -> bytes:
    """Data with the frame of Zstandard at a place changed inside, and the length before it."""
    try:
        engine = zstandard.ZstdDecompressor().decompressobj()
        content = engine.decompress(data[at:])
    except zstandard.ZstdError:
        return data
    end = len(data) - len(engine.unused_data)
    new = zstandard.ZstdCompressor().compress(changed(content, rng))
    before = data[:at]
    for width in (4, 2, 1):
        length = (end - at).to_bytes(8, "little")[:width]
        if before.endswith(length) and len(new) < 1 << 8 * width:
            before = before[:-width] + len(new).to_bytes(width, "little")
            break
    return before + new + data[end:]


def varied(case: CodecCase, rng: Random) -> CodecCase:
    """A chunk near another."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        way = rng.random()
        if way < 0.06:
            size = rng.choice((case.size + 1, case.size - 1, 2 * case.size, case.size // 2, 1))
            case = replace(case, size=max(1, size))
        elif way < 0.1 and case.base is not None:
            case = replace(case, base=rng.choice((None, case.base[:-1], case.base[:9], b"")))
        elif way < 0.5 and case.circuit is not None:
            wrong = changed(case.circuit, rng)
            model = case.model[:6] + circuit.know(wrong) + case.model[22:]
            case = replace(case, circuit=wrong, model=model)
        elif way < 0.5:
            case = replace(case, model=case.model[:1] + changed(case.model[1:], rng))
        else:
            case = replace(case, payload=changed(case.payload, rng))
    return replace(case, error=None, sha256=None)


def candidates(codec: int, rng: Random, cases: list[CodecCase]) -> Iterator[CodecCase]:
    """Without end: those near the golden chunks of a codec that are good, and fast."""
    mine = [c for c in cases if c.model[:1] == bytes([codec]) and c.error is None]
    mine = [c for c in mine if len(c.payload) + len(c.model) < MOST and c.size < MOST]
    fast = []
    for case in mine:
        before = time.process_time()
        case.by_reference()
        if time.process_time() - before < SECONDS / 2:
            fast.append(case)
    while fast:
        yield varied(rng.choice(fast), rng)


def look(
    group: str, wanted: set[Place], made: Iterable[CodecCase], until: float
) -> list[CodecCase]:
    """The shortest bad chunks that reach these refusals, as far as there are some."""
    best: dict[Place, tuple[int, CodecCase]] = {}
    told: set[Place] = set()
    for case in made:
        if time.process_time() > until or not wanted:
            break
        bad, found = refusal(case)
        for place in found & wanted:
            length = len(json.dumps(bad.to_json()))
            if length >= best.get(place, (LONG, bad))[0] or len(bad.payload) > bad.size:
                continue
            if not agrees(bad):
                if place not in told:
                    print(f"{place}: the package disagrees: {bad}")
                told.add(place)
                continue
            digest = hashlib.sha256(bad.model + bad.payload).hexdigest()[:8]
            best[place] = length, replace(bad, name=f"refused-{group}-{digest}")
            print(f"{place}: {length}", flush=True)
    return list({case.name: case for _, case in best.values()}.values())


def main() -> None:
    left = missing()
    if sys.argv[1] == "--list":
        print(*(f"{module}.py:{line}" for module, line in sorted(left)), sep="\n")
        return
    signal.signal(signal.SIGVTALRM, _stop)
    seconds, *groups = sys.argv[1:]
    for group in groups:
        cases = read_cases()
        rng, modules = Random(f"refusals {group} {len(cases)}"), {place[0] for place in left}
        if group in make_telling.GROUPS:
            made = make_telling.GROUPS[group](Random(f"telling {group}"))
        else:
            made = candidates(int(group), rng, cases)
            users = mutants._USERS.items()
            modules = {module for module, some in users if some and int(group) in some}
        wanted = {place for place in left if place[0] in modules}
        found = look(group, wanted, made, time.process_time() + float(seconds))
        every = {case.name: case for case in (*found, *read_cases())}
        write_cases(list(every.values()))
        left = left - {place for case in found for place in refusal(case)[1]}
        print(f"{group}: {len(found)}, {len(left)} are left", flush=True)


if __name__ == "__main__":
    main()
