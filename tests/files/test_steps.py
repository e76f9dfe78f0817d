"""Checkpoints are coded against what a step of Adam makes of those before."""

import io
import json
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import container
from stepped import checkpoints

import densor
from densor.archives import append, salvage
from densor.codec.adam import weights
from densor.codec.kind import BYTES as PLAIN
from densor.codec.kind import Segment
from densor.errors import DensorError, FormatError
from densor.files import steps as steps_of_files
from densor.files.step_weights import Finder, Match
from densor.formats.container import step
from densor.formats.container.archive import Archive
from densor.formats.container.base import GivenBase
from densor.formats.container.entry import STEP, STEPS, UPDATE, BaseRef, EntryMeta
from densor.formats.container.stream_reader import StreamReader
from densor.formats.container.writer import ArchiveWriter
from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.tensors import TensorInfo


def _random(data: bytes) -> MemoryRandomSource:
    return MemoryRandomSource(np.frombuffer(data, np.uint8))


def _packed(folder: Path, before: bytes, after: bytes, level: int = 3) -> Path:
    (folder / "before").write_bytes(before)
    (folder / "after").write_bytes(after)
    out = folder / f"{level}.densor"
    densor.compress_file(
        folder / "after", out, level, base=folder / "before", verify=True, threads=1, overwrite=True
    )
    return out


def _steps(archive: Path, base: str = "before") -> list[str]:
    return [name for name, _ in _step_entries(archive, base)]


def _step_entries(archive: Path, base: str) -> list[tuple[str, str]]:
    """Names and kinds."""
    with densor.open(archive, base=archive.parent / base) as file:
        found = [(e.meta.name, e.meta.kind) for e in file.archive.entries]
    return [(name, kind) for name, kind in found if kind in STEPS]


@pytest.mark.parametrize("factor", [1.0, 0.8123])
def test_a_file_after_a_step(factor: float, tmp_path: Path) -> None:
    before, after = checkpoints(3, factor)[1:]
    packed = _packed(tmp_path, before, after)
    assert _steps(packed) == ["densor.step:after"]
    assert packed.stat().st_size < 0.2 * len(after)  # .86 as changes
    densor.decompress_file(packed, tmp_path / "out", base=tmp_path / "before")
    assert (tmp_path / "out").read_bytes() == after
    *_, entry = container.decode(packed.read_bytes(), before)
    assert entry.data == after


def test_a_step_has_a_name_of_its_own(tmp_path: Path) -> None:
    before, after = checkpoints()[1:]
    name = "x" * 4090  # to which nothing can be added
    (tmp_path / "before").write_bytes(before)
    (tmp_path / "after").write_bytes(after)
    out = tmp_path / "3.densor"
    base = tmp_path / "before"
    densor.compress_file(tmp_path / "after", out, base=base, name=name, threads=1)
    assert _steps(out) == ["densor.step"]
    with densor.open(out, base=tmp_path / "before") as file:
        assert file.files() == [name]
    writer = ArchiveWriter(io.BytesIO())
    for number, taken in enumerate(["densor.step:a", "densor.step:a (2)", "densor.step:a (3)"]):
        assert steps_of_files._name(writer, "a") == taken
        meta = EntryMeta(taken, "bytes", number)
        writer.add(meta, MemorySource(np.zeros(number, np.uint8)), [Segment(PLAIN, number)])


def test_more_parameters_than_a_table_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = checkpoints()[1:]
    monkeypatch.setattr(step, "MAX_TABLE", 40)
    packed = _packed(tmp_path, before, after)
    assert not _steps(packed)
    densor.decompress_file(packed, tmp_path / "out", base=tmp_path / "before")
    assert (tmp_path / "out").read_bytes() == after


def test_parts_of_a_file(tmp_path: Path) -> None:
    before, after = checkpoints()[1:]
    packed = _packed(tmp_path, before, after)
    with densor.open(packed, base=tmp_path / "before", threads=1) as file:
        assert file.files() == ["after"]
        entry = file.archive.entry("after")
        for begin, end in ((0, len(after)), (1001, 50_003), (len(after) // 2, len(after) - 1)):
            assert file.archive.read(entry, begin, end).tobytes() == after[begin:end]
    densor.extract(packed, tmp_path / "out", base=tmp_path / "before")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["after"]
    assert (tmp_path / "out" / "after").read_bytes() == after
    found = salvage(packed, tmp_path / "saved", base=tmp_path / "before")
    assert found.sound
    assert (tmp_path / "saved" / "after").read_bytes() == after


def test_where_the_step_is_damaged_its_moments_are_lost(tmp_path: Path) -> None:
    packed = _packed(tmp_path, *checkpoints()[1:])
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 1  # within the gradients
    packed.write_bytes(data)
    with pytest.raises(DensorError):
        densor.decompress_file(packed, tmp_path / "out", base=tmp_path / "before")
    assert not (tmp_path / "out").exists()
    found = salvage(packed, tmp_path / "saved", base=tmp_path / "before")
    assert not found.sound and not (tmp_path / "saved" / "after").exists()


def test_a_chain_of_steps(tmp_path: Path) -> None:
    """Each against the one before, which is a step after another itself."""
    files = checkpoints(4)
    run = tmp_path / "run.densor"
    grown = []
    for number, content in enumerate(files):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content)
        if number:
            sizes = append(run, path, threads=1, verify=True)
            assert sizes.original == len(content)
            grown.append(sizes.stored)
        else:
            densor.compress_file(path, run, threads=1)
    assert max(grown) < 0.25 * len(files[0])
    densor.extract(run, tmp_path / "out")
    for number, content in enumerate(files):
        assert (tmp_path / "out" / f"{number}.safetensors").read_bytes() == content
    with densor.open(run) as file:
        assert file.read_file("3.safetensors") == files[3]
    decoded = {entry.name: entry.data for entry in container.decode(run.read_bytes())}
    assert decoded["3.safetensors"] == files[3]


def test_only_where_it_may_follow(tmp_path: Path) -> None:
    first, second, third = checkpoints()
    assert not _steps(_packed(tmp_path, second, third, level=1))  # time matters more
    assert not _steps(_packed(tmp_path, first, third))  # two steps, as the files say
    assert not _steps(_packed(tmp_path, second, second))
    other = bytearray(third)
    at = len(other) - 256 - 4 * 70 * 2 - 8 * 96 * 128  # moments that have nothing to do with it
    other[at : at + 8 * 96 * 128] = np.random.default_rng(0).bytes(8 * 96 * 128)
    packed = _packed(tmp_path, second, bytes(other))
    assert not _steps(packed)
    densor.decompress_file(packed, tmp_path / "out", base=tmp_path / "before")
    assert (tmp_path / "out").read_bytes() == bytes(other)


def test_without_numbers_of_steps_it_is_tried(tmp_path: Path) -> None:
    _, second, third = checkpoints(numbered=False)
    assert _steps(_packed(tmp_path, second, third))


def test_some_moments_may_be_other_ones(tmp_path: Path) -> None:
    """NaN, -0, denormals, and infinity where finite numbers would follow."""
    second, third = checkpoints()[1:]
    other = bytearray(third)
    begin = other.index(b"}}") + 2 + 4
    numbers = np.frombuffer(other, "<u4", 40, begin + (-begin) % 4).copy()
    numbers[:6] = [0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 1, 0x7F800000]
    at = begin + (-begin) % 4
    other[at : at + 160] = numbers.tobytes()
    packed = _packed(tmp_path, second, bytes(other))
    assert _steps(packed)
    densor.decompress_file(packed, tmp_path / "out", base=tmp_path / "before")
    assert (tmp_path / "out").read_bytes() == bytes(other)


def test_checkpoints_of_pytorch(tmp_path: Path) -> None:
    """Betas of each group are read from the file; one group has others, one optimizer is none."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(1)
    weights = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in ((90, 101), (300,))]
    more = [torch.nn.Parameter(torch.randn(120, 80, generator=generator))]
    groups = [{"params": weights}, {"params": more, "betas": (0.8, 0.97)}]
    adam = torch.optim.AdamW(groups, lr=1e-3)
    sgd = torch.optim.SGD(weights, lr=0.0, momentum=0.9)
    paths = []
    for number in range(3):
        for parameter in (*weights, *more):
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient.bfloat16().float() * 0.37
        adam.step()
        sgd.step()
        paths.append(tmp_path / f"step{number}.pt")
        state = {"model": weights, "optimizers": [adam.state_dict(), sgd.state_dict()]}
        torch.save(state, paths[-1])
    sizes = densor.compress_file(paths[2], tmp_path / "a", base=paths[1], threads=1, verify=True)
    alone = densor.compress_file(paths[2], tmp_path / "b", 2, base=paths[1], threads=1)
    moments = 8 * sum(p.numel() for p in (*weights, *more))
    assert sizes.stored < alone.stored - 0.5 * moments
    densor.decompress_file(tmp_path / "a", tmp_path / "out", base=paths[1])
    assert (tmp_path / "out").read_bytes() == paths[2].read_bytes()


def _trained(folder: Path, schedule: str, moved: bool = True, **options: Any) -> list[Path]:
    """Files of three steps of AdamW in two groups, saved before or after the schedule's step."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(1)
    layers = [torch.nn.Linear(101, 90), torch.nn.Linear(90, 101), torch.nn.Linear(101, 90)]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(90, 90))
    vectors = [p for p in model.parameters() if p.dim() == 1]
    matrices = [p for p in model.parameters() if p.dim() == 2]
    groups = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices, "weight_decay": 0.1}]
    adam = torch.optim.AdamW(groups, lr=1e-3, **options)
    rates = torch.optim.lr_scheduler.LambdaLR(adam, lambda number: 1 / (1 + number))
    paths = []
    for number in range(3):
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient.bfloat16().float() * 0.37
        adam.step()
        if schedule == "before":
            rates.step()
        paths.append(folder / f"step{number}.pt")
        if not moved:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=generator))
        torch.save({"model": model.state_dict(), "adam": adam.state_dict()}, paths[-1])
        if schedule == "after":
            rates.step()
    return paths


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("none", {"foreach": False}), ("before", {"foreach": True}), ("after", {"fused": True}),
        ("none", {"capturable": False, "eps": 1e-3}),
    ],
)  # fmt: skip
def test_weights_follow_from_moments(
    schedule: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """Bit for bit, however PyTorch computes them: nothing is kept but gradients."""
    _, before, after = _trained(tmp_path, schedule, **options)
    sizes = densor.compress_file(after, tmp_path / "a", base=before, threads=1, verify=True)
    assert _step_entries(tmp_path / "a", before.name) == [("densor.step:step2.pt", UPDATE)]
    weights = 4 * (4 * 90 * 101 - 90 * 11 + 90 * 3 + 101)
    assert sizes.stored < 0.5 * weights + 4000  # gradients in BF16, whole
    densor.decompress_file(tmp_path / "a", tmp_path / "out", base=before)
    assert (tmp_path / "out").read_bytes() == after.read_bytes()
    with densor.open(tmp_path / "a", base=before, threads=1) as file:
        entry = file.archive.entry(after.name)
        data = after.read_bytes()
        for begin, end in ((0, len(data)), (1001, 50_003), (len(data) // 3, len(data) - 1)):
            assert file.archive.read(entry, begin, end).tobytes() == data[begin:end]


def test_weights_that_do_not_follow(tmp_path: Path) -> None:
    """Moments alone do then."""
    _, before, after = _trained(tmp_path, "none", moved=False)
    densor.compress_file(after, tmp_path / "a", base=before, threads=1, verify=True)
    assert _step_entries(tmp_path / "a", before.name) == [("densor.step:step2.pt", STEP)]


def test_the_forms_of_weights() -> None:
    """Each is told from the other, and makes what the reference makes."""
    from reference import adam_arithmetic as reference

    rng = np.random.default_rng(8)
    numbers = [rng.normal(0, s, 3000).astype(np.float32) for s in (0.05, 1e-3, 1e-3)]
    numbers[2] *= numbers[2]
    w, m, v = (x.view(np.uint32) for x in numbers)
    w[:4], m[4:7] = (0x7FC00001, 0x80000000, 1, 0x7F800000), (0, 0x80000000, 3)
    update = weights.update_of((0.9, 0.999), 1e-2, 0.1, 1e-8, 7)
    for form in range(weights.FORMS):
        one = update._replace(form=form)
        made = weights.moved(w, m, v, one)
        listed = step.Moved(0, one).to_json()[1:]
        old, *moments = (x.astype("<u4").tobytes() for x in (w, m, v))
        assert made.astype("<u4").tobytes() == reference.moved(old, moments, listed)
        assert weights.with_form(w, made, m, v, update) == (one, 1.0)


# Faulty entries


def _content(moments: object, gradients: bytes, moved: object = None) -> bytes:
    parts = {"moments": moments} | ({} if moved is None else {"weights": moved})
    table = json.dumps(parts).encode()
    return struct.pack("<I", len(table)) + table + gradients


BASE = np.random.default_rng(5).normal(0, 1, 100).astype("<f4").tobytes()
RIGHT = [3, 200, 10, 0x3DCCCCD0, 0x3F7FBE77, 0x3A831200, 0x3F800000, 1, 3]
MOVED = [101, 0x3F7FFF58, 0xBB03126F, 0x3D016873, 0x322BCC77, 0]


def _archive(content: bytes, number: int = 0, kind: str = STEP, based: bool = False) -> bytes:
    """A file that is the base after a step, coded as changes."""
    file = io.BytesIO()
    writer = ArchiveWriter(file, based=True)
    given = GivenBase(_random(BASE))
    meta = EntryMeta("s", kind, len(content), base=given.reference() if based else None)
    writer.add(meta, MemorySource(content), [Segment(PLAIN, len(content), None)])
    meta = EntryMeta("f", "file", len(BASE), base=given.reference()._replace(step=number))
    from densor.codec.kind import kind_of

    segments = [Segment(kind_of("F32", (100,)), len(BASE), 0)]
    writer.add(meta, MemorySource(BASE), segments, base=_random(BASE))
    writer.close()
    return file.getvalue()


def _read(data: bytes) -> bytes:
    with densor.open(data, base=BASE) as file:
        return file.read_file("f")


def test_what_is_not_right_is_refused(tmp_path: Path) -> None:
    """By its hash at least, since a step makes other bytes than it was coded against."""
    for content, number, kind, based in (
        (_content([RIGHT], bytes(20)), 0, STEP, False),
        (_content([RIGHT], bytes(20)), 1, STEP, False),
        (_content([RIGHT], bytes(20)), 9, STEP, False),
        (_content([RIGHT], bytes(20)), 0, "bytes", False),
        (_content([RIGHT], bytes(20)), 0, STEP, True),
    ):
        data = _archive(content, number, kind, based)
        with pytest.raises(DensorError):
            _read(data)
        with pytest.raises(DensorError):
            densor.decompress_file(io.BytesIO(data), tmp_path / "out", base=BASE)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, -1), (0, 401), (0, 161), (1, 20), (1, 1 << 63), (2, 0), (2, 11), (2, 1 << 41),
        (2, True), (3, 1 << 32), (6, 1.5), (7, 2), (8, 8), (8, None),
    ],
)  # fmt: skip
def test_faulty_moments(place: int, value: object) -> None:
    moments = [*RIGHT[:place], value, *RIGHT[place + 1 :]]
    content = _content([moments], bytes(20))
    with pytest.raises(FormatError):
        _after(content)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"abc", struct.pack("<I", 5), struct.pack("<I", 1 << 30), _content(None, b""),
        _content([1], b""), _content([RIGHT[:-1]], bytes(20)), _content([RIGHT], bytes(21)),
        _content([RIGHT, RIGHT], bytes(40)),
    ],
)  # fmt: skip
def test_faulty_tables(content: bytes) -> None:
    with pytest.raises(DensorError):
        _after(content)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, -1), (0, 361), (0, 1 << 63), (0, 20), (0, 190), (1, 1 << 32), (4, 1.5), (5, 2),
        (5, None), (6, 0),
    ],
)  # fmt: skip
def test_faulty_weights(place: int, value: object) -> None:
    moved = [*MOVED[:place], value, *MOVED[place + 1 :]]
    with pytest.raises(FormatError):
        _after(_content([RIGHT], bytes(20), [moved]), UPDATE)


@pytest.mark.parametrize("listed", [None, [], [1], {}, [None, None], [MOVED[:-1]]])
def test_faulty_lists_of_weights(listed: object) -> None:
    with pytest.raises(FormatError):
        _after(_content([RIGHT], bytes(20), listed), UPDATE)


def _after(content: bytes, kind: str = STEP) -> step.SteppedBase:
    def read(begin: int, end: int) -> np.ndarray:
        return np.frombuffer(content[begin:end], np.uint8)

    return step.SteppedBase(_random(BASE), step.parse(kind, len(content), read), read)


@pytest.mark.parametrize(
    ("kind", "moved"),
    [(STEP, None), (UPDATE, [None]), (UPDATE, [MOVED]), (UPDATE, [[*MOVED[:5], 1]])],
)
def test_any_part_of_a_base(kind: str, moved: list[object] | None) -> None:
    from reference import step as reference

    gradients = np.random.default_rng(6).integers(0, 1 << 16, 10).astype("<u2").tobytes()
    content = _content([RIGHT], gradients, moved)
    made, right = _after(content, kind), reference.stepped(BASE, content, kind == UPDATE)
    assert right[:101] != BASE[:101]
    assert (right[101:141] != BASE[101:141]) == (moved is not None and moved != [None])
    for begin in range(0, 60):
        for end in (begin, begin + 1, begin + 6, 250, len(BASE)):
            assert made.read_at(begin, end - begin).tobytes() == right[begin:end]


def test_a_step_that_repeats_what_has_a_base_is_refused() -> None:
    """Else archives could nest as deep as they have entries."""
    content = _content([RIGHT], bytes(20)) + bytes(0)
    assert len(content) >= 64
    file = io.BytesIO()
    writer = ArchiveWriter(file, based=True, repeats=True)
    base = GivenBase(_random(content))
    meta = EntryMeta("a", "file", len(content), base=base.reference())
    writer.add(
        meta, MemorySource(content), [Segment(PLAIN, len(content), 0)], base=_random(content)
    )
    step_entry = EntryMeta("s", "bytes", len(content))
    writer.add(step_entry, MemorySource(content), [Segment(PLAIN, len(content))])
    about = BaseRef(*base.reference()[:3], step=1)
    writer.add(EntryMeta("f", "file", 4, base=about), MemorySource(b"abcd"), [Segment(PLAIN, 4)])
    writer.close()
    archive = Archive(_random(file.getvalue()), base=base)
    found, size = archive._step_of(archive.entries[2], 1)
    assert size == len(content)
    with pytest.raises(FormatError, match="has a base itself"):
        from densor.formats.container.entry_decoder import Budget

        archive._read_step(found, Budget(1 << 20, ""), 0, 4)
    archive.close()


class _Kept:
    """A sink in memory."""

    def __init__(self, size: int) -> None:
        self._data, self._at = np.zeros(size, np.uint8), 0

    def buffer(self, size: int) -> np.ndarray:
        self._at += size
        return self._data[self._at - size : self._at]

    def filled(self, data: np.ndarray, at: int) -> None:
        """It is there."""

    def done(self, data: np.ndarray) -> None:
        """It is there."""

    def read(self, offset: int, size: int) -> np.ndarray:
        return self._data[offset : offset + size]


def test_a_table_is_read_once_for_all_that_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables may be large, and entries that name them small."""
    content = _content([RIGHT], bytes(20))
    file = io.BytesIO()
    writer = ArchiveWriter(file, based=True)
    writer.add(
        EntryMeta("s", STEP, len(content)), MemorySource(content), [Segment(PLAIN, len(content))]
    )
    given = GivenBase(_random(BASE))
    for name in "abc":
        meta = EntryMeta(name, "file", 4, base=given.reference()._replace(step=0))
        writer.add(meta, MemorySource(b"abcd"), [Segment(PLAIN, 4)])
    writer.close()
    parse, sizes = step.parse, []

    def counted(kind: str, size: int, read: step.Read) -> step.Table:
        sizes.append(size)
        return parse(kind, size, read)

    monkeypatch.setattr(step, "parse", counted)
    reader = StreamReader(MemorySource(file.getvalue()), base=given)
    assert len(list(reader.entries(lambda meta: _Kept(meta.size or 0)))) == 4
    reader.close()
    assert sizes == [len(content)]


def test_many_weights_of_one_shape_are_found_in_time() -> None:
    """Each is the first that is left: those that were taken are not passed over each time."""
    count = 150_000
    tensors = [TensorInfo(f"w{i}", "F32", (4,), 16 * i, 16) for i in range(count)]
    nothing: Any = None  # is read, or needed of a match
    finder = Finder(nothing, nothing, tensors, tensors, [], ())
    begin = time.process_time()  # 6 s where they are passed over
    for i in range(count):
        first = next(iter(finder._free[(4,)].values()))
        assert first.name == f"w{i}"
        finder.take(Match(first, nothing, 1.0, nothing, nothing, nothing), (4,))
    assert not finder._free[(4,)]
    assert time.process_time() - begin < 2
