"""How much of the reference decoders the golden archives pin down: mutation testing, by hand.

    python tests/support/reference_mutants.py [CODEC ...] [--survivors] [--sample N] [--seconds S]

In the modules of a codec's decoder each integer is made one more and one less, and each comparison
is swapped with its neighbour (`<` with `<=`, `==` with `!=`), one at a time; with `--operators`,
also `+` with `-`, `<<` with `>>`, `//` with `%`, `and` with `or`, `min` with `max` and the like,
and signs, checks and calls of statements are left out. A mutant survives if every golden archive
still gives what it should, data or error. Functions that only write are left out, and so are names
of types and indices into strings of messages. A mutant is tried on those archives alone that reach
its statement; what is run at import, on all. What nothing can tell by the reasons of
`equivalent_mutants.py` is counted apart. `--sample` draws so many mutants of each module by chance,
the same ones for the same seed and text; `--seconds` leaves out archives that the decoder takes
longer for; what lives after `--patience` seconds counts as surviving. A module may be named
instead of a codec.
"""

import argparse
import ast
import functools
import hashlib
import importlib
import json
import math
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from types import CodeType, FrameType
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from archive_cases import ArchiveCase, digest_of, error_of, listed, read_archives  # noqa: E402
from codec_cases import CodecCase, read_cases  # noqa: E402
from equivalent_mutants import EQUIVALENT  # noqa: E402
from reference.container import decode  # noqa: E402
from reference.reading import Refused  # noqa: E402
from reference.short_form import in_ordinary_form  # noqa: E402

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden"
CODECS = {
    "container": ("frames", "entries", "index", "container", "reading", "short_form"),
    "step": ("step",),
    "derived": ("derived",),
    "2 huffman": ("planes", "huffman"),
    "3 scale_context": ("scale_context",),
    "4 float_cm": ("float_cm",),
    "5 blocks": ("blocks", "parts", "joined"),
    "6 sparse": ("sparse", "parts"),
    "7 delta": ("delta", "few"),
    "8 planes_rans": ("planes",),
    "9 byte_cm": ("byte_cm",),
    "11 image": ("image", "image_residual"),
    "12 audio": ("audio", "audio_cascade", "flac"),
    "13 table": ("table",),
    "14 tokens": ("tokens", "tokens_mixed"),
    "18 and 20 token ranks": ("token_ranks",),
    "15 deflate": ("deflate", "parts"),
    "16 circuit": ("circuit",),
    "17 pages": ("pages", "lz4"),
    "19 notation": ("notation",),
    "rans": ("rans",),
    "arithmetic": ("arithmetic",),
}
WRITERS = {
    *("encode", "pack", "pack_model", "chunk", "write", "even", "put_frequencies"),
    *("BitWriter", "Chunk"),
}
SECONDS = 2  # of a processor for a golden archive under a mutant, and ten times its usual time
MEMORY = 4 << 30
SLOW = {4, 9, 10, 11, 12, 14, 15, 18}  # codecs that are left out for modules of the container

_SWAPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
_OTHER: dict[type[ast.AST], Callable[[], ast.operator | ast.boolop]] = {  # operators
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
_EXTREMES = {"min": "max", "max": "min"}


class Case(NamedTuple):
    """A golden archive: what its entries hold by SHA-256, or the error that it ends in."""

    name: str
    archive: bytes
    good: list[str] | None
    error: str | None
    base: bytes | None = None
    circuit: bytes | None = None  # that must be known
    whole: bool = False  # whether `good` has one digest, of all that tells of the entries
    seconds: float = 0.0  # of a processor that the decoder takes


def cases() -> list[Case]:
    """All golden archives."""
    expected = json.loads((GOLDEN / "expected.json").read_text())
    found = []
    for name, entries in expected["good"].items():
        archive = (GOLDEN / f"{name}.densor").read_bytes()
        found.append(Case(name, archive, list(entries.values()), None))
    for name, error in expected["bad"].items():
        found.append(Case(name, (GOLDEN / f"{name}.densor").read_bytes(), None, error))
    for name in ("grey", "colour"):
        folder = GOLDEN / "circuit"
        archive = (folder / f"{name}.densor").read_bytes()
        circuit = decode((folder / f"{name}-model.densor").read_bytes())[0].data
        case = Case(f"circuit-{name}", archive, None, None, circuit=circuit)
        digest = outcome(case)
        assert isinstance(digest, list)
        found.append(case._replace(good=digest))
    found += map(as_case, [*read_cases(), *read_archives()])
    return found


def as_case(one: CodecCase | ArchiveCase) -> Case:
    """One of those in JSON."""
    good = None if one.sha256 is None else [one.sha256]
    if isinstance(one, ArchiveCase):
        return Case(one.name, one.archive, good, one.error, one.base, whole=True)
    return Case(one.name, one.archive(), good, one.error, one.base, one.circuit)


def reaching(modules: Iterable[str]) -> list[Case]:
    """The golden archives that some of these modules may decode."""
    every = cases()
    some = [_reaching(module, every) for module in modules]
    return [case for case in every if any(case in each for each in some)]


class Mutant(NamedTuple):
    """A module with one change."""

    module: str
    line: int
    change: str
    lines: range | None  # of its statement; None if it is run at import
    place: tuple[str, int, int]  # as in `places`

    def code(self) -> CodeType:
        """The module, changed."""
        module, number, change = self.place
        tree, nodes = _parsed(module)
        with _changed(nodes[number][0], change):
            return compile(tree, f"{module}.py", "exec")


@functools.cache
def _parsed(module: str) -> tuple[ast.Module, list[tuple[ast.AST, range | None]]]:
    """A module, and the nodes of its decoder that can be changed."""
    tree = _tree(module)
    return tree, [found for found in _in_decoders(tree) if _changes(found[0], True)]


@contextmanager
def _changed(node: ast.AST, change: int) -> Iterator[None]:
    """A node is changed meanwhile."""
    before = {name: list(v) if isinstance(v, list) else v for name, v in vars(node).items()}
    _changes(node, True)[change]()
    yield
    vars(node).update(before)


def places(module: str, operators: bool = False) -> list[tuple[str, int, int]]:
    """All mutants of a module of `reference`: module, number of the node, number of the change."""
    nodes = [(n, len(_changes(node, operators))) for n, (node, _) in enumerate(_parsed(module)[1])]
    return [(module, n, c) for n, count in nodes for c in range(count)]


def drawn(
    module: str, most: int | None, seed: str, operators: bool = False
) -> list[tuple[str, int, int]]:
    """All mutants of a module, or so many of them by chance."""
    every = places(module, operators)
    if most is None or len(every) <= most:
        return every
    return sorted(Random(seed + module).sample(every, most))


def equivalent(module: str) -> set[tuple[str, int, int]]:
    """The places of `equivalent_mutants.py`; SystemExit if there is one that does not exist."""
    wanted = {(e.text, change) for e in EQUIVALENT if e.module == module for change in e.changes}
    if not wanted:
        return set()
    text = (TESTS / "reference" / f"{module}.py").read_text().splitlines()
    by_name: dict[tuple[str, str], list[tuple[str, int, int]]] = {}
    for place in places(module, True):
        one = mutant(*place)
        by_name.setdefault((text[one.line - 1].strip(), one.change), []).append(place)
    found = {
        (line, change if len(same) == 1 else f"{change} ({k})"): place
        for (line, change), same in by_name.items()
        for k, place in enumerate(same, 1)
    }
    if not wanted <= found.keys():
        raise SystemExit(f"{module}: no such mutant: {sorted(wanted - found.keys())}")
    return {found[name] for name in wanted}


def _tree(module: str) -> ast.Module:
    return ast.parse((TESTS / "reference" / f"{module}.py").read_text())


def mutant(module: str, number: int, change: int) -> Mutant:
    """One of `places`."""
    node, lines = _parsed(module)[1][number]
    before, _, _ = ast.unparse(node).partition("\n")  # the head of an `if`
    with _changed(node, change):
        after, _, _ = ast.unparse(node).partition("\n")
        told = f"{before} -> {after}"
    return Mutant(module, getattr(node, "lineno", 0), told, lines, (module, number, change))


Found = Iterator[tuple[ast.AST, range | None]]


def _in_decoders(tree: ast.AST, lines: range | None = None, inside: bool = False) -> Found:
    """The nodes of what decodes, in order, and the lines of the statements of functions.

    Not those of types, f-strings and messages.
    """
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and child.name in WRITERS:
            continue
        if isinstance(child, ast.JoinedStr):
            continue
        here = _lines(child) if inside and isinstance(child, ast.stmt) else lines
        if isinstance(child, ast.AnnAssign):
            if child.value is not None:
                yield child.value, here
                yield from _in_decoders(child.value, here, inside)
            continue
        if isinstance(child, ast.FunctionDef):
            for default in child.args.defaults:
                yield default, here
                yield from _in_decoders(default, here, inside)
            for statement in child.body:
                yield statement, _lines(statement)
                yield from _in_decoders(statement, _lines(statement), True)
            continue
        yield child, here
        yield from _in_decoders(child, here, inside)


def _lines(statement: ast.stmt) -> range:
    """Those of a statement, without the statements in it."""
    body = getattr(statement, "body", None)
    end = body[0].lineno if body else (statement.end_lineno or statement.lineno) + 1
    return range(statement.lineno, max(end, statement.lineno + 1))


def _changes(node: ast.AST, operators: bool = False) -> list[Callable[[], None]]:
    """What can be done to a node; with `operators` also to others than integers and comparisons."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        number = node.value
        return [partial(setattr, node, "value", number + d) for d in (1, -1)]
    if isinstance(node, ast.Compare):
        return [
            partial(node.ops.__setitem__, at, _SWAPPED[type(op)]())
            for at, op in enumerate(node.ops)
            if type(op) in _SWAPPED
        ]
    return _operators(node) if operators else []


def _operators(node: ast.AST) -> list[Callable[[], None]]:
    """Another operator, the other extreme, no sign, a check or a call that is not made."""
    if isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in _OTHER:
        return [partial(setattr, node, "op", _OTHER[type(node.op)]())]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        return [partial(setattr, node, "op", ast.UAdd())]
    if isinstance(node, ast.Name) and node.id in _EXTREMES:
        return [partial(setattr, node, "id", _EXTREMES[node.id])]
    if isinstance(node, ast.If):
        return [partial(setattr, node, "test", ast.copy_location(ast.Constant(False), node.test))]
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return [partial(setattr, node, "value", ast.copy_location(ast.Constant(None), node.value))]
    return []


def killed_by(mutant: Mutant, every: list[Case], patience: float = math.inf) -> int | None:
    """The first golden archive that tells the mutant from the decoder; in a process of its own.

    -1 if it cannot be imported; None if none tells it, or none of those tried in so many seconds.
    """
    if install(mutant):
        return -1
    for number, case in enumerate(every):
        if not as_expected(case):
            return number
        if time.process_time() > patience:
            break
    return None


def as_expected(case: Case) -> bool:
    """Whether the decoder, as it is imported, makes of an archive what it should.

    Ends the process if it takes much longer than it should.
    """
    signal.setitimer(signal.ITIMER_PROF, SECONDS + 10 * case.seconds if case.seconds else 0)
    found = outcome(case)
    return found == case.good if case.error is None else found == case.error


@functools.cache
def depending_on(module: str) -> frozenset[str]:
    """The modules that import from one, in however many steps, and itself."""
    found, before = {module}, 0
    while len(found) > before:
        before = len(found)
        for path in (TESTS / "reference").glob("*.py"):
            for node in ast.walk(_tree(path.stem)):
                if not isinstance(node, ast.ImportFrom) or node.module is None:
                    continue
                named = {alias.name for alias in node.names}
                if node.module.removeprefix("reference.") in found or (
                    node.module == "reference" and named & found
                ):
                    found.add(path.stem)
    return frozenset(found)


def outcome(case: Case) -> list[str] | str | Exception:
    """What the decoder, as it is imported, makes of an archive: digests, or an error's name."""
    container = importlib.import_module("reference.container")
    try:
        if case.circuit is not None:
            importlib.import_module("reference.circuit").know(case.circuit)
        entries = container.decode(case.archive, case.base)
        container.read_index(case.archive)
        if case.whole:
            return [digest_of(listed([(e.name, e.kind, *e.hash) for e in entries]))]
        return [hashlib.sha256(entry.data).hexdigest() for entry in entries]
    except importlib.import_module("reference.reading").Refused as refused:
        return error_of(refused.reason)
    except Exception as error:
        return error


def install(mutant: Mutant) -> str | None:
    """Makes the decoder of this process the mutant; returns the error that this ends in."""
    package = importlib.import_module("reference")
    for name in depending_on(mutant.module):
        sys.modules.pop(f"reference.{name}", None)
        vars(package).pop(name, None)
    try:
        spec = importlib.util.find_spec(f"reference.{mutant.module}")
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[f"reference.{mutant.module}"] = module
        setattr(package, mutant.module, module)
        exec(mutant.code(), module.__dict__)
        importlib.import_module("reference.container")
    except Exception as error:
        return f"import: {error}"
    return None


def _survives(mutant: Mutant, every: list[Case], patience: float) -> bool:
    """Whether no archive tells it; tried in a fork with limits, without harm to this process."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        killer = killed_by(mutant, every, time.process_time() + patience)
        if killer is not None and killer >= 0:
            os.write(there, every[killer].name.encode())
        os._exit(0 if killer is None else 1)
    os.close(there)
    _, status = os.waitpid(child, 0)
    with open(here, "rb") as pipe:
        _KILLERS[pipe.read().decode()] += 1
    return status == 0


_KILLERS: Counter[str] = Counter()  # archives, and how many mutants each has told


def _judge(task: tuple[str, int, int], patience: float) -> tuple[str, int, str, bool]:
    one = mutant(*task)
    reached = [
        case
        for case, lines in _OF[one.module]
        if one.lines is None or not lines.isdisjoint(one.lines)
    ]
    reached.sort(key=lambda case: -_KILLERS[case.name] / (0.01 + case.seconds))
    return one.module, one.line, one.change, _survives(one, reached, patience)


_OF: dict[str, list[tuple[Case, frozenset[int]]]] = {}  # and which lines each reaches


class _Lines:
    """Which lines of modules are run."""

    def __init__(self, modules: frozenset[str]) -> None:
        self._modules = modules
        self.found: dict[str, set[int]] = {}  # by module
        self._open: dict[CodeType, set[int]] = {}  # those of a function that were not run yet

    def enter(self, frame: FrameType, event: str, _: Any) -> Any:
        """For `sys.settrace`."""
        code = frame.f_code
        if code not in self._open:
            path = Path(code.co_filename)
            mine = path.parent.name == "reference" and path.stem in self._modules
            self._open[code] = {line for *_, line in code.co_lines() if line and mine}
        if not self._open[code]:
            return None
        self._seen(frame)
        return self._line

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        self._seen(frame)
        return self._line

    def _seen(self, frame: FrameType) -> None:
        lines = self._open[frame.f_code]
        if frame.f_lineno in lines:
            lines.remove(frame.f_lineno)
            self.found.setdefault(Path(frame.f_code.co_filename).stem, set()).add(frame.f_lineno)
        if not lines:
            frame.f_trace_lines = False


def lines_of(case: Case, only: frozenset[str]) -> dict[str, frozenset[int]]:
    """The lines of these modules of the decoder that a case reaches."""
    _forget()
    lines = _Lines(only)
    sys.settrace(lines.enter)
    try:
        outcome(case)
    finally:
        sys.settrace(None)
    return {name: frozenset(found) for name, found in lines.found.items()}


def _forget() -> None:
    """What the decoder keeps, so that each case is run as if it were the first."""
    modules = [module for name, module in sys.modules.items() if name.startswith("reference.")]
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, functools._lru_cache_wrapper):
                value.cache_clear()


def _studied(
    case: Case, only: frozenset[str], most: float
) -> tuple[Case, dict[str, frozenset[int]]] | None:
    """A case with the time that it takes, and its lines; RuntimeError if the decoder is wrong.

    None if it takes more than `most` seconds.
    """
    _forget()
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, most)
        outcome(case)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        return None
    begin = time.process_time()
    if not as_expected(case):
        raise RuntimeError(f"the decoder itself does not read {case.name}")
    return case._replace(seconds=time.process_time() - begin), lines_of(case, only)


_SAID = {"derived": b"densor.derived"}  # by module, what is in the archives that reach it
_USERS: dict[str, set[int] | None] = {  # by module, the codecs whose archives reach it
    "planes": {2, 3, 5, 6, 8},
    "huffman": {2, 3, 5, 6},
    "scale_context": {3, 5, 6},
    "float_cm": {4},
    "blocks": {5},
    "joined": {5},
    "parts": {5, 6},
    "sparse": {6},
    "delta": {7},
    "few": {7},
    "byte_cm": {9},
    "image": {11},
    "image_residual": {11},
    "audio": {12},
    "audio_cascade": {12},
    "flac": {12},
    "table": {13},
    "tokens": {14},
    "tokens_mixed": {14},
    "token_ranks": {18, 20},
    "deflate": {15},
    "circuit": {16},
    "pages": {17},
    "lz4": {17},
    "notation": {19},
    "rans": {3, 5, 6, 7, 8},
    "arithmetic": {4, 9},
}


def _reaching(module: str, every: list[Case]) -> list[Case]:
    """The archives that a module decodes; for those of the container, all without slow codecs."""
    found = []
    for case in every:
        if _SAID.get(module, b"") not in case.archive:
            continue
        codecs = set(_codecs(case.archive))
        users = _USERS.get(module)
        if codecs & users if users is not None else not codecs & SLOW:
            found.append(case)
    return found


def _codecs(archive: bytes) -> Iterator[int]:
    """The codecs of MODEL frames that are not empty, as long as frames follow each other."""
    try:
        archive = in_ordinary_form(archive)
    except Refused:
        return
    at = 32
    while at + 28 < len(archive):
        if archive[at] == 2 and archive[at + 4 : at + 8] != bytes(4):
            yield archive[at + 28]
        at += 28 + int.from_bytes(archive[at + 4 : at + 8], "little")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("codecs", nargs="*", help="names or numbers; all by default")
    parser.add_argument("--survivors", action="store_true", help="list them")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sample", type=int, metavar="N", help="mutants of each module; else all")
    parser.add_argument("--seed", default="", help="another one gives another sample")
    parser.add_argument("--operators", action="store_true", help="change these as well")
    parser.add_argument("--seconds", type=float, default=60.0, help="of an archive at most")
    parser.add_argument("--patience", type=float, default=math.inf, help="seconds for a mutant")
    arguments = parser.parse_args()
    every = cases()
    chosen = {
        name: modules
        for name, modules in CODECS.items()
        if not arguments.codecs or any(word in name.split() for word in arguments.codecs)
    }
    by_module = {module: (module,) for modules in CODECS.values() for module in modules}
    chosen |= {word: by_module[word] for word in arguments.codecs if word in by_module}
    survivors: dict[str, list[bool]] = {}
    known: dict[str, set[tuple[str, int, int]]] = {}
    modules = dict.fromkeys(module for each in chosen.values() for module in each)
    some = {module: {case.name for case in _reaching(module, every)} for module in modules}
    needed = [case for case in every if any(case.name in names for names in some.values())]
    with get_context("fork").Pool(arguments.processes) as pool:
        study = partial(_studied, only=frozenset(modules), most=arguments.seconds)
        reached = [one for one in pool.map(study, needed) if one is not None]
    reached.sort(key=lambda one: one[0].seconds)
    for module in modules:
        depending_on(module)  # once, not in each process
        survivors[module], known[module] = [], equivalent(module)
        _OF[module] = [
            (case, lines[module])
            for case, lines in reached
            if module in lines and case.name in some[module]
        ]
    most, more = arguments.sample, arguments.operators
    tasks = [place for module in survivors for place in drawn(module, most, arguments.seed, more)]
    with get_context("fork").Pool(arguments.processes) as pool:
        judged = pool.imap(partial(_judge, patience=arguments.patience), tasks, chunksize=4)
        for place, (module, line, change, survives) in zip(tasks, judged, strict=True):
            survivors[module].append(survives)
            if place in known[module] and not survives:
                raise SystemExit(f"{module}.py:{line}: {change} is not equivalent: it is told")
            if survives and arguments.survivors:
                note = " (equivalent)" if place in known[module] else ""
                print(f"{module}.py:{line}: {change}{note}", flush=True)
    for name, modules in chosen.items():
        found = [survives for module in modules for survives in survivors[module]]
        same = len({place for module in modules for place in known[module]} & set(tasks))
        count, live = len(found) - same, sum(found) - same
        told = f"{name:16} {count:5} mutants, {live:4} survive: {100 * live / count:.1f} %"
        print(f"{told}; beside {same} that are equivalent")


if __name__ == "__main__":
    main()
