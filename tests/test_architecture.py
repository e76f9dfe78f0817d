"""The house: which room may import which, and how long and wide functions may be.

All of it is read from the source, so that what is imported late or for types only counts too.
"""

import ast
import functools
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "densor"

# Rooms from the ground up; what is listed together may import each other unless told otherwise.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "version", "former"),
    ("options", "dtypes", "float_formats", "runtime"),
    ("entropy",),
    ("llm", "products"),
    ("codec",),
    ("formats",),
    ("files",),
    (
        "arrays",
        "chunk",
        "file",
        "api",
        "text",
        "tables",
        "audio",
        "archives",
        "image",
        "compare",
    ),
    ("lossy",),
    ("gpu",),
    ("torch",),
    ("sync",),
    ("hf", "integrations"),
    ("cli",),
    ("__main__",),
)
# The rooms of `formats`, likewise: each may import those before it.
FORMATS = ("tensors", "tensor_table", "io", "container", "parsers", "packed", "damage")
# `densor` itself hands names out, late, and ties the ends together; it is not a room.
TOP = "densor"

MAX_LINES, MAX_PARAMETERS = 50, 8
# Kernels: what numba compiles takes arrays one by one, and loops stand in one piece.
KERNELS = {
    "counting",
    "learning",
    "merge",
    "products",
    "put",
    "split",
    "xxh3",
}  # and every module that is called `…kernels`
MAX_KERNEL_LINES = 85
LONG_KERNELS = {"densor.codec.tokens.kernels.code_tokens"}  # to be cut; none may be added


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(module: ast.Module) -> set[str]:
    """Modules of the package that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in modules() else node.module)
    return {name for name in found if name.split(".")[0] == TOP}


def room(module: str) -> str | None:
    """The room of a module; None for `densor` itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


@functools.cache
def arrows() -> list[tuple[str, str]]:
    """Who imports whom."""
    return [(name, other) for name, tree in modules().items() for other in sorted(imports(tree))]


def test_every_room_has_a_floor() -> None:
    floors = [name for layer in LAYERS for name in layer]
    rooms = {room(name) for name in modules()} - {None}
    assert sorted(floors) == sorted(rooms)


def test_no_import_goes_up() -> None:
    floor = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    upwards = []
    for name, other in arrows():
        above, below = room(name), room(other)
        if above is not None and below is not None and floor[below] > floor[above]:
            upwards.append(f"{name} imports {other}")
    assert not upwards


def test_only_users_of_the_package_import_it_whole() -> None:
    """`import densor` gives everything, so that only rooms above the interface may say it."""
    floor = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    lowest = floor["api"]
    whole = [name for name, other in arrows() if other == TOP and name != TOP]
    assert not [name for name in whole if floor[room(name) or ""] <= lowest]


def test_rooms_of_formats_do_not_import_each_other_both_ways() -> None:
    floor = {name: i for i, name in enumerate(FORMATS)}
    upwards = []
    for name, other in arrows():
        here, there = name.split("."), other.split(".")
        inside = here[:2] == there[:2] == [TOP, "formats"] and min(len(here), len(there)) > 2
        if inside and floor[there[2]] > floor[here[2]]:
            upwards.append(f"{name} imports {other}")
    assert not upwards
    found = {name.split(".")[2] for name in modules() if name.startswith("densor.formats.")}
    assert found == set(FORMATS)


def test_no_circle() -> None:
    """No module needs one that needs it: late, or for types only, counts too."""
    graph: dict[str, set[str]] = defaultdict(set)
    for name, other in arrows():
        if other not in (TOP, name):
            graph[name].add(other)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in list(graph):
        visit(name, ())


def test_codecs_and_models_know_nothing_of_files() -> None:
    for name, other in arrows():
        if room(name) in ("codec", "llm", "entropy", "runtime"):
            assert room(other) not in ("formats", "files"), f"{name} imports {other}"


def large(name: str, tree: ast.Module) -> dict[str, str]:
    """Functions of a module that are too long or take too much."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len(given) - (bool(given) and given[0].arg in ("self", "cls"))
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_LINES or count > MAX_PARAMETERS:
                found[f"{name}.{node.name}"] = f"{lines} lines, {count} parameters"
    return found


def test_functions_are_short() -> None:
    found: dict[str, str] = {}
    for name, tree in modules().items():
        last = name.split(".")[-1]
        if last not in KERNELS and not last.endswith("kernels"):
            found |= large(name, tree)
    assert found == {}


def test_kernels_are_not_too_long() -> None:
    found = {
        f"{name}.{node.name}"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= MAX_KERNEL_LINES
    }
    assert found == LONG_KERNELS


@pytest.mark.parametrize("kind", ["Write", "Read"])
def test_keywords_are_the_fields_of_options(kind: str) -> None:
    """A new option is a field and its type as a keyword; nothing else lists them."""
    from densor import options

    record = getattr(options, f"{kind}Options")
    keywords = getattr(options, f"{kind}Keywords")
    positional = {"level", "threads"}
    named = {"llm" if name == "language_model" else name for name in record.__annotations__}
    assert named - positional == set(keywords.__annotations__)
