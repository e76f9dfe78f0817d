"""Damaged archives on the command line: what is said, what is written, exit codes."""

import json
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
from helpers import model_file, random_state

from .conftest import Ran

NOISE = random_state("cli damage").integers(0, 256, 100_000, "u1").tobytes()


@pytest.fixture(autouse=True)
def packed(cli: Callable[..., Ran]) -> bytes:
    """An archive of two files with recovery data, in the folder where commands run."""
    Path("a.bin").write_bytes(NOISE)
    Path("m.safetensors").write_bytes(model_file())
    assert cli("pack", "--recovery", "10%", "-q", "x.densor", "a.bin", "m.safetensors").code == 0
    return Path("x.densor").read_bytes()


def damage(packed: bytes, *places: int, cut: int = 0) -> None:
    damaged = bytearray(packed)
    for place in places:
        damaged[place] ^= 1
    Path("x.densor").write_bytes(damaged[: len(damaged) - cut])


def test_repair(cli: Callable[..., Ran], packed: bytes) -> None:
    assert cli("repair", "x.densor").said("x.densor: was whole")
    damage(packed, 5, 40, 5000, len(packed) - 300, len(packed) - 3)
    assert cli("-t", "x.densor").code == 1
    ran = cli("repair", "x.densor")
    assert ran.said("x.densor: repaired 2 blocks, 1 frames of recovery data, header or end"), (
        ran.err
    )
    assert ran.code == 0 and Path("x.densor").read_bytes() == packed
    damage(packed, 5000)
    ran = cli("repair", "x.densor", "-o", "y.densor")
    assert ran.said("x.densor: repaired 1 blocks => y.densor")
    assert Path("y.densor").read_bytes() == packed != Path("x.densor").read_bytes()
    assert cli("repair", "x.densor", "-o", "y.densor").said("densor: y.densor: already exists; *")
    assert cli("repair", "x.densor", "-qf", "-o", "y.densor") == (0, b"", "")
    assert cli("repair", "nosuch").said("densor: nosuch: No such file or directory")


def test_info_tells_of_recovery_data(cli: Callable[..., Ran]) -> None:
    assert "\nrecovery        10%\n" in cli("info", "x.densor").text
    assert cli("-q", "a.bin").code == 0
    assert "recovery" not in cli("info", "a.bin.densor").text


def test_too_much_damage(cli: Callable[..., Ran], packed: bytes) -> None:
    damage(packed, *range(1000, 60_000, 500))
    before = Path("x.densor").read_bytes()
    ran = cli("repair", "x.densor")
    assert ran.code == 1 and ran.said("densor: x.densor: *densor extract --salvage gets out *")
    assert Path("x.densor").read_bytes() == before
    said = cli("test", "--repair-info", "x.densor").text.splitlines()
    assert said[-2:] == [
        "x.densor: more is damaged than its recovery data can mend",
        "x.densor: densor extract --salvage gets out what is left",
    ]


def test_repair_info(cli: Callable[..., Ran], packed: bytes) -> None:
    assert cli("test", "--repair-info", "x.densor").text == "x.densor: nothing is lost\n"
    damage(packed, 5000)
    ran = cli("test", "--repair-info", "x.densor")
    assert (ran.code, ran.err) == (1, "densor: x.densor: is damaged\n")
    first, *others = ran.text.splitlines()
    assert fnmatch(first, "x.densor: bytes ??? to ?????? are damaged: chunk")
    assert others == [
        "a.bin: bytes 0 to 100000 are lost: its frame is damaged",
        "x.densor: 1 of 2 entries are whole",
        "x.densor: densor repair mends all of it",
    ]
    ran = cli("test", "--repair-info", "--json", "x.densor")
    found = json.loads(ran.text)
    assert ran.code == 1 and not found["sound"] and found["has_index"]
    assert found["protected"] and found["repairable"]
    assert found["entries"][0]["lost"][0]["end"] == 100_000
    assert found["entries"][1]["verified"] is True
    assert cli("test", "--json", "x.densor").code == 2
    assert cli("test", "--repair-info", "-q", "x.densor").out == b""
    Path("no.densor").write_bytes(NOISE)
    ran = cli("test", "--repair-info", "no.densor", "x.densor")
    assert ran.said("densor: no.densor: not a densor archive", "densor: x.densor: is damaged")


def test_salvage(cli: Callable[..., Ran], packed: bytes) -> None:
    damage(packed, 5000, cut=10_000)
    ran = cli("extract", "--salvage", "x.densor", "-o", "out")
    assert ran.code == 1, ran.err
    assert ran.err.endswith("x.densor: is damaged; salvage.json tells what was left\n")
    assert Path("out/m.safetensors").read_bytes() == model_file()
    assert Path("out/a.bin.partial").read_bytes() == bytes(100_000)
    assert json.loads(Path("out/salvage.json").read_text())["truncated"]
    assert cli("extract", "--salvage", "x.densor", "-o", "out").code == 1
    assert cli("extract", "--salvage", "-fq", "x.densor", "-C", "out").err.count("\n") == 1
    assert cli("extract", "--salvage", "x.densor", "m.safetensors").code == 2
    Path("x.densor").write_bytes(packed)
    ran = cli("extract", "--salvage", "x.densor", "-o", "whole")
    assert ran.said("x.densor: nothing is lost") and ran.code == 0
    assert Path("whole/a.bin").read_bytes() == NOISE


@pytest.mark.parametrize("share", ["0", "101%", "x", "5%%", "-1", "nan", "1e2"])
def test_shares_that_make_no_sense(cli: Callable[..., Ran], share: str) -> None:
    ran = cli("--recovery", share, "a.bin")
    assert (ran.code, Path("a.bin.densor").exists()) == (2, False)


def test_recovery_of_single_files(cli: Callable[..., Ran]) -> None:
    assert cli("-q", "--recovery", "0.5%", "a.bin").code == 0
    assert cli("-q", "-c", "--recovery", "5%", "a.bin").said("densor: a.bin: *read again*")
    whole = Path("a.bin.densor").read_bytes()
    assert len(whole) > 100_000
    Path("a.bin.densor").write_bytes(whole[:3000] + b"?" * 100 + whole[3100:])
    assert cli("repair", "a.bin.densor").code == 0
    assert Path("a.bin.densor").read_bytes() == whole
