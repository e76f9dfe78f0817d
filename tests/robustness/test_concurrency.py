"""One reader in many threads, many readers in many processes, forks at a bad moment."""

import io
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import put_together, random_state, safetensors_bytes, take_apart, weights

import densor
from densor.files.packed_model import Bases
from densor.runtime.buffers import POOL, BufferPool, ThreadBuffers
from densor.runtime.huge_pages import HUGE_PAGES
from densor.runtime.locks import Lock
from densor.runtime.workers import Workers, settle

TENSORS = {
    "bf16": ("BF16", weights("bf16", 300, 257)),
    "fp32": ("F32", weights("fp32", 90, 301)),
    "steps": ("I64", np.arange(30_000, dtype="<i8").reshape(-1, 10)),
    "noise": ("U8", random_state("noise").integers(0, 256, (500, 100), np.uint8)),
    "sparse": ("F16", np.where(weights("fp16", 200, 100) % 5 == 0, weights("fp16", 200, 100), 0)),
    "again": ("BF16", weights("bf16", 300, 257)),
}
SECONDS = 60  # that no test takes
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of several entries: a file at level 6, a changed one, all codecs but mixing."""
    folder = tmp_path_factory.mktemp("model")
    described = {
        n: (d, a.shape, np.ascontiguousarray(a).tobytes()) for n, (d, a) in TENSORS.items()
    }
    (folder / "m").write_bytes(safetensors_bytes(described))
    path = folder / "m.densor"
    densor.compress_file(folder / "m", path, 6, threads=1)
    return path


def check_reads(file: Any, seed: int, count: int = 25) -> None:
    """Reads random tensors and slices, and compares every bit."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        name = str(rng.choice(list(TENSORS)))
        wanted = TENSORS[name][1]
        if rng.random() < 0.4:
            found = file.get_tensor(name)
        else:
            begin, end = sorted(rng.integers(0, len(wanted) + 1, 2).tolist())
            found, wanted = file.get_slice(name)[begin:end], wanted[begin:end]
        assert found.tobytes() == np.ascontiguousarray(wanted).tobytes()


def in_threads(work: Callable[[int], object], count: int = 8) -> None:
    """Does `work` in so many threads at once; raises what it raises."""
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait(SECONDS)
        work(number)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(run, range(count)))


@pytest.fixture
def eager_switches() -> Iterator[None]:
    """Threads take turns after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_switches")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kind", ["path", "memory", "file object"])
def test_one_reader_in_many_threads(model: Path, threads: int, kind: str) -> None:
    source: Any = {
        "path": model,
        "memory": model.read_bytes(),
        "file object": io.BytesIO(model.read_bytes()),
    }[kind]
    with densor.open(source, threads=threads) as file:
        in_threads(lambda seed: check_reads(file, seed))


@pytest.mark.usefixtures("eager_switches")
def test_an_entry_and_its_base_in_many_threads(tmp_path: Path) -> None:
    """Chunks of bases are kept and shared between reads."""
    before = weights("bf16", 200, 300)
    after = before + (np.arange(before.size).reshape(before.shape) % 9 == 0).astype(np.uint16)
    for name, bits in (("old", before), ("new", after)):
        data = safetensors_bytes({f"w {name}": ("BF16", bits.shape, bits.tobytes())})
        (tmp_path / name).write_bytes(data)
    densor.pack([tmp_path / "old"], tmp_path / "a.densor")
    densor.archives.append(tmp_path / "a.densor", tmp_path / "new")
    with densor.open(tmp_path / "a.densor", threads=2) as file:

        def read(seed: int) -> None:
            rng = np.random.default_rng(seed)
            for begin in rng.integers(0, 199, 20).tolist():
                for name, bits in (("w new", after), ("w old", before)):
                    rows = file.get_slice(name)[begin : begin + 2]
                    assert rows.tobytes() == bits[begin : begin + 2].tobytes()

        in_threads(read)


@pytest.mark.usefixtures("eager_switches")
def test_compressing_in_many_threads_gives_the_same_bytes() -> None:
    arrays = [weights(kind, 60, 200) for kind in ("bf16", "fp16", "fp32", "fp64")]
    dtypes = ["bf16", "f16", "f32", "f64"]

    def packed(level: int) -> list[bytes]:
        pairs = zip(arrays, dtypes, strict=True)
        return [densor.compress(a, level, 1 + level % 3, dtype=d) for a, d in pairs]

    wanted = {level: packed(level) for level in (1, 3, 6, 9)}

    def work(number: int) -> None:
        level = (1, 3, 6, 9)[number % 4]
        found = packed(level)
        assert found == wanted[level]
        for blob, array in zip(found, arrays, strict=True):
            assert densor.decompress(blob, 2).tobytes() == array.tobytes()

    in_threads(work)


@pytest.mark.usefixtures("eager_switches")
def test_files_written_in_many_threads(tmp_path: Path) -> None:
    """Each has the permissions that the umask leaves, which stays what it was."""
    mask = os.umask(0o027)
    try:
        tensors = {"w": weights("bf16", 20, 100)}

        def write(number: int) -> None:
            for i in range(10):
                densor.save_file(tensors, tmp_path / f"{number} {i}", threads=1)

        in_threads(write)
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
        assert len(list(tmp_path.iterdir())) == 80
    finally:
        after = os.umask(mask)
    assert after == 0o027


def test_the_pool_never_lends_a_buffer_twice() -> None:
    pool = BufferPool(1 << 22)

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        for _ in range(300):
            buffer = pool.take(int(rng.integers(1 << 16, 1 << 18)))
            buffer[:: 1 << 12] = number
            time.sleep(0)
            assert (buffer[:: 1 << 12] == number).all()
            pool.give(buffer)
            pool.give(buffer)  # once more does nothing

    in_threads(work)


def test_the_pool_lends_again_what_nobody_holds() -> None:
    pool = BufferPool(1 << 22)
    first = pool.take_until_dropped(1 << 16)
    pool.give(first)  # does nothing: it comes back by itself
    place = first.ctypes.data
    second = pool.take_until_dropped(1 << 16)
    assert second.ctypes.data != place
    del first
    assert pool.take_until_dropped(1 << 16).ctypes.data == place

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        held: list[np.ndarray] = []
        for _ in range(300):
            held.append(pool.take_until_dropped(int(rng.integers(1 << 16, 1 << 18))))
            held[-1][:: 1 << 12] = number
            time.sleep(0)
            assert all((buffer[:: 1 << 12] == number).all() for buffer in held)
            del held[: len(held) - 3]

    in_threads(work)


def test_buffers_of_threads_are_their_own() -> None:
    buffers = ThreadBuffers()

    def work(number: int) -> None:
        for size in (100, 1000, 10):
            buffer = buffers.take("name", size)
            buffer[:] = number
            time.sleep(0)
            assert (buffer == number).all() and buffer.size == size

    in_threads(work)


def test_work_that_submits_work_ends() -> None:
    """Every thread of the pool waits for work that it has submitted itself."""
    workers = Workers(2)

    def outer(number: int) -> int:
        return sum(task.result() for task in [workers.submit(int, number) for _ in range(4)])

    tasks = [workers.submit(outer, number) for number in range(6)]
    assert [task.result() for task in tasks] == [4 * number for number in range(6)]


def test_an_archive_within_an_archive(model: Path, tmp_path: Path) -> None:
    """The file object that an archive is read from is an archive itself, of the same threads."""
    outer = tmp_path / "outer.densor"
    densor.pack([model], outer)

    class Inner(io.RawIOBase):
        def __init__(self, file: Any) -> None:
            self._archive = file._archive
            self._entry = self._archive.entries[0]
            self._at = 0

        def readable(self) -> bool:
            return True

        def seekable(self) -> bool:
            return True

        def tell(self) -> int:
            return self._at

        def seek(self, offset: int, whence: int = 0) -> int:
            self._at = offset + (self._entry.size if whence == 2 else 0)
            return self._at

        def readinto(self, buffer: Any) -> int:
            end = min(self._at + len(buffer), self._entry.size)
            data = self._archive.read(self._entry, self._at, end)
            buffer[: data.size] = data
            self._at = end
            return int(data.size)

    with densor.open(outer, threads=2) as file, densor.open(Inner(file), threads=2) as inner:
        in_threads(lambda seed: check_reads(inner, seed, 6), 4)


def test_after_an_error_nobody_writes_to_the_buffer(tmp_path: Path) -> None:
    """The first chunk is bad, and the others may be in work when that is found."""
    bits = weights("bf16", 3000, 512)
    frames = take_apart(densor.compress(bits, 3, dtype="bf16"))
    chunks = [i for i, frame in enumerate(frames) if frame.kind == 3]
    assert len(chunks) > 2
    from dataclasses import replace

    frames[chunks[0]] = replace(frames[chunks[0]], payload=frames[chunks[0]].payload[:-9])
    bad = put_together(frames)
    out = np.empty(bits.nbytes, np.uint8)
    for _ in range(5):
        with pytest.raises(densor.DensorError):
            densor.decompress(bad, 3, out=out.view(np.uint16).reshape(bits.shape))
        out[:] = 7
        time.sleep(0.01)
        assert (out == 7).all()


def test_settling_waits_for_what_has_begun() -> None:
    workers = Workers(2)
    done: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.05)
        done.append(number)
        raise ValueError

    tasks = [workers.submit(work, number) for number in range(10)]
    settle(tasks)
    found = list(done)
    assert len(found) < 10
    time.sleep(0.1)
    assert done == found
    workers.close()


def test_a_closed_archive_is_not_read(model: Path, tmp_path: Path) -> None:
    """The number of its file may be that of another file by then."""
    file = densor.open(model, threads=1)
    file.close()
    (tmp_path / "other").write_bytes(model.read_bytes())
    with (tmp_path / "other").open("rb"), pytest.raises(densor.FileError, match="closed"):
        file.get_tensor("bf16")


def test_closing_while_others_read(model: Path) -> None:
    """Readers end, with data or an error."""
    for _ in range(5):
        file = densor.open(model, threads=2)

        def read(number: int, file: Any = file) -> None:
            if number == 0:
                file.close()
                return
            try:
                check_reads(file, number, 5)
            except (densor.DensorError, OSError, RuntimeError, Exception) as error:
                assert not isinstance(error, AssertionError), error

        in_threads(read, 4)


# Processes


def child_of(work: Callable[[], object]) -> None:
    """Does `work` in a forked child; fails unless it ends well, and soon."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(SECONDS)
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


@forks
@pytest.mark.parametrize("threads", [1, 2])
def test_a_reader_goes_on_in_a_forked_child(model: Path, threads: int) -> None:
    with densor.open(model, threads=threads) as file:
        check_reads(file, 1)  # threads and kernels are there
        child_of(lambda: check_reads(file, 2))
        check_reads(file, 3)
        child_of(lambda: in_threads(lambda seed: check_reads(file, seed, 5), 3))


@forks
def test_forks_while_threads_are_at_work(model: Path) -> None:
    """Some of them hold locks or buffers at that moment."""
    ends = threading.Event()
    with densor.open(model, threads=2) as file:

        def busy(seed: int) -> None:
            while not ends.is_set():
                check_reads(file, seed, 3)
                densor.compress(TENSORS["bf16"][1], threads=2, dtype="bf16")

        with ThreadPoolExecutor(4) as pool:
            tasks = [pool.submit(busy, seed) for seed in range(4)]
            try:
                for seed in range(12):
                    child_of(lambda seed=seed: check_reads(file, seed, 4))
            finally:
                ends.set()
            for task in tasks:
                task.result()


@forks
def test_locks_held_elsewhere_are_open_in_a_child() -> None:
    lock = Lock()
    held = threading.Event()
    ends = threading.Event()

    def hold() -> None:
        with lock, POOL._lock, HUGE_PAGES._lock, Bases._finding:
            held.set()
            ends.wait(SECONDS)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(SECONDS)

    def take() -> None:
        with lock, Bases._finding:
            POOL.give(POOL.take(1 << 20))
            HUGE_PAGES.take(1 << 21)

    try:
        child_of(take)
    finally:
        ends.set()
        thread.join()


@forks
def test_a_fork_waits_for_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the functions for products, too: a child would wait for ever for who compiles there."""
    from densor.products import entry_kernels

    begun, forked = threading.Event(), threading.Event()
    compiled = entry_kernels._compiled

    def slow(function: Any) -> Any:
        begun.set()
        forked.wait(0.2)
        return compiled(function)

    monkeypatch.setattr(entry_kernels, "_compiled", slow)
    thread = threading.Thread(target=entry_kernels.product_address, args=(entry_kernels.BF16, 1))
    thread.start()
    begun.wait(SECONDS)
    child_of(lambda: entry_kernels.product_address(entry_kernels.BF16, 1))
    forked.set()
    thread.join()


@forks
def test_garbage_is_collected_in_a_child_whatever_others_did() -> None:
    """Another thread has paused collection for a while when the fork comes."""
    import gc

    from densor.runtime.gc_pause import collection_paused

    paused, ends = threading.Event(), threading.Event()

    def pause() -> None:
        with collection_paused():
            paused.set()
            ends.wait(SECONDS)

    thread = threading.Thread(target=pause)
    thread.start()
    paused.wait(SECONDS)

    def check() -> None:
        assert gc.isenabled()

    try:
        assert not gc.isenabled()
        child_of(check)
    finally:
        ends.set()
        thread.join()
    assert gc.isenabled()


def _read_elsewhere(file: Any) -> int:
    check_reads(file, os.getpid(), 10)
    return os.getpid()


@forks
def test_many_readers_of_one_file(model: Path) -> None:
    """The reader itself goes to other processes, where the archive is opened anew."""
    context = multiprocessing.get_context("fork")
    with densor.open(model, threads=2) as file, context.Pool(3) as pool:
        check_reads(file, 1)
        assert os.getpid() not in pool.map_async(_read_elsewhere, [file] * 12).get(SECONDS)


def test_a_reader_is_sent_with_all_it_was_given(model: Path) -> None:
    with densor.open(model, "np", 2, max_output_size=1000) as file:
        there = pickle.loads(pickle.dumps(file))
        assert there._arguments == file._arguments
        with there, pytest.raises(densor.LimitError):
            there.get_tensor("bf16")
    with densor.open(model.read_bytes()) as file, pickle.loads(pickle.dumps(file)) as there:
        check_reads(there, 1)
    with model.open("rb") as raw, densor.open(raw) as file, pytest.raises(TypeError):
        pickle.dumps(file)


PROGRAM = """
import sys
import numpy as np
import torch
import densor

class Rows(torch.utils.data.Dataset):
    def __init__(self, path):
        self.file = densor.open(path, "torch", threads=2)
    def __len__(self):
        return 300
    def __getitem__(self, i):
        return self.file.get_slice("bf16")[i].view(torch.int16)

if __name__ == "__main__":
    path, method = sys.argv[1:]
    data = Rows(path)
    whole = torch.stack([data[i] for i in range(300)])
    loader = torch.utils.data.DataLoader(
        data, batch_size=50, num_workers=2, multiprocessing_context=method, persistent_workers=True
    )
    for _ in range(2):
        assert torch.equal(torch.cat(list(loader)), whole)
    assert torch.equal(torch.stack([data[i] for i in range(300)]), whole)
    print("sound")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_dataset_in_the_workers_of_a_dataloader(model: Path, tmp_path: Path, method: str) -> None:
    """The parent has used the reader, its threads and buffers before."""
    pytest.importorskip("torch")
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), str(model), method],
        capture_output=True,
        text=True,
        timeout=4 * SECONDS,
        env=os.environ | {"PYTHONPATH": str(Path(densor.__file__).parent.parent)},
    )
    assert done.stdout == "sound\n", done.stderr


def test_an_interrupt_of_one_task_leaves_no_other_alone() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    ended: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.05)
        ended.append(number)

    workers = Workers(3)
    tasks = [workers.submit(interrupted), *(workers.submit(work, i) for i in range(2))]
    time.sleep(0.02)
    settle(tasks)
    assert sorted(ended) == [0, 1]
    workers.close()


def test_the_pool_keeps_no_more_of_what_nobody_holds_than_it_may() -> None:
    pool = BufferPool(3 << 16)
    views = [pool.take_until_dropped(1 << 16) for _ in range(8)]
    views.clear()
    assert sum(buffer.size for buffer in pool._dropped) == 3 << 16
    last = pool.take_until_dropped(1 << 16)
    gone = weakref.ref(pool)
    del pool
    assert gone() is None and last.size == 1 << 16
