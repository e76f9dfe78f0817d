"""A short run of every fuzz target, and the inputs that once were not handled as they must be."""

import os
import signal
import struct
import sys
import warnings
from pathlib import Path
from random import Random

import pytest
from paths import ROOT

sys.path.insert(0, str(ROOT))

import densor
from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.parsers.plan import plan_file
from fuzz import parsers
from fuzz.mutate import mutated
from fuzz.run import Fuzzer, Stats, once, run
from fuzz.target import Target, Wrong
from fuzz.targets import TARGETS

SLOW = {
    "mixing": 60,
    "text": 60,
    "agreement": 60,
    "scales": 150,
    "fields": 150,
    "change": 150,
    "llm": 40,
    "llm folder": 150,
    "llm gguf": 100,
}
pytestmark = pytest.mark.filterwarnings("ignore")


def fuzzed(name: str, seed: int, executions: int, memory: bool = False) -> Stats:
    def fail(data: bytes, error: BaseException) -> None:
        raise AssertionError(f"{name}: {data[:400]!r}") from error

    fuzzer = Fuzzer(TARGETS[name], seed, memory=memory, on_bug=fail)
    while fuzzer.stats.executions < executions:
        fuzzer.execute(fuzzer.next())
    return fuzzer.stats


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run(name: str) -> None:
    executions = len(TARGETS[name].seeds()) + SLOW.get(name, 400)
    stats = fuzzed(name, 1, executions)
    assert stats.executions == executions
    assert stats.accepted > 0
    assert stats.kinds > 1 or name in ("agreement", "huffman", "short form")


@pytest.mark.parametrize("name", TARGETS)
def test_memory_is_bounded_by_the_input(name: str) -> None:
    """A bound per target, which `Target` tells; measured for each input."""
    stats = fuzzed(name, 2, len(TARGETS[name].seeds()) + SLOW.get(name, 400) // 5, memory=True)
    assert stats.peak > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_longer_run(name: str) -> None:
    fuzzed(name, 3, 20_000)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_small_and_accepted(name: str) -> None:
    """What is changed is sound to begin with, so that changes get far."""
    seeds = TARGETS[name].seeds()
    assert seeds and max(map(len, seeds)) < 24_000
    refused = [seed for seed in seeds if once(TARGETS[name], seed) is not None]
    assert not refused or name in ("json", "packed header")
    formats = {"safetensors", "gguf", "npz", "torch", "torch-legacy", "onnx", "ctranslate2"}
    formats.add("msgpack")
    if name in formats:
        for seed in seeds:
            plan = plan_file(MemorySource(seed), len(seed), random=MemoryRandomSource(seed))
            assert plan.format in (name, None) or (name, plan.format) == ("npz", "zip")
            found = plan.format == name
            assert found or len(seed) < 300 or name in ("npz", "onnx")


def test_runs_repeat_by_their_seed() -> None:
    def inputs(seed: int) -> list[bytes]:
        rng = Random(seed)
        return [mutated(b"some bytes to be changed" * 9, rng, [b"others"]) for _ in range(200)]

    assert inputs(1) == inputs(1) != inputs(2)
    first, again = (fuzzed("gguf", 5, 300) for _ in range(2))
    assert (first.accepted, first.errors) == (again.accepted, again.errors)


# The house itself: what it is there to find, it finds


def _target(what: object) -> Target:
    def run_it(data: bytes) -> None:
        if not data.startswith(b"seed"):
            what(data)  # type: ignore[operator]

    return Target("broken", run_it, lambda: [b"seed"], most_memory=1 << 20)


def _raise(error: BaseException) -> object:
    def fail(data: bytes) -> None:
        raise error

    return fail


def _die(data: bytes) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_bugs_are_found_and_kept(tmp_path: Path) -> None:
    found = run(_target(_raise(IndexError("out"))), 1, 50, None, tmp_path)
    assert found.bugs["IndexError"] > 5 and found.executions == 50
    kept = list((tmp_path / "broken").glob("*.bin"))
    assert kept and all(not path.read_bytes().startswith(b"seed") for path in kept)
    refused = run(_target(_raise(densor.FormatError("no"))), 1, 50, None, tmp_path)
    assert not refused.bugs and refused.errors["FormatError"] > 5


def test_a_crash_of_the_process_is_survived(tmp_path: Path) -> None:
    found = run(_target(_die), 1, 3, None, tmp_path)
    assert found.bugs.total() >= 1 and any(name.startswith("signal") for name in found.bugs)
    assert list((tmp_path / "broken").glob("signal-*.bin"))


def test_memory_beyond_the_bound_is_found() -> None:
    def greedy(data: bytes) -> None:
        bytearray(1 << 21)

    fuzzer = Fuzzer(_target(greedy), 1, memory=True)
    for _ in range(20):
        fuzzer.execute(fuzzer.next())
    assert fuzzer.stats.bugs["Wrong"] > 5 and fuzzer.stats.peak > 1 << 20


def test_uninitialised_memory_and_wild_writes_are_found() -> None:
    from fuzz.codecs import decoded_twice

    def lazy(out: object) -> None:
        out[1:] = 5  # type: ignore[index]

    def wild(out: object) -> None:
        out[:] = 0  # type: ignore[index]
        out.base[len(out) + 70] ^= 1  # type: ignore[attr-defined,arg-type]

    for decode in (lazy, wild):
        with pytest.raises(Wrong):
            decoded_twice(decode, 100)
    decoded_twice(lambda out: out.fill(3), 100)


# Regressions: what fuzzing has found


def test_a_zip64_field_that_is_cut_short() -> None:
    """It said that it was longer than the directory's entry."""
    (data, *_) = parsers.npz_seeds()
    at = data.rindex(b"PK\1\2")
    name = struct.unpack_from("<H", data, at + 28)[0]
    entry = bytearray(data[at : at + 46 + name])
    struct.pack_into("<II", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", entry, 30, 9)
    extra = struct.pack("<HH", 1, 16) + b"12345"
    end = data.index(b"PK\5\6")
    broken = data[:at] + bytes(entry) + extra + data[at + 46 + name : end] + data[end:]
    parsers.planned(broken)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert densor.decompress(densor.compress(broken)) == broken


def test_lone_surrogates_in_a_description_survive_appending(tmp_path: Path) -> None:
    """JSON can have them as escapes; they are written as escapes again."""
    import json
    from dataclasses import replace

    import zstandard
    from helpers import ENTRY, INDEX, put_together, take_apart

    (tmp_path / "one").write_bytes(b"one" * 50)
    densor.pack([tmp_path / "one"], tmp_path / "a")
    frames = take_apart((tmp_path / "a").read_bytes())
    for i, frame in enumerate(frames):
        if frame.kind == ENTRY:
            entry = json.loads(frame.payload) | {"format": "\ud800"}
            frames[i] = replace(frame, payload=json.dumps(entry).encode())
        if frame.kind == INDEX:
            index = json.loads(zstandard.decompress(frame.payload))
            index["entries"][0]["format"] = "\ud800"
            index["stored"][0] = len(frames[0].payload)
            text = json.dumps(index).encode()
            frames[i] = replace(frame, payload=zstandard.compress(text), original=len(text))
    (tmp_path / "a").write_bytes(put_together(frames, (tmp_path / "a").read_bytes()[:32]))
    (tmp_path / "two").write_bytes(b"two" * 50)
    densor.archives.append(tmp_path / "a", tmp_path / "two")
    with densor.open(tmp_path / "a") as file:
        assert file.read_file("one") == b"one" * 50
        assert file.read_file("two") == b"two" * 50
