"""How much of the reference decoders the golden archives pin down: mutation testing, by hand.

    python tests/support/reference_mutants.py [CODEC ...] [--survivors]

In the modules of a codec's decoder each integer is made one more and one less, and each comparison
is swapped with its neighbour (`<` with `<=`, `==` with `!=`), one at a time. A mutant survives if
every golden archive still gives what it should, data or error. Functions that only write are left
out, and so are names of types and indices into strings of messages.
"""

import argparse
import ast
import hashlib
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from codec_cases import read_cases  # noqa: E402
from reference.reading import Refused  # noqa: E402
from reference.short_form import in_ordinary_form  # noqa: E402

import densor  # noqa: E402
from densor.codec.circuit.model import pack  # noqa: E402
from densor.files.image_models import load  # noqa: E402

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden"
CODECS = {
    "container": ("frames", "entries", "index", "container", "reading", "short_form", "derived"),
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
    "15 deflate": ("deflate", "parts"),
    "16 circuit": ("circuit",),
    "rans": ("rans",),
    "arithmetic": ("arithmetic",),
}
WRITERS = {
    *("encode", "pack", "pack_model", "chunk", "write", "even", "put_frequencies"),
    *("BitWriter", "Chunk"),
}
SECONDS = 90  # of a processor for all golden archives under a mutant; decoders take up to ten
MEMORY = 4 << 30
SLOW = {4, 9, 10, 11, 12, 14, 15}  # codecs that are left out for modules of the container

_SWAPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}


class Case(NamedTuple):
    """A golden archive: what its entries hold by SHA-256, or the error that it ends in."""

    name: str
    archive: bytes
    good: list[str] | None
    error: str | None
    base: bytes | None = None
    circuit: bytes | None = None  # that must be known


def cases() -> list[Case]:
    """All golden archives, small ones first."""
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
        circuit = pack(load(str(folder / f"{name}-model.densor")))
        images = densor.decompress(archive, image_model=str(folder / f"{name}-model.densor"))
        digest = hashlib.sha256(images.tobytes()).hexdigest()
        found.append(Case(f"circuit-{name}", archive, [digest], None, circuit=circuit))
    for one in read_cases():
        good = None if one.sha256 is None else [one.sha256]
        found.append(Case(one.name, one.archive(), good, one.error, one.base, one.circuit))
    return sorted(found, key=lambda case: len(case.archive))


class Mutant(NamedTuple):
    """A module with one change."""

    module: str
    line: int
    change: str
    source: ast.Module


def places(module: str) -> list[tuple[str, int, int]]:
    """All mutants of a module of `reference`: module, number of the node, number of the change."""
    nodes = [node for node in _in_decoders(_tree(module)) if _changes(node)]
    return [(module, n, c) for n, node in enumerate(nodes) for c in range(len(_changes(node)))]


def _tree(module: str) -> ast.Module:
    return ast.parse((TESTS / "reference" / f"{module}.py").read_text())


def mutant(module: str, number: int, change: int) -> Mutant:
    """One of `places`."""
    tree = _tree(module)
    node = [node for node in _in_decoders(tree) if _changes(node)][number]
    before = ast.unparse(node)
    _changes(node)[change]()
    ast.fix_missing_locations(tree)
    return Mutant(module, getattr(node, "lineno", 0), f"{before} -> {ast.unparse(node)}", tree)


def _in_decoders(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of what decodes, in order; not those of types, f-strings and messages."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and child.name in WRITERS:
            continue
        if isinstance(child, ast.JoinedStr):
            continue
        if isinstance(child, ast.AnnAssign):
            if child.value is not None:
                yield child.value
                yield from _in_decoders(child.value)
            continue
        if isinstance(child, ast.FunctionDef):
            for inner in [*child.args.defaults, *child.body]:
                yield inner
                yield from _in_decoders(inner)
            continue
        yield child
        yield from _in_decoders(child)


def _changes(node: ast.AST) -> list[Callable[[], None]]:
    """What can be done to a node."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        number = node.value
        return [lambda d=d: setattr(node, "value", number + d) for d in (1, -1)]  # type: ignore[misc]
    if isinstance(node, ast.Compare):
        return [
            lambda at=at: node.ops.__setitem__(at, _SWAPPED[type(node.ops[at])]())  # type: ignore[misc]
            for at, op in enumerate(node.ops)
            if type(op) in _SWAPPED
        ]
    return []


def killed_by(mutant: Mutant | None, every: list[Case]) -> str | None:
    """The first golden archive that tells the mutant from the decoder; in a process of its own."""
    kept = {"reference", "reference.reading", "reference.arithmetic"}
    if mutant is not None and mutant.module in ("arithmetic", "reading"):
        kept = {"reference"}
    package = importlib.import_module("reference")
    for name in [n for n in sys.modules if n.startswith("reference.") and n not in kept]:
        del sys.modules[name]
        vars(package).pop(name.partition(".")[2], None)
    try:
        if mutant is not None:
            spec = importlib.util.find_spec(f"reference.{mutant.module}")
            assert spec is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[f"reference.{mutant.module}"] = module
            setattr(package, mutant.module, module)
            exec(compile(mutant.source, f"{mutant.module}.py", "exec"), module.__dict__)
        container = importlib.import_module("reference.container")
        reading = importlib.import_module("reference.reading")
    except Exception as error:
        return f"import: {error}"
    for case in every:
        try:
            if case.circuit is not None:
                importlib.import_module("reference.circuit").know(case.circuit)
            entries = container.decode(case.archive, case.base)
            container.read_index(case.archive)
            found: object = [hashlib.sha256(e.data).hexdigest() for e in entries]
        except reading.Refused as refused:
            found = refused.reason
        except Exception:
            return case.name
        wanted = case.good if case.error is None else _reason(case.error)
        if found != wanted:
            return case.name
    return None


def _reason(error: str) -> str:
    return error.removesuffix("Error").lower()


def _in_child(mutant: Mutant, every: list[Case]) -> str | None:
    """Likewise, without harm to this process: a fork with limits."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.signal(signal.SIGPROF, lambda *_: os._exit(3))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        code = 0 if killed_by(mutant, every) is None else 1
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return None if status == 0 else "killed"


def _judge(task: tuple[str, int, int]) -> tuple[str, int, str, bool]:
    one = mutant(*task)
    survives = _in_child(one, _OF[one.module]) is None
    return one.module, one.line, one.change, survives


_OF: dict[str, list[Case]] = {}


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
    "deflate": {15},
    "circuit": {16},
    "rans": {3, 5, 6, 7, 8},
    "arithmetic": {4, 9},
}


def _reaching(module: str, every: list[Case]) -> list[Case]:
    """The archives that a module decodes; for those of the container, all without slow codecs."""
    found = []
    for case in every:
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
    arguments = parser.parse_args()
    every = cases()
    importlib.import_module("reference.container")
    broken = killed_by(None, every)
    if broken is not None:
        raise SystemExit(f"the decoder itself does not read {broken}")
    chosen = {
        name: modules
        for name, modules in CODECS.items()
        if not arguments.codecs or any(word in name.split() for word in arguments.codecs)
    }
    survivors: dict[str, list[bool]] = {}
    for module in dict.fromkeys(m for modules in chosen.values() for m in modules):
        _OF[module] = _reaching(module, every)
        survivors[module] = []
    tasks = [place for module in survivors for place in places(module)]
    with get_context("fork").Pool(arguments.processes) as pool:
        for module, line, change, survives in pool.imap(_judge, tasks, chunksize=4):
            survivors[module].append(survives)
            if survives and arguments.survivors:
                print(f"{module}.py:{line}: {change}", flush=True)
    for name, modules in chosen.items():
        found = [survives for module in modules for survives in survivors[module]]
        share = 100 * sum(found) / len(found)
        print(f"{name:16} {len(found):5} mutants, {sum(found):4} survive: {share:.0f} %")


if __name__ == "__main__":
    main()
