"""An archive that is being written, with all that options ask for around it.

Whatever writes archives goes through here: opens the base and the output, adds files, adds recovery
data at the end, and verifies what was written.
"""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

from densor.codec.interfaces import Base
from densor.codec.kind import Segment
from densor.errors import ArgumentError, FileError, printable
from densor.files.checked import check_uploaded, check_written
from densor.files.opened import Input, PathOrFile, open_output
from densor.formats.container.base import GivenBase
from densor.formats.container.entry import FILE, EntryMeta
from densor.formats.container.open_base import open_base
from densor.formats.container.writer import ArchiveWriter
from densor.formats.damage.recovery import check_wanted, protect
from densor.formats.io.outputs import Sizes
from densor.formats.io.sources import (
    BytesIORandomSource,
    FileRandomSource,
    Pieces,
    PlacedSource,
    RandomSource,
    Source,
    source_of,
)
from densor.formats.io.urls import is_url, label, plain
from densor.formats.parsers.base_matching import attach, moments_in, shares_tensors, tensors_of
from densor.formats.parsers.equal_tensors import equal_apart
from densor.formats.parsers.plan import Plan, plan_file
from densor.formats.tensors import TensorInfo, is_readable
from densor.options import WriteOptions

log = logging.getLogger("densor")


class NewArchive:
    """What entries are added to. `sizes`: once the archive is whole."""

    def __init__(self, writer: ArchiveWriter, base: GivenBase | None) -> None:
        self.writer = writer
        self.base = base
        self.sizes = Sizes(0, 0)

    def base_for(self, name: str, tensors: Iterable[TensorInfo]) -> GivenBase | None:
        """What a file of one of many is coded against: the file of its name in the base where that
        is an archive of several, and otherwise the base if it has some of its tensors."""
        if self.base is None:
            return None
        own = self.base.file(name)
        same = own is not None and (
            own is not self.base or shares_tensors(tensors, tensors_of(own.source))
        )
        return own if same else None


@contextlib.contextmanager
def new_archive(
    target: PathOrFile,
    options: WriteOptions,
    mode: int | None = None,
    derived: GivenBase | None = None,
    *,
    alone: bool = False,
) -> Iterator[NewArchive]:
    """Begins an archive, and completes it where the block ends well; else no target is left.

    `mode`: the permissions of the file, None for those that any new one gets. `derived`: bases that
    the archive itself makes, instead of a given one. `alone`: whether it gets one entry only.
    """
    target = plain(target)
    _check_apart(target, options.base)
    reading = options.reading()
    with open_base(reading) as given:
        base = given if derived is None else derived
        with open_output(target, options.overwrite, lambda: mode, options.sync) as out:
            if options.recovery is not None:
                check_wanted(options.recovery, out)
            writer = ArchiveWriter(out, options, based=base is not None, alone=alone)
            made = NewArchive(writer, base)
            try:
                yield made
                writer.close()
            finally:
                writer.abort()
            if base is not None:
                base.check_unchanged()
            stored = writer.written
            if options.recovery is not None:
                stored = protect(out, out.tell() - stored, options.recovery)
            made.sizes = Sizes(writer.original, stored)
            if options.verify and not is_url(target):
                check_written(out, stored, reading, base)
        if options.verify and is_url(target):
            check_uploaded(str(target), writer.digests, reading, base)


def add_input(
    archive: NewArchive,
    name: str,
    opened: Input,
    *,
    escaped: bool = False,
    one_of_many: bool = False,
    told: list[TensorInfo] | None = None,
) -> None:
    """Adds a file under a name; FileError if it changes while it is read.

    `escaped`: whether the name is one that `escape_path` made.
    `told`: the tensors in it, where another file tells them.
    `one_of_many`: the base, if there is one, goes with some of the archive's files only.
    """
    meta = EntryMeta(name, FILE, opened.size, mode=opened.mode, mtime_ns=opened.mtime_ns)
    meta.escaped, meta.owner = escaped or None, opened.owner
    plan = planned(archive.writer, meta, source_of(opened.file), opened.random, told)
    base = archive.base_for(name, plan.tensors) if one_of_many else archive.base
    add_planned(archive.writer, meta, plan, base)
    if not opened.unchanged():
        raise FileError(f"{name}: changed while it was read")


def planned(
    writer: ArchiveWriter,
    meta: EntryMeta,
    source: Source,
    random: RandomSource | None,
    told: list[TensorInfo] | None = None,
) -> Plan:
    """How a file is to be coded, which is looked at for that; `told` as for `plan_file`."""
    tensor = meta.name.removesuffix(".npy")
    options = writer.options
    plan = plan_file(
        source,
        meta.size,
        options.dtype,
        options.level,
        random=random,
        name=tensor,
        told=told,
        raw=options.raw,
    )
    if isinstance(random, FileRandomSource | BytesIORandomSource) and random.size == meta.size:
        plan = plan._replace(source=PlacedSource(random))  # of which threads read parts
    if log.isEnabledFor(logging.DEBUG) and options.dtype is None and options.raw is None:
        log.debug("%s", printable(f"{meta.name}: {_found(plan)}"))
    return plan


def _found(plan: Plan) -> str:
    """What is said of a file that was looked at: its format, and what is not followed in it."""
    said = [f"not followed as {reason}" for reason in plan.given_up]
    if plan.format is None:
        said.append("no format that is known here, coded as bytes")
    else:
        said.append(f"{plan.format}, {len(plan.tensors) + len(plan.others)} tensors")
    others = [one for one in plan.others if not is_readable(one)]
    if others:
        names = ", ".join(f"{one.name!r:.60} ({one.dtype})" for one in others[:_MOST])
        more = ", ..." if len(others) > _MOST else ""
        said.append(f"{len(others)} to be restored with the file only: {names}{more}")
    return "; ".join(said)


_MOST = 5  # names that are said


def add_planned(
    writer: ArchiveWriter,
    meta: EntryMeta,
    plan: Plan,
    base: GivenBase | None = None,
    base_tensors: Iterable[TensorInfo] | None = None,
) -> None:
    """Adds a file that was looked at, coded against a base if there is one.

    `base_tensors`: those of the base, where they are known.
    """
    meta.format, meta.lossy = plan.format, plan.lossy or None
    if base is None:
        writer.add(meta, plan.source, _segments(writer, plan), plan.listed)
        return
    meta.base = base.reference(writer.options.hash)
    if base_tensors is None:
        base_tensors = base.tensors
    others = list(tensors_of(base.source) if base_tensors is None else base_tensors)
    segments = attach(plan.segments, plan.tensors, others)
    before: Base = base.source
    with contextlib.ExitStack() as stack:
        if isinstance(plan.source, PlacedSource) and moments_in(plan.tensors):
            from densor.files.steps import add_step  # few files have a step before

            file = plan.source.random
            step = add_step(writer, meta.name, file, plan.tensors, base.source, others, stack)
            if step is not None:
                number, before = step
                meta.base = meta.base._replace(step=number)
        writer.add(meta, plan.source, segments, plan.listed, before)


def _segments(writer: ArchiveWriter, plan: Plan) -> list[Segment]:
    """Those of a plan, cut around equal tensors where these can be looked at before."""
    if isinstance(plan.source, PlacedSource):
        read = plan.source.random.read_at
    elif isinstance(plan.source, Pieces):
        read = plan.source.read_at
    else:
        return plan.segments
    return equal_apart(plan.segments, plan.tensors, read) if writer.repeats else plan.segments


def _check_apart(target: PathOrFile, base: Any) -> None:
    """ArgumentError for an archive in the place of its base, without which none can read it."""
    if isinstance(base, str | os.PathLike) and is_target(target, base):
        raise ArgumentError(f"{label(target)}: is the base, which is needed to read the archive")


def is_target(target: PathOrFile, path: str | os.PathLike[str]) -> bool:
    """Whether a file that is read is the one that the archive would replace."""
    if not isinstance(target, str | os.PathLike):
        return False
    target, path = plain(target), plain(path)
    if is_url(path) or is_url(target):
        return target == path
    with contextlib.suppress(OSError, ValueError):  # no such file, as is said elsewhere
        return os.path.isfile(path) and os.path.samefile(target, path)
    return False
