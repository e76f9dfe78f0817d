"""Many shards: resumed, tried again, reported; on threads, processes and a Ray cluster."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import model_file, random_state
from paths import SUPPORT

import densor
from densor.errors import ArgumentError, FileError
from densor.files import shards
from densor.files.shards import (
    Failure,
    Pair,
    Report,
    ShardOptions,
    Stats,
    compress_shard,
    compress_shards,
    list_shards,
    processes,
)

FAST = ShardOptions(level=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of shards and other files."""
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "empty").mkdir()
    for number in range(4):
        (folder / f"model-{number}.safetensors").write_bytes(model_file())
    (folder / "deep" / "config.json").write_text("{}")
    (folder / "old.densor").write_bytes(b"not ours")
    return folder


def pairs_of(folder: Path) -> list[Pair]:
    return list_shards(str(folder.parent / "out"), [str(folder)])


def assert_valid(pairs: list[Pair]) -> None:
    for source, target in pairs:
        (entry,) = densor.verify_file(target)
        assert entry.size == os.path.getsize(source)


# One shard


def test_a_shard_is_done_once(model: Path, tmp_path: Path) -> None:
    source, target = str(model / "model-0.safetensors"), str(tmp_path / "new" / "x.densor")
    first = compress_shard(source, target, FAST)
    assert not first.skipped
    assert (first.original, first.stored) == (len(model_file()), os.path.getsize(target))
    state = os.stat(target).st_ino
    second = compress_shard(source, target, FAST)
    assert second.skipped and second[:4] == first[:4]
    assert os.stat(target).st_ino == state
    densor.decompress_file(target, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == model_file()


@pytest.mark.parametrize(
    "change",
    [
        lambda source, target: source.write_bytes(model_file() + b"more"),
        lambda source, target: os.utime(source, ns=(1, 1)),
        lambda source, target: target.unlink(),
        lambda source, target: target.write_bytes(b""),
        lambda source, target: target.write_bytes(target.read_bytes()[:-1]),
        lambda source, target: target.write_bytes(target.read_bytes() + b"x"),
        lambda source, target: target.write_bytes(densor.compress(b"another")),
        lambda source, target: densor.pack([source, __file__], target, overwrite=True),
        lambda source, target: densor.compress_file(source, target, name="y", overwrite=True),
        lambda source, target: densor.compress_file(source, target, hash="sha256", overwrite=True),
    ],
)
def test_a_shard_is_done_again(change: Callable[[Path, Path], object], tmp_path: Path) -> None:
    source, target = tmp_path / "x", tmp_path / "x.densor"
    source.write_bytes(model_file())
    compress_shard(str(source), str(target), FAST)
    change(source, target)
    assert not compress_shard(str(source), str(target), FAST).skipped
    assert compress_shard(str(source), str(target), FAST).skipped
    assert_valid([(str(source), str(target))])


def test_verification_looks_at_all_bytes(tmp_path: Path) -> None:
    source, target = tmp_path / "x", tmp_path / "x.densor"
    source.write_bytes(model_file())
    options = ShardOptions(level=1, verify=True)
    assert not compress_shard(str(source), str(target), options).skipped
    assert compress_shard(str(source), str(target), options).skipped
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(data)
    assert compress_shard(str(source), str(target), FAST).skipped
    assert not compress_shard(str(source), str(target), options).skipped
    before = source.stat()
    source.write_bytes(model_file()[:-1] + b"?")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert compress_shard(str(source), str(target), FAST).skipped
    assert not compress_shard(str(source), str(target), options).skipped


def test_recovery_data_is_wanted(tmp_path: Path) -> None:
    pytest.importorskip("zfec")
    source, target = tmp_path / "x", tmp_path / "x.densor"
    source.write_bytes(model_file())
    compress_shard(str(source), str(target), FAST)
    options = ShardOptions(level=1, recovery=5)
    assert not compress_shard(str(source), str(target), options).skipped
    assert compress_shard(str(source), str(target), options).skipped
    assert compress_shard(str(source), str(target), FAST).skipped
    assert not compress_shard(str(source), str(target), ShardOptions(level=1, recovery=9)).skipped
    assert_valid([(str(source), str(target))])


def test_shards_behind_urls() -> None:
    pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    memory = MemoryFileSystem()
    memory.store.clear()
    for name in ("a.safetensors", "deep/b.safetensors"):
        memory.pipe_file(f"/model/{name}", model_file())
    pairs = list_shards("memory://out", ["memory://model"])
    assert pairs[1] == (
        "memory://model/deep/b.safetensors",
        "memory://out/deep/b.safetensors.densor",
    )
    with ThreadPoolExecutor(2) as executor:
        assert not any(done.skipped for done in compress_shards(pairs, FAST, executor).done)
        assert all(done.skipped for done in compress_shards(pairs, FAST, executor).done)
        memory.pipe_file("/model/a.safetensors", model_file())
        report = compress_shards(pairs, FAST, executor)
    assert {done.source: done.skipped for done in report.done} == {
        "memory://model/a.safetensors": False,
        "memory://model/deep/b.safetensors": True,
    }
    memory.store.clear()


def test_which_shards(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["deep/config.json", *(f"model-{i}.safetensors" for i in range(4))]
    wanted = [(str(model / name), str(tmp_path / "out" / f"{name}.densor")) for name in names]
    assert list_shards("out", ["model"]) == wanted
    with pytest.raises(ArgumentError, match="both go to"):
        list_shards("out", ["model", "model/model-1.safetensors"])
    with pytest.raises(FileError, match="no such file"):
        list_shards("out", ["nosuch"])


# Many


def test_failures_are_tried_again_and_reported(model: Path, monkeypatch: Any) -> None:
    pairs = pairs_of(model)
    calls: dict[str, int] = {}

    def unreliable(source: str, target: str, options: ShardOptions) -> Stats:
        calls[source] = calls.get(source, 0) + 1
        if "model-1" in source and calls[source] < 3:
            raise FileError("not now")
        if "model-2" in source:
            raise OSError("never")
        if "model-3" in source:
            raise ArgumentError("not at all")
        return compress_shard(source, target, options)

    monkeypatch.setattr(shards, "compress_shard", unreliable)
    seen: list[Stats | Failure] = []
    with ThreadPoolExecutor(3) as executor:
        report = compress_shards(pairs, FAST, executor, retries=2, progress=seen.append)
    assert len(report.done) == 3
    failed = sorted((os.path.basename(f.source), f.reason, f.attempts) for f in report.failed)
    assert failed == [
        ("model-2.safetensors", "never", 3),
        ("model-3.safetensors", "not at all", 1),
    ]
    assert sorted(seen) == sorted([*report.done, *report.failed])


def test_nothing_to_do() -> None:
    assert compress_shards([], FAST, processes(2)) == Report([], [])


def deadly(source: str, target: str, options: ShardOptions) -> Stats:
    """Dies with its process on one shard."""
    if "model-1" in source:
        os._exit(1)
    return compress_shard(source, target, options)


def test_a_shard_that_kills_its_process(model: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(shards, "compress_shard", deadly)
    pairs = pairs_of(model)
    report = compress_shards(pairs, FAST, processes(2), window=2, retries=1)
    assert [os.path.basename(f.source) for f in report.failed] == ["model-1.safetensors"]
    assert report.failed[0].attempts == 2
    assert_valid([pair for pair in pairs if "model-1" not in pair[0]])


def wait_to_be_ended(started: str) -> None:
    Path(started).write_text("")
    time.sleep(300)


def test_one_signal_ends_a_process_at_work(tmp_path: Path) -> None:
    started = tmp_path / "started"
    executor: Any = processes(1)()
    future = executor.submit(wait_to_be_ended, str(started))
    while not started.exists():
        time.sleep(0.01)
    (process,) = executor._processes.values()
    process.terminate()
    assert future.exception(60) is not None
    until = time.monotonic() + 60
    while process.is_alive() and time.monotonic() < until:  # whose end the executor may see first
        time.sleep(0.01)
    assert not process.is_alive()
    executor.shutdown()


class Broken(ThreadPoolExecutor):
    """Has a process die, as it were, on the second shard."""

    def submit(self, *arguments: Any, **_: Any) -> Future[Any]:
        if "model-0" in arguments[1]:
            future: Future[Any] = Future()
            future.set_exception(BrokenExecutor("died"))
            return future
        if "model-1" in arguments[1]:
            raise BrokenExecutor("dead")
        return super().submit(*arguments)


def test_an_executor_that_cannot_be_replaced(model: Path) -> None:
    pairs = pairs_of(model)
    with Broken(1) as executor:
        report = compress_shards(pairs, FAST, executor)
    reasons = {os.path.basename(f.source): f.reason for f in report.failed}
    assert reasons == {f"model-{i}.safetensors": "no process is left" for i in range(4)}
    assert [done.source for done in report.done] == [pairs[0][0]]


SLOW = ShardOptions(level=8)


def slow_shards(folder: Path, count: int) -> list[Pair]:
    """Shards that take most of a second each at level 8."""
    folder.mkdir()
    for number in range(count):
        data = random_state(number).integers(0, 8, 1 << 18, np.uint8)
        (folder / str(number)).write_bytes(data)
    return pairs_of(folder)


def wait_for(condition: Callable[[], object]) -> Any:
    until = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


def temporary_files(pairs: list[Pair]) -> list[Path]:
    return list(Path(pairs[0][1]).parent.glob(".*.tmp"))


def test_interruption_leaves_nothing(tmp_path: Path) -> None:
    pairs = slow_shards(tmp_path / "model", 5)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        wait_for(lambda: temporary_files(pairs))
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            compress_shards(pairs, SLOW, processes(2), window=2)
    finally:
        signal.signal(signal.SIGINT, before)
    there = [pair for pair in pairs if os.path.exists(pair[1])]
    assert len(there) < 5
    assert_valid(there)
    assert not temporary_files(pairs)


def children_of(parent: int) -> list[int]:
    """Numbers of the processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            found += [int(status.parent.name)] * (int(fields[1]) == parent)
    return found


def is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start_slowly(tmp_path: Path) -> "subprocess.Popen[bytes]":
    """The command, at work at what `slow_shards` has made."""
    command = [sys.executable, "-m", "densor", "shards", "out", "model", "-8", "--jobs", "2", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(Path(densor.__file__).parents[1])}

    def heed() -> None:  # in the child: under nohup the tests themselves ignore SIGHUP
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    return subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=heed if hasattr(signal, "SIGHUP") else None,
    )


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs POSIX")
def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """All processes get the signal, and the parent alone decides."""
    pairs = slow_shards(tmp_path / "model", 3)
    running = start_slowly(tmp_path)
    wait_for(lambda: temporary_files(pairs))
    os.killpg(running.pid, signal.SIGHUP)
    assert running.communicate()[1] == b"densor: ended by SIGHUP\n"
    assert running.returncode == 128 + signal.SIGHUP
    assert not temporary_files(pairs)


def test_signals_wait_until_processes_are_started() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with shards._undisturbed():
            signal.raise_signal(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            assert not came
        assert set(came) == {signal.SIGTERM}
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_a_run_that_is_killed_can_be_run_again(tmp_path: Path) -> None:
    """Its processes end with it, and take their temporary files along."""
    pairs = slow_shards(tmp_path / "model", 3)
    running = start_slowly(tmp_path)
    wait_for(lambda: temporary_files(pairs))
    children = children_of(running.pid)
    assert len(children) >= 2
    running.kill()
    running.wait()
    wait_for(lambda: not any(map(is_running, children)))
    assert not temporary_files(pairs)
    with ThreadPoolExecutor(2) as executor:
        report = compress_shards(pairs, SLOW, executor)
    assert len(report.done) == 3
    assert_valid(pairs)


# Ray


def noting(folder: str, work: Callable[..., Stats], *arguments: Any) -> Stats:
    """Tells the number of its process."""
    (Path(folder) / str(os.getpid())).touch()
    return work(*arguments)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of three workers on this machine."""
    ray = pytest.importorskip("ray")
    paths = [str(Path(__file__).parent), str(SUPPORT), str(Path(densor.__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80 << 20,
    )
    yield ray
    ray.shutdown()


@pytest.mark.slow  # a cluster takes its time to start
def test_a_ray_worker_is_killed(cluster: Any, tmp_path: Path) -> None:
    from densor.files.ray_executor import RayExecutor

    workers = tmp_path / "workers"
    workers.mkdir()
    pairs = slow_shards(tmp_path / "model", 6)

    class Noting(RayExecutor):
        def submit(self, fn: Any, /, *arguments: Any, **_: Any) -> Future[Any]:
            return super().submit(noting, str(workers), fn, *arguments)

    killed = []

    def kill() -> None:
        wait_for(lambda: temporary_files(pairs))
        killed.extend(int(path.name) for path in workers.iterdir())
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    executor: Executor = Noting()
    report = compress_shards(pairs, SLOW, executor)
    killer.join()
    executor.shutdown()
    assert killed and not os.path.exists(f"/proc/{killed[0]}")
    assert len(report.done) == 6 and not report.failed
    assert len(list(workers.iterdir())) > 1
    assert_valid(pairs)
    again = compress_shards(pairs, SLOW, RayExecutor())
    assert all(done.skipped for done in again.done) and len(again.done) == 6
    missing = [(str(tmp_path / "nosuch"), pairs[0][1])]
    (failure,) = compress_shards(missing, FAST, RayExecutor(), retries=1).failed
    assert failure.attempts == 2
    assert failure.reason == f"{tmp_path}/nosuch: No such file or directory"


def test_ray_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    from densor.files.ray_executor import RayExecutor

    with pytest.raises(densor.UnsupportedError, match=r'pip install "densor\[ray\]"'):
        RayExecutor()


# The command line


def test_command_line(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from densor.cli.main import main

    monkeypatch.chdir(model.parent)
    command = ["shards", "out", "model", "-1", "--jobs", "1", "--retries", "0"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["shard", "original", "stored", "ratio", "seconds", "state"]
    assert len(lines) == 7 and all("packed" in line for line in lines[1:-1])
    assert lines[-1].startswith("total") and lines[-1].endswith("all there")
    (model / "model-1.safetensors").unlink()
    (model / "model-1.safetensors").symlink_to("model-2.safetensors")
    Path("out/model-3.safetensors.densor").unlink()
    Path("out/model-3.safetensors.densor").mkdir()
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert out.count("was there") == 3 and out.count("packed") == 1
    assert out.count("failed, 1 try") == 1 and "1 failed" in out
    assert err == f"densor: {model.parent}/out/model-3.safetensors.densor: Is a directory\n"
    assert main(["shards", "-q", "out", "model/deep", "--jobs", "x"]) == 2
    assert "argument --jobs: 'x' is neither a number nor ray" in capsys.readouterr()[1]
