"""Without a command: single files, after the manner of zstd."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from densor.cli import checks, console, frame, streams
from densor.cli.arguments import (
    SUFFIX,
    Parser,
    UsageError,
    add_flags,
    add_writing,
    canonical_dtype,
    read_options,
    write_options,
)
from densor.cli.streams import DASH
from densor.cli.usage import HELP
from densor.errors import FileError
from densor.formats.io.urls import is_url, plain
from densor.formats.io.urls import label as url_label
from densor.version import __version__

_TICK = 2.0  # seconds, as coarse as the times of any file system are


class Job(NamedTuple):
    """One file: where from, where to; `-` is a standard stream."""

    source: str
    target: str | None  # None where nothing is written

    @property
    def label(self) -> str:
        """The source, as messages name it."""
        return _label(self.source)

    @property
    def names(self) -> list[str]:
        """What an error may begin with."""
        if self.target is None or self.target == DASH:
            return [self.label]
        return [self.label, self.target, _label(self.target)]


def _label(source: str) -> str:
    if is_url(source):
        return url_label(source)
    return console.STDIN if source == DASH else str(Path(source))


class _OtherSuffix(UsageError):
    """The name of an archive does not tell that of the file in it."""


class _Parser(Parser):
    def format_help(self) -> str:
        return f"{HELP}\n"


def parser() -> argparse.ArgumentParser:
    """The parser of `densor [OPTIONS] [FILE...]`."""
    parser = _Parser()
    add = parser.add_argument
    add("files", metavar="FILE", nargs="*")
    add("-V", "--version", action="version", version=f"densor {__version__}")
    modes = parser.add_mutually_exclusive_group()
    for letter, word in (("-d", "decompress"), ("-t", "test"), ("-l", "list")):
        modes.add_argument(letter, f"--{word}", dest="mode", action="store_const", const=word)
    add("-c", "--stdout", action="store_true")
    add("-o", dest="output", metavar="FILE")
    add_flags(parser, "overwrite")
    add("-k", "--keep", dest="rm", action="store_false", default=False)
    add("--rm", dest="rm", action="store_true")
    add("--verify", action="store_true", default=None)
    add("--no-verify", dest="verify", action="store_false")
    add("-r", dest="recurse", action="store_true")
    add_flags(parser, "threads")
    add("-v", "--verbose", action="store_true")
    add_flags(parser, "quiet")
    add_writing(parser)
    add_flags(parser, "max_output_size", "base", "language_model", "image_model")
    return parser


def run(args: argparse.Namespace) -> int:
    """Does what the arguments say with each file; returns the exit code."""
    _check_options(args)
    problems: list[tuple[str, Exception]] = []
    jobs = list(_jobs(args, problems))
    _check_jobs(jobs, args)
    for path, error in problems:
        console.fail([str(Path(path))], error)
    args.dtype = canonical_dtype(args)
    if args.mode == "list":
        code = _list(jobs)
    else:
        work = {"decompress": _decompress, "test": _test}.get(args.mode, _compress)
        code = console.each(jobs, lambda job: job.names, lambda job: work(job, args))
    return 1 if problems else code


def _check_options(args: argparse.Namespace) -> None:
    if not args.files:
        if sys.stdin is None or sys.stdin.isatty():
            what = "closed" if sys.stdin is None else "a terminal"
            raise UsageError(f"no FILE is given, and stdin is {what}")
        args.files = [DASH]
    if args.stdout:
        if args.output not in (None, DASH):
            raise UsageError("-c and -o exclude each other")
        args.output = DASH
    if args.output is not None:
        if args.mode in ("test", "list"):
            raise UsageError("-c and -o do not go with -t and -l")
        several = len(args.files) > 1 or args.recurse
        if several and not (args.output == DASH and args.mode == "decompress"):
            raise UsageError("one output is for one FILE; see densor pack for archives of many")


def _jobs(args: argparse.Namespace, problems: list[tuple[str, Exception]]) -> Iterator[Job]:
    wants_suffix = args.mode is not None
    for given in args.files:
        if is_url(given) and args.recurse:
            sources = _below_url(given, wants_suffix)
        elif args.recurse and os.path.isdir(given):
            sources = _below(given, wants_suffix, problems)
        else:
            sources = iter([given])
        for source in sources:
            try:
                yield Job(source, _target(source, args))
            except _OtherSuffix as error:
                if len(args.files) == 1:
                    raise
                problems.append((source, FileError(str(error))))  # the others are not its fault


def _below(folder: str, suffixed: bool, problems: list[tuple[str, Exception]]) -> Iterator[str]:
    """The files in a folder and its folders, either archives by their name or all others.

    What cannot be read goes to `problems`.
    """

    def unreadable(error: OSError) -> None:
        problems.append((str(error.filename), FileError(error.strerror or str(error))))

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in folders:
            if os.path.islink(os.path.join(parent, name)):
                link = FileError("symbolic link to a folder, not followed")
                problems.append((os.path.join(parent, name), link))
        for name in sorted(names):
            path = os.path.join(parent, name)
            if name.endswith(SUFFIX) != suffixed:
                continue
            if os.path.isfile(path):
                yield path
            else:
                problems.append((path, FileError("not a regular file")))


def _below_url(url: str, suffixed: bool) -> Iterator[str]:
    """Likewise below a URL; what is no folder is a file."""
    from densor.formats.io.remote import Remote

    place = Remote(url)
    if not place.is_folder():
        return iter([url])
    return (url for url, name in place.files_below() if name.endswith(SUFFIX) == suffixed)


def _target(source: str, args: argparse.Namespace) -> str | None:
    if args.mode in ("test", "list"):
        return None
    if args.output is not None:
        return str(args.output)
    if source == DASH:
        return DASH
    if is_url(source) and source.lower().startswith("http"):
        raise UsageError(f"{_label(source)}: name the output with -o")
    if args.mode is None:
        return source + SUFFIX
    bare = source.removesuffix(SUFFIX)
    if bare == source or not os.path.basename(bare):
        raise _OtherSuffix(f"{_label(source)}: does not end with {SUFFIX}; name the output with -o")
    return bare


def _check_jobs(jobs: list[Job], args: argparse.Namespace) -> None:
    streamed = any(DASH in job for job in jobs)
    if args.rm and streamed:
        raise UsageError("--rm does not go with stdin and stdout")
    if args.rm and any(is_url(plain(job.source)) for job in jobs):
        raise UsageError("--rm removes files, not what is behind a URL")
    if args.verify and args.mode is None and any(job.target == DASH for job in jobs):
        raise UsageError("--verify does not go with stdout")
    if args.mode == "list" and streamed:
        raise UsageError("-l does not go with stdin")


def _input(job: Job, args: argparse.Namespace) -> str | BinaryIO:
    checks.source_file(job.source, "; use -r for the files in it, or densor pack")
    return streams.stdin(args.overwrite) if job.source == DASH else job.source


def _output(job: Job, args: argparse.Namespace) -> str | BinaryIO:
    assert job.target is not None
    checks.target_file(job.target, args.overwrite, job.source)
    if job.target == DASH:
        return streams.stdout(args.overwrite, archive=args.mode is None)
    return job.target


def _compress(job: Job, args: argparse.Namespace) -> None:
    source, target = _input(job, args), _output(job, args)
    removal = _Removal(job, job.source, str(job.target)) if args.rm else None
    from densor.files.single import compress_file

    began = time.perf_counter()
    with frame.moving(args, job.label, lambda: _size(job)) as moved:
        options = write_options(args, moved)
        if args.rm:
            options = replace(options, verify=True, sync=True)
        sizes = compress_file(source, target, options=options)
    _flush(target)
    if removal is not None:
        removal.do()
    _close(job, args, frame.packed(sizes, _name(job)), sizes.original, began)


def _decompress(job: Job, args: argparse.Namespace) -> None:
    source, target = _input(job, args), _output(job, args)
    removal = _Removal(job, str(job.target), job.source) if args.rm else None
    from densor.files.single import decompress_file

    began = time.perf_counter()
    with frame.moving(args, job.label, lambda: _original_size(job)) as moved:
        options = read_options(args, moved)
        options = replace(options, sync=options.sync or args.rm)
        sizes = decompress_file(source, target, overwrite=args.overwrite, options=options)
    _flush(target)
    if removal is not None:
        removal.do()
    _close(job, args, f"{frame.unpacked(sizes)}, {_name(job)}", sizes.original, began)


def _test(job: Job, args: argparse.Namespace) -> None:
    source = _input(job, args)
    from densor.files.single import verify_file

    began = time.perf_counter()
    with frame.moving(args, job.label, lambda: _original_size(job)) as moved:
        entries = verify_file(source, options=read_options(args, moved))
    original = sum(entry.size for entry in entries)
    _close(job, args, f"ok ({console.size(original)})", original, began)


def test_archives(paths: list[str], args: argparse.Namespace) -> int:
    """What -t does, for the command `test`."""
    jobs = [Job(path, None) for path in paths]
    return console.each(jobs, lambda job: job.names, lambda job: _test(job, args))


def _list(jobs: list[Job]) -> int:
    from densor.cli import table
    from densor.cli.contents import sizes_of

    rows: list[list[str]] = []

    def add(job: Job) -> None:
        checks.source_file(job.source)
        rows.append([*sizes_of(job.source), console.escape(job.label)])

    code = console.each(jobs, lambda job: job.names, add)
    if rows:
        header = ["stored", "original", "ratio", "entries", "tensors", "check", "archive"]
        console.put(table.render(header, rows, left=(6,)))
    return code


class _Removal:
    """Removes the source of a job, if it is still what it was before the work began.

    `original` and `packed`: source and target, whichever is which.
    """

    def __init__(self, job: Job, original: str, packed: str) -> None:
        self._source, self._target = plain(job.source), plain(str(job.target))
        self._original = plain(original)
        self._packed = packed
        self._before = os.stat(self._source)
        # Clocks of file systems tick slowly: a file written just now may change unnoticed.
        changed = max(self._before.st_mtime, self._before.st_ctime)
        self._fresh = time.time() - changed < _TICK

    def do(self) -> None:
        """Removes the file; FileError if it has changed or was written to no regular file."""
        now = os.stat(self._source)
        same = all(
            getattr(now, field) == getattr(self._before, field)
            for field in ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
        )
        if not is_url(self._target) and not os.path.isfile(self._target):
            raise FileError("output is no regular file; not removed")
        if same and self._fresh:
            from densor.cli.contents import holds

            same = holds(self._packed, self._original)
        if not same:
            raise FileError("changed while it was read; not removed")
        os.unlink(self._source)


def _size(job: Job) -> int | None:
    return None if job.source == DASH else streams.regular_size(job.source)


def _original_size(job: Job) -> int | None:
    """What the index says, where it can be read at once."""
    from densor.cli.contents import original_size

    return None if job.source == DASH else original_size(job.source)


def _flush(target: str | BinaryIO) -> None:
    if not isinstance(target, str):
        target.flush()


def _name(job: Job) -> str:
    return "stdout" if job.target == DASH else url_label(str(job.target))


def _close(job: Job, args: argparse.Namespace, text: str, original: int, began: float) -> None:
    """The closing line, silent like zstd where output goes to stdout."""
    if args.quiet or (job.target == DASH and not args.verbose):
        return
    if args.verbose:
        seconds = time.perf_counter() - began
        text += f" in {seconds:.2f} s, {original / seconds / 1e6:.0f} MB/s"
    console.say(f"{job.label}: {text}")
