"""Work in order by many threads, and output that is written so."""

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import random_state

import densor
from densor.codec.spans import decode as span_decoder
from densor.formats.container import stream_reader
from densor.formats.container.sinks import PlacedFileSink
from densor.formats.io.ordered_output import OrderedOutput
from densor.formats.io.outputs import MemoryFile, WholeFile, whole_file
from densor.runtime import workers
from densor.runtime.in_turn import InTurn
from densor.runtime.workers import Workers


def test_work_is_done_in_order_by_whoever_comes() -> None:
    turns, done = InTurn(), []
    cuts = [0, *sorted(random_state("turns").choice(10_000, 300, False).tolist()), 10_000]
    pairs = list(itertools.pairwise(cuts))
    random_state("order").shuffle(pairs)

    def add(part: list[Any]) -> None:
        for begin, end in part:
            turns.add(begin, end, done.append, (begin, end))

    threads = [threading.Thread(target=add, args=(pairs[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    turns.wait(10_000)
    for thread in threads:
        thread.join()
    assert done == sorted(pairs)


def test_an_error_is_for_who_waits_and_ends_the_work() -> None:
    turns, done = InTurn(), []
    turns.add(5, 9, done.append, 2)
    turns.add(0, 3, done.append, 0)
    turns.add(3, 5, {}.__getitem__, "no such key")
    turns.wait(3)
    assert not turns.is_done(5)
    with pytest.raises(KeyError):
        turns.wait(9)
    turns.stop()
    assert done == [0]


def test_stopping_waits_for_what_has_begun() -> None:
    turns, begun, go_on, done = InTurn(), threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go_on.wait()
        done.append(0)

    thread = threading.Thread(target=turns.add, args=(0, 1, work))
    thread.start()
    begun.wait()
    turns.add(1, 2, done.append, 1)
    threading.Timer(0.05, go_on.set).start()
    turns.stop()
    assert done == [0]
    thread.join()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("memory", [False, True])
def test_output_is_what_was_put(threads: int, memory: bool, tmp_path: Path) -> None:
    rng = random_state("output")
    workers = Workers(threads)
    pieces = [rng.bytes(size) for size in rng.choice([1, 28, 70_000, 300_000], 60).tolist()]
    expected = b"head" + b"".join(pieces)
    given: list[int] = []

    def write(file: Any) -> None:
        file.write(b"head")
        out = OrderedOutput(file, workers)
        for number, piece in enumerate(pieces):
            if number % 3:
                out.put_later(len(piece), lambda piece=piece: (piece[:10], piece[10:]))
                out.then(given.append, number)
            else:
                changing = bytearray(piece)
                out.put(changing)
                changing[:] = bytes(len(changing))
        out.finish()
        assert file.tell() == len(expected)

    if memory:
        file = MemoryFile(1000)
        write(file)
        assert file.getvalue() == expected
    else:
        with whole_file(tmp_path / "out", False) as whole:
            write(whole)
        assert (tmp_path / "out").read_bytes() == expected
    assert given == [number for number in range(60) if number % 3]


@pytest.mark.parametrize("threads", [2, 5])
def test_a_full_disk_that_other_threads_meet(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is, and whether at the first or the last piece."""
    rng = random_state("full")
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    weights = rng.normal(size=3 << 20).astype(np.float32).view(np.uint16)[1::2]
    plain.write_bytes(weights.tobytes())
    densor.compress_file(plain, packed, 1, threads, dtype="bf16")
    real = WholeFile.write_at
    for room in (0, 1 << 20, 3 << 20):
        for action in (
            lambda: densor.compress_file(plain, tmp_path / "out", 1, threads, dtype="bf16"),
            lambda: densor.decompress_file(packed, tmp_path / "out", threads),
        ):
            left = [room]

            def write_at(self: WholeFile, data: Any, offset: int, left: list[int] = left) -> None:
                left[0] -= len(memoryview(data).cast("B"))
                if left[0] < 0:
                    raise densor.FileError("cannot write: No space left")
                real(self, data, offset)

            with monkeypatch.context() as patch:
                patch.setattr(WholeFile, "write_at", write_at)
                with pytest.raises(densor.FileError, match="No space left"):
                    action()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "plain"]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_source_that_shrinks_is_noticed(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from densor.files import new_archive

    plain = tmp_path / "plain"
    plain.write_bytes(random_state("shrinks").bytes(1 << 20))
    original = new_archive.plan_file

    def plan(*arguments: Any, **options: Any) -> Any:
        made = original(*arguments, **options)
        plain.write_bytes(b"x" * 1000)
        return made

    monkeypatch.setattr(new_archive, "plan_file", plan)
    with pytest.raises(densor.FileError, match="change"):
        densor.compress_file(plain, tmp_path / "out", 1, threads)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_work_that_nobody_has_begun_is_done_at_once() -> None:
    workers, go_on, done = Workers(2), threading.Event(), []
    busy = [workers.submit(go_on.wait) for _ in range(2)]
    task = workers.submit(done.append, 1)
    interrupted = workers.submit(_interrupt)
    try:
        assert not task.done()
        task.begin()
        assert done == [1] and task.done()
        with pytest.raises(KeyboardInterrupt):
            interrupted.begin()
    finally:
        go_on.set()
    for one in busy:
        one.result()
    task.begin()
    task.result()
    assert done == [1]


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_reading_goes_on_while_a_thread_writes_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread whose turn it is writes what others have decoded, for as long as there is some.

    What it has decoded itself must not count as unfinished for so long.
    """
    rng = random_state("goes on")
    weights = rng.normal(size=(10 << 20) + 1).astype(np.float32).view(np.uint16)[1::2]
    packed = densor.compress(weights, 1, 2, dtype="bf16")
    for module in (stream_reader, span_decoder):
        monkeypatch.setattr(module, "SPAN", 1 << 16)  # so that each chunk is one
    begun, filled, written = itertools.count(), [], []
    last = [0]
    real_buffer, real_filled = PlacedFileSink.buffer, PlacedFileSink.filled
    real_write = WholeFile.write_at

    def buffer(self: PlacedFileSink, size: int) -> Any:
        last[0] = next(begun)
        return real_buffer(self, size)

    def fill(self: PlacedFileSink, data: Any, at: int) -> None:
        filled.append(at)
        real_filled(self, data, at)

    def write_at(self: WholeFile, data: Any, offset: int) -> None:
        if not written:  # all that may wait is decoded
            assert _wait_until(lambda: len(filled) >= 6)
        if len(written) == 4:
            assert _wait_until(lambda: last[0] > 7)
        written.append(offset)
        real_write(self, data, offset)

    # The thread that reads would write itself, and read no more, where it decodes what none of the
    # others has begun, as happens on a busy machine: here they do all.
    monkeypatch.setattr(workers._Submitted, "begin", lambda self: None)
    monkeypatch.setattr(PlacedFileSink, "buffer", buffer)
    monkeypatch.setattr(PlacedFileSink, "filled", fill)
    monkeypatch.setattr(WholeFile, "write_at", write_at)
    source = tmp_path / "packed"
    source.write_bytes(packed)
    densor.decompress_file(source, tmp_path / "out", 2)
    assert len(written) > 12
    assert (tmp_path / "out").read_bytes() == weights.tobytes()


def _wait_until(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within a minute."""
    for _ in range(6000):
        if condition():
            return True
        threading.Event().wait(0.01)
    return False
