"""Many files, each to an archive of its own: in processes, on Ray, on any executor. Resumable.

    pairs = list_shards("s3://bucket/packed", ["s3://bucket/model"])
    report = compress_shards(pairs, ShardOptions(level=6), processes(8))

Run it again after whatever has happened: destinations that are whole and of the same source are
passed over, all others are made anew.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from densor.errors import ArgumentError, DensorError, UnsupportedError
from densor.files.folder import LeftOut, members
from densor.files.opened import Input, entry_name, open_input
from densor.files.single import compress_file, verify_file
from densor.formats.container.archive import Archive
from densor.formats.container.entry import FILE
from densor.formats.container.hashing import DEFAULT, KINDS, new_hash
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.container.open_base import open_base
from densor.formats.damage.recovery import find_layout
from densor.formats.io.outputs import errors_of
from densor.formats.io.sources import source_of
from densor.formats.io.urls import is_url, join, plain
from densor.options import ReadOptions, WriteOptions

SUFFIX = ".densor"
_PIECE = 1 << 23  # bytes hashed at a time
_HOPELESS = (ArgumentError, UnsupportedError)  # errors that another attempt would meet again


@dataclass(frozen=True, kw_only=True, repr=False)
class ShardOptions(WriteOptions):
    """How shards are compressed: by one thread each, since there are many."""

    threads: int = 1


class Stats(NamedTuple):
    """A shard that is done; sizes in bytes."""

    source: str
    target: str
    original: int
    stored: int
    seconds: float
    skipped: bool  # it was there already


class Failure(NamedTuple):
    """A shard that is not done, and why."""

    source: str
    target: str
    reason: str
    attempts: int


class Report(NamedTuple):
    """What became of all shards."""

    done: list[Stats]
    failed: list[Failure]


Pair = tuple[str, str]


def list_shards(target: str, sources: Iterable[str], left_out: LeftOut | None = None) -> list[Pair]:
    """Source and destination of each file: FILE or FOLDER/a/b to TARGET/a/b.densor.

    Paths or URLs. Archives are passed over. `left_out`: called for each thing within a folder that
    cannot be packed, as for `densor.pack`; without it, that is an error. ArgumentError if two have
    the same destination.
    """
    target = _absolute(target)
    pairs: dict[str, str] = {}
    for path, name, _ in members(sources, left_out):
        if name.endswith(SUFFIX) or (isinstance(path, Path) and path.is_dir()):
            continue
        place = join(target, name + SUFFIX) if is_url(target) else str(Path(target, name + SUFFIX))
        if place in pairs:
            raise ArgumentError(f"{pairs[place]} and {path}: both go to {place}")
        pairs[place] = _absolute(str(path))
    return [(source, place) for place, source in pairs.items()]


def _absolute(place: str) -> str:
    """A path as every worker understands it."""
    place = plain(place)
    return place if is_url(place) else os.path.abspath(place)


def compress_shard(src_url: str, dst_url: str, options: WriteOptions) -> Stats:
    """Compresses a file to an archive, unless it has been done; paths or URLs.

    May be called again, anywhere, at any time: the destination appears whole or not at all, and
    what is there is replaced unless it is valid: by its index, and the size and time of its source,
    which must be known, unless contents are compared.
    With `options.verify`, what is written is decoded and compared, and so is what was there, with
    its source. Raises a DensorError.
    """
    began = time.perf_counter()
    there = _stored_if_valid(src_url, dst_url, options)
    if there is not None:
        original, stored = there
        return Stats(src_url, dst_url, original, stored, time.perf_counter() - began, True)
    if not is_url(dst_url):
        with errors_of(dst_url):
            Path(dst_url).parent.mkdir(parents=True, exist_ok=True)
    options = replace(options, overwrite=True, verify=options.verify or None)
    sizes = compress_file(src_url, dst_url, options=options)
    return Stats(src_url, dst_url, *sizes, time.perf_counter() - began, False)


def _stored_if_valid(source: str, target: str, options: WriteOptions) -> tuple[int, int] | None:
    """Original and stored bytes of a destination that need not be made anew, else None."""
    with open_input(source) as wanted:
        try:
            with open_input(target) as opened:
                if opened.random is None:
                    return None
                archive = Archive(opened.random, ReadOptions(threads=1))
                stored = opened.random.size
                with open_base(options.reading()) as base:
                    wanted_base = None if base is None else base.reference(options.hash)
                valid = (
                    len(archive.entries) == 1
                    and _is_of(archive.entries[0], entry_name(source)[0], wanted, options)
                    and archive.entries[0].meta.base == wanted_base
                )
                if options.recovery is not None:
                    layout = find_layout(opened.random, thorough=False)
                    valid = valid and layout is not None and layout.percent >= options.recovery
                if valid and options.verify:
                    entry = verify_file(target, options=options.reading())[0]
                    valid = entry.digest == _digest(wanted, options.hash)
                return (archive.entries[0].size, stored) if valid else None
        except DensorError:  # it is not there, was cut off, or is something else
            return None


def _is_of(entry: IndexedEntry, name: str, wanted: Input, options: WriteOptions) -> bool:
    meta = entry.meta
    if wanted.mtime_ns is None and not options.verify:
        return False  # such as of web servers: it may be another file of the same size
    return (
        (meta.kind, meta.name) == (FILE, name)
        and (entry.size, meta.mtime_ns) == (wanted.size, wanted.mtime_ns)
        and entry.hash_kind == KINDS[options.hash or DEFAULT]
    )


def _digest(wanted: Input, hash: str | None) -> bytes:
    hasher = new_hash(hash)
    source = source_of(wanted.file)
    while (piece := source.take(_PIECE)).size:
        hasher.update(piece)
    return hasher.digest()


def processes(jobs: int) -> Callable[[], Executor]:
    """What makes pools of so many processes of their own, for `compress_shards`."""
    context = multiprocessing.get_context("spawn")  # a fork would take locks of threads along
    return lambda: ProcessPoolExecutor(jobs, context, initializer=_prepare_worker)


_ENDING = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Around what starts processes: signals come once they are there.

    To these, too, which begin with them held back: to one that is being started, or has no handlers
    yet, they would come as errors.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in _ENDING}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:  # since they may come to other threads
        signal.signal(number, lambda number, _: came.append(number))
    try:
        with _held_back():
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Keeps signals from this thread and the processes that it starts, where the system can."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        resource_tracker.ensure_running()  # which lets some of them in
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker() -> None:
    """Lets the parent decide when to end, or ends when it is gone; temporary files go then."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))  # nothing to tidy yet
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _end(*_: object) -> None:
    """Ends the shard in work. Pools catch that, and wait for another one: it is said again then."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    threading.Thread(target=_insist, daemon=True).start()
    sys.exit(128 + signal.SIGTERM)


def _insist() -> None:
    while True:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def compress_shards(
    pairs: Iterable[Pair],
    options: WriteOptions,
    executor: Executor | Callable[[], Executor],
    *,
    window: int | None = None,
    retries: int = 2,
    progress: Callable[[Stats | Failure], object] | None = None,
) -> Report:
    """Runs `compress_shard` for each pair of source and destination.

    `executor`: any of `concurrent.futures`, which stays open, or what makes one, such as
    `processes(8)`: then it is replaced when it breaks because one of its processes has died.
    `window`: how many shards are given to it at a time. `retries`: how often a shard that has
    failed is tried again. `progress`: called in this thread with each result.
    """
    run = _Run([_Shard(*pair) for pair in pairs], options, executor, window, retries, progress)
    try:
        return run.go()
    finally:
        run.close()


@dataclass
class _Shard:
    source: str
    target: str
    attempts: int = 0


class _Run:
    """One run of `compress_shards`: what waits, what is in work, what is done."""

    def __init__(
        self,
        shards: list[_Shard],
        options: WriteOptions,
        executor: Executor | Callable[[], Executor],
        window: int | None,
        retries: int,
        progress: Callable[[Stats | Failure], object] | None,
    ) -> None:
        self._waiting = deque(shards)
        self._suspects: deque[_Shard] = deque()  # in work when a process died; tried one by one
        self._running: dict[Future[Stats], _Shard] = {}
        self._finished: SimpleQueue[Future[Stats]] = SimpleQueue()
        self._options = options
        self._given = executor if isinstance(executor, Executor) else None
        self._make = None if isinstance(executor, Executor) else executor
        self._own: Executor | None = None
        self._broken = False
        self._window = window or len(shards)
        self._retries = retries
        self._progress = progress
        self._report = Report([], [])

    def go(self) -> Report:
        while self._waiting or self._suspects or self._running:
            self._fill()
            if not self._running:
                break
            future = self._finished.get()
            self._take(self._running.pop(future), future)
        for shard in (*self._waiting, *self._suspects):  # the executor given is broken
            self._end(Failure(shard.source, shard.target, "no process is left", shard.attempts))
        return self._report

    def _fill(self) -> None:
        if self._broken and not self._running and self._make is not None:
            self._stop()
            self._broken = False
        while self._waiting and len(self._running) < self._window and not self._broken:
            self._submit(self._waiting.popleft())
        if self._suspects and not self._running and not self._broken:
            self._submit(self._suspects.popleft())

    def _submit(self, shard: _Shard) -> None:
        arguments = shard.source, shard.target, self._options
        try:
            with contextlib.nullcontext() if self._given else _undisturbed():
                future = self._executor().submit(compress_shard, *arguments)
        except BrokenExecutor:
            self._broken = True
            self._waiting.appendleft(shard)
            return
        shard.attempts += 1
        self._running[future] = shard
        future.add_done_callback(self._finished.put)

    def _executor(self) -> Executor:
        """The one that was given, or one of our own."""
        executor = self._given or self._own
        if executor is None:
            assert self._make is not None
            executor = self._own = self._make()
        return executor

    def _take(self, shard: _Shard, future: Future[Stats]) -> None:
        error = future.exception()
        if error is None:
            self._end(future.result())
            return
        if isinstance(error, BrokenExecutor):
            self._broken = True
        if shard.attempts > self._retries or isinstance(error, _HOPELESS):
            reason = str(error) or type(error).__name__
            self._end(Failure(shard.source, shard.target, reason, shard.attempts))
        elif isinstance(error, BrokenExecutor):
            self._suspects.append(shard)
        else:
            self._waiting.append(shard)

    def _end(self, result: Stats | Failure) -> None:
        if isinstance(result, Stats):
            self._report.done.append(result)
        else:
            self._report.failed.append(result)
        if self._progress is not None:
            self._progress(result)

    def close(self) -> None:
        """Ends what is still in work, after an interruption."""
        for future in self._running:
            future.cancel()
        self._stop()

    def _stop(self) -> None:
        if self._own is None:
            return
        # Of a pool of processes, those that are at work; Python has no public way before 3.14.
        pool = getattr(self._own, "_processes", None) or {} if self._running else {}
        for process in pool.values():
            with contextlib.suppress(Exception):
                process.terminate()
        self._own.shutdown(wait=True, cancel_futures=True)
        self._own = None
