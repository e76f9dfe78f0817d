"""`--base`, `densor append` and `densor diff`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import safetensors_bytes, weights

from .conftest import Ran

BEFORE = weights("bf16", 40, 300)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A checkpoint `old`, and `new` with every 20th number one step larger."""
    after = BEFORE + (np.arange(BEFORE.size).reshape(BEFORE.shape) % 20 == 0).astype(np.uint16)
    for name, bits in (("old", BEFORE), ("new", after)):
        tensors = {"w": ("BF16", bits.shape, bits.tobytes()), "flag": ("U8", (2,), b"ab")}
        if name == "new":
            tensors["more"] = ("U8", (1,), b"x")
        (tmp_path / name).write_bytes(safetensors_bytes(tensors))
    return tmp_path


def test_compress_test_and_restore(cli: Callable[..., Ran], files: Path) -> None:
    assert cli("--base", "old", "new").said("new: *% (24.2 kB => *, new.densor)")
    assert (files / "new.densor").stat().st_size < 3000
    assert cli("-t", "--base", "old", "new.densor").said("new.densor: ok (24.2 kB)")
    assert cli("test", "--base", "old", "new.densor").code == 0
    assert cli("-d", "--base", "old", "new.densor", "-o", "back").code == 0
    assert (files / "back").read_bytes() == (files / "new").read_bytes()
    assert cli("cat", "--base", "old", "new.densor", "new").out == (files / "new").read_bytes()
    assert cli("extract", "--base", "old", "new.densor", "-C", "out").code == 0
    assert (files / "out" / "new").read_bytes() == (files / "new").read_bytes()
    assert "features        bases\n" in cli("info", "new.densor").text


def test_without_the_base_nothing_is_restored(cli: Callable[..., Ran], files: Path) -> None:
    cli("-q", "--base", "old", "new")
    wanted = "old of 24153 bytes with xxh3-128 *"
    for argv in (["-d", "-o", "back", "new.densor"], ["-t", "new.densor"]):
        ran = cli(*argv)
        assert ran.code == 1
        assert ran.said(f"densor: new.densor: needs a base, {wanted}: give it with --base (base=)")
        ran = cli("--base", "new", *argv)
        assert ran.code == 1
        assert ran.said(f"densor: new.densor: base new has 24225 bytes; needed is {wanted}")
    assert not (files / "back").exists()
    assert cli("--base", "nothing", "new", "-f").said("densor: *nothing: No such file or directory")


def test_standard_streams(cli: Callable[..., Ran], files: Path) -> None:
    new = (files / "new").read_bytes()
    packed = cli("--base", "old", stdin=new)
    assert packed.code == 0 and len(packed.out) < 3000
    assert cli("-d", "--base", "old", stdin=packed.out) == (0, new, "")


def test_append(cli: Callable[..., Ran], files: Path) -> None:
    cli("-q", "old", "-o", "a.densor")
    assert cli("append", "a.densor", "new").said("a.densor: + new: *% (24.2 kB => *)")
    assert (
        cli("append", "-q", "a.densor", "old", "--name", "third", "--base-entry", "old").code == 0
    )
    for name, source in (("old", "old"), ("new", "new"), ("third", "old")):
        assert cli("cat", "a.densor", name).out == (files / source).read_bytes()
    assert cli("-t", "a.densor").said("a.densor: ok (72.5 kB)")
    assert cli("extract", "a.densor", "new", "-C", "out").said("a.densor: 1 file => out")
    assert cli("-d", "a.densor", "-o", "x").said("densor: a.densor: * use `densor extract`")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("append a.densor nothing", "nothing: no such file"),
        ("append a.densor -", "-: no such file; densor append reads no stdin"),
        ("append a.densor .", ".: is a folder; densor append adds one file"),
        ("append a.densor new --base-entry x", "a.densor: no file named 'x' in the archive"),
        (
            "append a.densor old",
            "a.densor: archive already has an entry named 'old'; "
            "give the new one another name with --name (name=)",
        ),
        ("append old new", "old: *"),
        (
            "append nothing new",
            "nothing: No such file or directory; it begins with: densor pack nothing new",
        ),
        ("diff old nothing", "nothing: No such file or directory"),
        ("diff text text", "text: neither holds tensors that can be told apart"),
    ],
)
def test_errors(cli: Callable[..., Ran], files: Path, argv: str, message: str) -> None:
    (files / "text").write_bytes(b"text")
    cli("-q", "old", "-o", "a.densor")
    before = (files / "a.densor").read_bytes()
    ran = cli(*argv.split())
    assert ran.said(f"densor: {message}"), ran.err
    assert (ran.code, ran.out) == (1, b"")
    assert (files / "a.densor").read_bytes() == before


def test_diff(cli: Callable[..., Ran], files: Path) -> None:
    lines = cli("diff", "old", "new").text.splitlines()
    assert lines[0].split() == [
        *("name", "type", "shape", "original", "changed", "bits", "max-ulp", "delta")
    ]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert rows["w"][:6] == ["BF16", "40x300", "24.0", "kB", "5.00%", rows["w"][5]]
    assert rows["w"][6] == "1" and 1.5 < float(rows["w"][7].rstrip("%")) < 2.5
    assert rows["flag"][4:7] == ["0.00%", "0.00%", "0"]
    assert rows["more"][4:] == ["only", "B"]
    cli("-q", "new", "--base", "old")
    ran = cli("diff", "--json", "--base", "old", "old", "new.densor")
    found = json.loads(ran.text)
    assert found["tensors"][0] | {"bits": 0, "delta": 0} == {
        **{"name": "w", "dtype": "BF16", "shape": [40, 300], "size": 24000, "elements": 12000},
        **{"identical": 11400, "changed": 600, "bits": 0, "max_ulp_distance": 1, "delta": 0},
    }
    assert found["tensors"][2] == {
        **{"name": "more", "dtype": "U8", "shape": [1], "size": 1, "only": "new"},
    }


def test_the_tree_of_an_archive(cli: Callable[..., Ran], tmp_path: Path) -> None:
    steps = {"base": BEFORE.reshape(-1)}
    for name, parent, every in (("one", "base", 50), ("two", "base", 20), ("deep", "one", 90)):
        steps[name] = steps[parent].copy()
        steps[name][::every] += 1
    for name, data in steps.items():
        (tmp_path / name).write_bytes(
            safetensors_bytes({"w": ("BF16", data.shape, data.tobytes())})
        )
    archive = "all.densor"
    assert cli("pack", archive, "base").code == 0
    assert "tree" not in cli("list", archive).text
    for name, parent in (("one", "base"), ("two", "base"), ("deep", "one")):
        assert cli("append", archive, name, "--base-entry", parent).code == 0
    listed = cli("list", archive).text.split("tree")[1].splitlines()[1:]
    names = [line[:10].rstrip() for line in listed]
    assert names == ["base", "  one", "    deep", "  two"]
    described = json.loads(cli("list", archive, "--json").text)["entries"]
    assert [entry.get("base") for entry in described] == [None, "base", "base", "one"]
    shown = cli("diff", archive).text.splitlines()[1:]
    assert [line.split()[:2] for line in shown[1:]] == [
        ["one", "base"],
        ["deep", "one"],
        ["two", "base"],
    ]
    files = json.loads(cli("diff", archive, "--json").text)["files"]
    assert [(one["name"], one["changed"]) for one in files] == [
        ("base", 0),
        ("one", 240),
        ("deep", 134),
        ("two", 600),
    ]
    assert cli("diff", "base").code != 0
    assert cli("diff", archive, "--html", "x.html").code != 0
    for name in steps:
        assert cli("cat", archive, name).out == (tmp_path / name).read_bytes()
