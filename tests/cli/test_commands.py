"""Archives of many files: pack, list, extract, cat, test, info."""

import filecmp
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import model_file, random_state

import densor

from .conftest import Ran

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def packed(cli: Callable[..., Ran], model_folder: Path) -> str:
    """An archive of a folder."""
    assert cli("pack", "-q", "m.densor", str(model_folder)) == (0, b"", "")
    return "m.densor"


def same_folders(one: Path, other: Path) -> bool:
    """Whether two folders hold the same names and bytes."""
    found = [sorted(str(p.relative_to(root)) for p in root.rglob("*")) for root in (one, other)]
    files = [name for name in found[0] if (one / name).is_file()]
    return found[0] == found[1] and filecmp.cmpfiles(one, other, files, shallow=False)[0] == files


def test_pack_and_extract(cli: Callable[..., Ran], model_folder: Path, tmp_path: Path) -> None:
    ran = cli("pack", "m.densor", "model", "-9", "-T1", "--sha256")
    assert ran.said("m.densor: ??.??% (* => *)")
    assert (ran.code, ran.out) == (0, b"")
    ran = cli("extract", "m.densor", "-C", "new/out")
    assert ran.said("m.densor: 5 files => new/out")
    assert same_folders(model_folder, tmp_path / "new" / "out")


def test_entry_points_for_gpus(cli: Callable[..., Ran], model_folder: Path) -> None:
    shard = "model/model-00001-of-00002.safetensors"
    for options in (["pack", "m.densor", "model"], ["-1", "-o", "m.densor", shard]):
        sizes = []
        for more in ([], ["--gpu-index"]):
            assert cli(*options, "-fq", *more).code == 0
            sizes.append(Path("m.densor").stat().st_size)
        assert sizes[0] < sizes[1] < 1.1 * sizes[0]
        assert cli("test", "m.densor").code == 0


def test_pack_and_extract_through_pipes(
    cli: Callable[..., Ran], model_folder: Path, tmp_path: Path
) -> None:
    stream = cli("pack", "-", "model")
    assert (stream.code, stream.err) == (0, "")
    assert cli("extract", "-", "-C", "out", stdin=stream.out).said("stdin: 5 files => out")
    assert same_folders(model_folder, tmp_path / "out")
    assert cli("test", "-", stdin=stream.out).said("stdin: ok (*)")


def test_extract_some(cli: Callable[..., Ran], packed: str, model_folder: Path) -> None:
    ran = cli("extract", packed, "config.json", "deep/nothing.txt", "-C", "out")
    assert ran.said("m.densor: 2 files => out")
    found = sorted(path.name for path in Path("out").rglob("*") if path.is_file())
    assert found == ["config.json", "nothing.txt"]
    ran = cli("extract", packed, "nosuch", "-C", "none")
    assert ran.code == 1 and ran.said("densor: m.densor: not in the archive: nosuch")
    assert not Path("none").exists()


def test_extract_overwrites_only_if_told(cli: Callable[..., Ran], packed: str) -> None:
    Path("out").mkdir()
    Path("out/config.json").write_text("mine")
    ran = cli("extract", packed, "-C", "out")
    assert ran.code == 1 and ran.said("densor: m.densor: out/config.json: already exists; use -f*")
    assert Path("out/config.json").read_text() == "mine"
    assert cli("extract", "-qf", packed, "-C", "out") == (0, b"", "")
    assert cli("extract", packed, "--max-size", "1K", "-C", "big").code == 1


def test_list(cli: Callable[..., Ran], packed: str) -> None:
    lines = cli("list", packed).text.splitlines()
    assert lines[0].split() == ["name", "type", "shape", "original", "stored", "ratio"]
    assert lines[-1].startswith("total ")
    with densor.open(packed) as file:
        for name in file.keys():  # noqa: SIM118
            info = file.info(name)
            shape = "x".join(map(str, info.shape))
            (line,) = [line for line in lines if line.startswith(f"  {name} ")][-1:]
            assert line.split()[1:3] == [info.dtype, shape] or not shape


def test_what_tensors_share_is_divided(cli: Callable[..., Ran], tmp_path: Path) -> None:
    drawn = random_state("list").normal(size=(20, 256)).astype(np.float32)
    arrays = {f"bias{i}": row for i, row in enumerate(drawn)}
    densor.save_file(arrays, tmp_path / "a.densor")
    found = json.loads(cli("list", "--json", str(tmp_path / "a.densor")).out)
    (file,) = found["entries"]
    sizes = [tensor["stored"] for tensor in file["tensors"]]
    assert len(sizes) == 20 and min(sizes) > 0
    assert file["stored"] / 2 < sum(sizes) <= file["stored"] + 10  # the rest is the header's
    with densor.open(tmp_path / "a.densor") as opened:
        assert [opened.info(tensor["name"]).stored for tensor in file["tensors"]] == sizes


def test_list_of_hashes(cli: Callable[..., Ran], model_folder: Path) -> None:
    paths = sorted(path for path in model_folder.iterdir() if path.is_file())
    assert cli("pack", "-q", "--sha256", "h.densor", *map(str, paths)).code == 0
    lines = cli("list", "--hash", "h.densor").text.splitlines()
    found = dict(line.split("  ", 1)[::-1] for line in lines)
    right = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    assert found == right


def test_list_as_json(cli: Callable[..., Ran], packed: str, model_folder: Path) -> None:
    found = json.loads(cli("list", "--json", packed).out)
    assert found["archive"] == packed
    assert found["stored"] == os.path.getsize(packed)
    assert found["original"] == sum(entry["original"] for entry in found["entries"])
    shard = next(entry for entry in found["entries"] if entry["name"] == SHARD)
    assert shard["kind"] == "file" and shard["format"] == "safetensors"
    assert shard["original"] == len(model_file()) and len(shard["xxh3-128"]) == 32
    with densor.open(packed) as file:
        for tensor in shard["tensors"]:
            info = file.info(tensor["name"])
            assert (info.dtype, list(info.shape)) == (tensor["dtype"], tensor["shape"])


def test_names_cannot_control_the_terminal(cli: Callable[..., Ran], tmp_path: Path) -> None:
    name = "red\x1b[31m\u202e\n"
    with densor.Writer(tmp_path / "t.densor") as writer:
        writer.add_tensor(name, np.zeros(5, np.float32))
    assert "red\\x1b[31m\\u202e\\n  F32   5 " in cli("list", "t.densor").text
    assert json.loads(cli("list", "--json", "t.densor").out)["entries"][0]["name"] == name
    assert cli("cat", "t.densor", name).out == bytes(20)
    assert cli("cat", "t.densor", "\x1b").said("densor: t.densor: no file or tensor named '\\x1b'*")
    for ran in (cli("list", "t.densor"), cli("info", "t.densor"), cli("extract", "t.densor")):
        assert b"\x1b" not in ran.out and "\x1b" not in ran.err


def test_cat(
    cli: Callable[..., Ran], packed: str, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("densor.formats.container.archive._PIECE", 1000)
    assert cli("cat", packed, SHARD) == (0, model_file(), "")
    assert cli("cat", packed, "deep/nothing.txt") == (0, b"", "")
    with densor.open(packed) as file:
        for name in file.keys():  # noqa: SIM118
            assert cli("cat", "-T1", packed, name).out == file.get_tensor(name).tobytes()
    ran = cli("cat", packed, "nosuch")
    assert ran.said("densor: m.densor: no file or tensor named 'nosuch'; see densor list")
    assert (ran.code, ran.out) == (1, b"")


def test_test(cli: Callable[..., Ran], packed: str) -> None:
    assert cli("test", packed).said("m.densor: ok (*)")
    content = Path(packed).read_bytes()
    Path("bad").write_bytes(content[:-200] + bytes([content[-200] ^ 1]) + content[-199:])
    ran = cli("test", "bad", packed, "nosuch", ".")
    assert ran.code == 1 and ran.out == b""
    assert ran.said(
        "densor: bad: *",
        "m.densor: ok (*)",
        "densor: nosuch: No such file or directory",
        "densor: .: is a folder*",
    )


def test_info(cli: Callable[..., Ran], packed: str) -> None:
    text = cli("info", packed).text
    size = os.path.getsize(packed)
    for line in ("format version  1", "entries         8", "features        back references"):
        assert line in text.splitlines()
    assert f"({size} bytes, " in text
    chunks = {line.split()[0] for line in text.splitlines() if line.endswith("%")}
    assert {"planes", "Zstandard"} <= chunks <= {"planes", "Zstandard", "raw", "repeated", "sparse"}
    assert "\nxxh3-128  " in text and text.splitlines()[-1].endswith(SHARD.replace("1-", "2-"))


@pytest.mark.parametrize("command", ["list", "info", "extract", "test", "cat"])
def test_not_an_archive(cli: Callable[..., Ran], command: str) -> None:
    Path("text").write_text("text")
    names = ["name"] if command == "cat" else []
    for path, message in (("text", "*"), ("nosuch", "No such file or directory")):
        ran = cli(command, path, *names)
        assert (ran.code, ran.out) == (1, b"")
        assert ran.said(f"densor: {path}: {message}")


def test_list_needs_an_index(cli: Callable[..., Ran]) -> None:
    Path("blob").write_bytes(densor.compress(b"bytes"))
    assert cli("list", "blob").said("densor: blob: archive has no index; *")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("pack m.densor nosuch", "m.densor: nosuch: no such file or folder"),
        ("pack model model", "model: is a folder"),
        ("pack here model", "here: already exists; use -f to overwrite it"),
        ("pack m.densor here here", "m.densor: archive already has an entry named 'here'"),
        ("pack m.densor loop", "m.densor: loop/again: neither a file nor a folder"),
        ("pack nosuch/m.densor model", "nosuch/m.densor: No such file or directory"),
    ],
)
def test_pack_errors(cli: Callable[..., Ran], model_folder: Path, argv: str, message: str) -> None:
    Path("here").write_text("mine")
    Path("loop").mkdir()
    Path("loop/again").symlink_to("..")
    ran = cli(*argv.split())
    assert ran.said(f"densor: {message}"), ran.err
    assert (ran.code, ran.out, Path("here").read_text()) == (1, b"", "mine")
    assert not Path("m.densor").exists() and not list(Path().glob(".*.tmp"))
