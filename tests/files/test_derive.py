"""GGUF files that were quantised from others are coded against what the quantiser gives."""

import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from helpers import random_state, safetensors_bytes
from quantised import CASES, model, records, uniform, write_told
from reference import derived as reference

import densor
from densor.codec.kind import BYTES as PLAIN
from densor.codec.kind import Segment
from densor.codec.quantise import forms as quantised_forms
from densor.codec.quantise.rows import converted, told_by
from densor.errors import ArgumentError, ChecksumError, DensorError, FormatError, LimitError
from densor.files import derive
from densor.files.derive import Derivation, Member
from densor.formats.container import derived
from densor.formats.container.archive import Archive
from densor.formats.container.entry import BYTES, BaseRef, EntryMeta
from densor.formats.container.writer import ArchiveWriter
from densor.formats.io.sources import MemoryRandomSource, MemorySource

FORMS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "F16", "BF16")
HEADS = 4
Bits = dict[str, np.ndarray]


def _floats(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _weights() -> Bits:
    """A small model in BF16, as bits."""
    rng = random_state("derive")
    shapes = {"embed": (96, 64), "q": (64, 64), "k": (64, 64), "down": (64, 128), "norm": (64,)}
    drawn = {n: rng.normal(0, 0.02, shape).astype(np.float32) for n, shape in shapes.items()}
    return {name: (each.view(np.uint32) >> 16).astype(np.uint16) for name, each in drawn.items()}


def _permuted(weights: np.ndarray) -> np.ndarray:
    """As llama.cpp orders the rows of queries and keys."""
    rows, columns = weights.shape
    halves = weights.reshape(HEADS, 2, rows // HEADS // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def _write_gguf(path: Path, weights: Bits, form: str, changed: bool = False) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    kind = getattr(gguf.GGMLQuantizationType, form)
    for name, bits in weights.items():
        values = _floats(bits)
        if name in "qk":
            values = _permuted(values)
        if bits.ndim == 1:
            writer.add_tensor(f"blk.{name}.weight", values)
            continue
        quantised = gguf.quants.quantize(values, kind)
        if changed and name == "down":
            quantised = quantised.copy()
            quantised.view(np.uint8).reshape(-1)[7] ^= 1
        raw = None if form == "F16" else kind
        writer.add_tensor(f"blk.{name}.weight", quantised, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_safetensors(path: Path, weights: Bits) -> None:
    header, at = {}, 0
    for name, each in weights.items():
        header[name] = {
            "dtype": "BF16",
            "shape": each.shape,
            "data_offsets": [at, at + each.nbytes],
        }
        at += each.nbytes
    text = json.dumps(header).encode()
    content = b"".join(each.tobytes() for each in weights.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its quantisations, one of which has one bit of its own."""
    folder = tmp_path_factory.mktemp("repository")
    weights = _weights()
    _write_safetensors(folder / "model.safetensors", weights)
    for form in FORMS:
        _write_gguf(folder / f"a-{form}.gguf", weights, form, changed=form == "Q4_1")
    (folder / "config.json").write_text("{}")
    other = {name: each[::-1].copy() for name, each in weights.items()}
    _write_gguf(folder / "other.gguf", other, "Q8_0")
    return folder


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "a.densor"
    densor.pack([folder], path, derive=True, verify=True)
    return path


def _same(a: Path, b: Path) -> bool:
    names = sorted(path.name for path in a.iterdir())
    assert names == sorted(path.name for path in b.iterdir())
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


def test_what_is_derived_takes_next_to_nothing(folder: Path, packed: Path, tmp_path: Path) -> None:
    densor.extract(packed, tmp_path / "out")
    assert _same(folder, tmp_path / "out")
    with densor.open(packed) as file:
        stored = {
            entry.meta.name: file.archive.stored_size(entry, 0, entry.size)
            for entry in file.archive.entries
        }
    for form in FORMS:
        size = (folder / f"a-{form}.gguf").stat().st_size
        assert stored[f"a-{form}.gguf"] < 0.12 * size, form
    assert stored["other.gguf"] > 0.5 * (folder / "other.gguf").stat().st_size


@pytest.mark.parametrize("form", FORMS)
def test_quantisers_give_what_those_of_the_package_give(form: str) -> None:
    rng = random_state("quantisers")
    weights = (rng.normal(0, 0.02, (64, 256)) * 2.0 ** rng.integers(-20, 9, (64, 1))).astype("f4")
    weights[3, :64] = 0
    weights[5] = weights[5, 0]
    weights[6, 5] = -0.0
    right = gguf.quants.quantize(weights, getattr(gguf.GGMLQuantizationType, form))
    found = converted(weights.view(np.uint8).reshape(-1), "F32", form, 256)
    np.testing.assert_array_equal(found, np.ascontiguousarray(right).view(np.uint8).reshape(-1))


# SHA-256, its first half, of what `quantize_row_*_ref` of llama.cpp's ggml-quants.c gives: that of
# gcc at -O0, -O2 and -O3, of -march=haswell -ffp-contract=off, and of a wheel of libggml-base.
OF_LLAMA_CPP = {
    "usual": {
        "Q2_K": "e7f8c0d6c737f5485b20228d9f5d0358",
        "Q3_K": "48158a06f6c09ab4d70ebbdcb1b337af",
        "Q4_K": "60cdad8f84717a6f89d9b13481640862",
        "Q5_K": "25ec2d2d97b9f9f8610054459f28b435",
        "Q6_K": "b49807ebd5d5188633f001c17e23b5ef",
    },
    "of many sizes": {
        "Q2_K": "85bba77b8cbbbe7a01253dfd04dd0579",
        "Q3_K": "fd857adf1b48530088263f482ac14ede",
        "Q4_K": "c6b78d44b9c7ada6927895e6434c5a0e",
        "Q5_K": "6195073577ec7bce8298a7c6034c9539",
        "Q6_K": "dfc4a960c7f1a20bc7b2581c166ebf70",
    },
    "degenerate": {
        "Q2_K": "aee3a4e4f5997df6c3892d30e9f9a656",
        "Q3_K": "68a686ce73296eb0c5504fea27b3e2d4",
        "Q4_K": "d7e08b5f32fcc936fb460f02b92d7e0a",
        "Q5_K": "5f2f1085cbcaf42f31167d1cd07e22cb",
        "Q6_K": "503ee720f9f23458e169551508050cf4",
    },
}


@pytest.mark.parametrize("case", OF_LLAMA_CPP)
def test_k_types_are_those_of_llama_cpp(case: str) -> None:
    weights = CASES[case]()
    for form, right in OF_LLAMA_CPP[case].items():
        found = converted(weights.view(np.uint8), "F32", form, 256)
        assert hashlib.sha256(found.tobytes()).hexdigest()[:32] == right, form


@pytest.mark.parametrize("form", quantised_forms.FORMS)
def test_the_reference_quantises_alike(form: str) -> None:
    rng = random_state("quantised alike")
    sizes = 2.0 ** np.array([-140, -30, -6, 3, 24, 60])[:, None]
    weights = (rng.normal(0, 1, (6, 256)) * sizes).astype("f4")
    found = converted(weights.view(np.uint8).reshape(-1), "F32", form, 256)
    right = b"".join(reference.quantise(row, form) for row in weights)
    assert found.tobytes() == right


@pytest.mark.parametrize("form", quantised_forms.FORMS)
def test_any_number_of_odd_blocks_is_quantised_as_each_is(form: str) -> None:
    rng = random_state("odd blocks")
    columns = quantised_forms.block_weights(form)
    blocks = rng.normal(0, 1, (19, columns)).astype("f4")
    blocks[0] = -0.0
    blocks[1, ::2], blocks[1, 1::2] = -0.0, 0.0
    blocks[2] = np.abs(blocks[2]) * (rng.random(columns) < 0.3)  # the least is 0
    blocks[3] = np.abs(blocks[3]) * np.where(rng.random(columns) < 0.3, 1, -0.0)
    blocks[4] = rng.integers(-3, 4, columns)  # several of the largest, of both signs
    blocks[5] *= 1e-40
    blocks[6] *= 1e37
    blocks[7, :] = 0.125
    words = blocks.view("u4") >> 16
    blocks = (words << 16).view("f4")
    right = [reference.quantise(row, form) for row in blocks]
    for count in (1, 2, 3, 4, 5, 16, 17, 19):
        data = words[:count].astype("<u2").reshape(-1).view(np.uint8)
        found = converted(data, "BF16", form, columns)
        assert found.tobytes() == b"".join(right[:count]), count
        odd = np.concatenate([np.zeros(1, np.uint8), data])[1:]  # where no uint16 may lie
        out = np.full(found.size + 2, 77, np.uint8)
        assert (converted(odd, "BF16", form, columns * count, out[1:-1]) == found).all()
        assert out[0] == out[-1] == 77


@pytest.mark.parametrize(
    ("form", "seed", "block"), [("Q4_K", 108, 850), ("Q5_K", 132, 195), ("Q6_K", 128, 104)]
)
def test_quotients_next_to_a_half_are_rounded_as_quotients(
    form: str, seed: int, block: int
) -> None:
    """Products with inverses of the scales, found among many, would be on the other side."""
    weights = uniform(256 * (block + 1), seed)[-256:].astype("f4")
    found = converted(weights.view(np.uint8), "F32", form, 256)
    assert found.tobytes() == reference.quantise(weights, form)


@pytest.mark.parametrize("form", ["Q8_0", "Q4_1", "Q6_K", "BF16"])
@pytest.mark.parametrize("odd", [0x7F80, 0xFF80, 0x7FC0])
def test_one_weight_of_many_that_is_no_number(form: str, odd: int) -> None:
    words = np.full((40, 256), 0x3F80, "<u2")
    words[::3] += np.arange(256, dtype="<u2")
    for row, column in ((0, 0), (17, 255), (39, 3)):
        some = words.copy()
        some[row, column] = odd
        found = converted(some.view(np.uint8).reshape(-1), "BF16", form, 256).reshape(40, -1)
        right = converted(words.view(np.uint8).reshape(-1), "BF16", form, 256).reshape(40, -1)
        right[row] = 0
        assert (found == right).all()


@pytest.mark.parametrize("form", ["Q8_0", "Q5_1", "Q4_K", "F16"])
def test_rows_with_what_is_no_number_are_zero(form: str) -> None:
    weights = np.ones((3, 256), "f4")
    weights[1, 40] = np.nan
    found = converted(weights.view(np.uint8).reshape(-1), "F32", form, 256).reshape(3, -1)
    assert not found[1].any()
    assert found[0].any()
    assert (found[0] == found[2]).all()
    tiny = np.full(256, 1e-44, "f4")  # whose scale has no inverse
    made = converted(tiny.view(np.uint8), "F32", form, 256).tobytes()
    assert made == (bytes(512) if form == "F16" else reference.quantise(tiny, form))


def _with_base(
    names: dict[str, bytes], based: str, reference: BaseRef, base: bytes, repeats: bool
) -> Archive:
    """Files of these names, of which one has a base that is not in the archive."""
    file = io.BytesIO()
    writer = ArchiveWriter(file, based=True, repeats=repeats)
    outside = MemoryRandomSource(np.frombuffer(base, np.uint8))
    for name, content in names.items():
        meta = EntryMeta(name, BYTES if name == derived.NAME else "file", len(content))
        meta.base = reference if name == based else None
        place = 0 if name == based else None
        segments = [Segment(PLAIN, len(content), place)]
        writer.add(meta, MemorySource(content), segments, base=outside if place == 0 else None)
    writer.close()
    return Archive(MemoryRandomSource(np.frombuffer(file.getvalue(), np.uint8)))


def test_what_is_made_from_itself_is_refused() -> None:
    """Recipes that need a base, and a file that repeats what it is to be made of."""
    base = random_state("circles").bytes(1 << 16)
    about = BaseRef(len(base), 1, bytes(16), name=derived.NAME)
    own = _with_base({derived.NAME: base[:5000]}, derived.NAME, about, base, False)
    with pytest.raises(DensorError):
        own.read(own.find(derived.NAME), 0, 100)
    tensor = derived.DerivedTensor(0, "F32", len(base) // 4, 1, "A", 0, "F32", 0)
    recipe = derived.dump([derived.Recipe(len(base), 1, bytes(16), [tensor])])
    changed = bytes([base[0] ^ 1]) + base[1:]
    files = {derived.NAME: recipe, "G": changed, "A": changed}
    circle = _with_base(files, "G", about, base, True)
    for name in "GA":
        with pytest.raises(DensorError):
            circle.read(circle.find(name), 0, 100)


@pytest.mark.parametrize("padding", [1, 2])
def test_weights_may_lie_anywhere(padding: int, tmp_path: Path) -> None:
    weights = random_state("odd").normal(0, 0.02, (64, 256)).astype("f4")
    (tmp_path / "in").mkdir()
    model = tmp_path / "in" / "m.safetensors"
    data = safetensors_bytes({"w": ("F32", weights.shape, weights.tobytes())}, padding=padding)
    model.write_bytes(data)
    writer = gguf.GGUFWriter(tmp_path / "in" / "m.gguf", "llama")
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("w", gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    sizes = densor.pack([tmp_path / "in"], tmp_path / "packed", derive=True)
    assert sizes.stored < len(data) + 2000
    densor.extract(tmp_path / "packed", tmp_path / "out")
    for name in ("m.gguf", "m.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()


def test_one_file_and_parts_of_it(folder: Path, packed: Path, tmp_path: Path) -> None:
    densor.extract(packed, tmp_path, ["a-Q5_0.gguf"])
    assert (tmp_path / "a-Q5_0.gguf").read_bytes() == (folder / "a-Q5_0.gguf").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a-Q5_0.gguf"]
    with densor.open(packed) as file:
        assert derived.NAME not in file.files()
        found = file.archive.entry("a-Q8_0.gguf")
        content = (folder / "a-Q8_0.gguf").read_bytes()
        for begin, end in ((0, len(content)), (1000, 5001), (len(content) - 9, len(content))):
            assert file.archive.read(found, begin, end).tobytes() == content[begin:end]
    densor.verify_file(packed)


def test_the_command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from densor.cli.main import main

    assert main(["pack", "-q", "--derive", "a.densor", str(folder)]) == 0
    assert main(["test", "-q", "a.densor"]) == 0
    assert main(["list", "a.densor"]) == 0
    assert main(["info", "a.densor"]) == 0
    assert main(["extract", "-q", "a.densor", "-C", "out"]) == 0
    assert _same(folder, tmp_path / "out")


def test_without_an_index_or_at_a_pipe_the_error_is_clear(packed: Path, tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self._file = io.BytesIO(data)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            return self._file.readinto(buffer)  # type: ignore[arg-type]

    with pytest.raises(ArgumentError, match="needs a base"):
        densor.extract(io.BufferedReader(Pipe(packed.read_bytes())), tmp_path / "out")


def test_a_base_beside_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError):
        densor.pack([folder], tmp_path / "a", derive=True, base=folder / "model.safetensors")
    assert not (tmp_path / "a").exists()


def _recipes(packed: Path) -> list[dict[str, object]]:
    archive = Archive(MemoryRandomSource(packed.read_bytes()))
    entry = archive.entry(derived.NAME)
    found: list[dict[str, object]] = json.loads(archive.alone(entry, 0, entry.size).tobytes())[
        "files"
    ]
    archive.close()
    return found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, -1), (0, 1 << 62), (1, "Q4_K"), (1, 5), (2, 0), (2, 1 << 50), (3, 33), (4, 7),
        (5, 1.5), (8, 0), (6, "F64"), (6, []), (7, 7), (7, True), (7, -2),
    ],
)  # fmt: skip
def test_faulty_recipes_are_refused(packed: Path, field: int, value: object) -> None:
    recipes = _recipes(packed)
    tensor = next(t for r in recipes for t in r["tensors"] if t[1] == "Q8_0")  # type: ignore[attr-defined]
    tensor[field : field + 1] = [value]
    with pytest.raises(FormatError):
        derived.parse(json.dumps({"files": recipes}).encode())


def test_rows_that_take_too_much_are_refused() -> None:
    tensor = [0, "F32", 2, 1 << 27, "a", 0, "F32", 1]
    recipe = {"size": 1 << 40, "digest": [1, "00" * 16], "tensors": [tensor]}
    with pytest.raises(LimitError):
        derived.parse(json.dumps({"files": [recipe]}).encode())


def test_recipes_that_ask_for_what_is_not_there(packed: Path) -> None:
    recipes = derived.parse(json.dumps({"files": _recipes(packed)}).encode())
    first = recipes[0]
    wanted = derived.BaseRef(first.size, first.hash_kind, first.digest)

    def read(name: str, begin: int, end: int) -> np.ndarray:
        raise AssertionError("read")

    for size in (None, 10):
        base = derived.DerivedBase(lambda: recipes, read, lambda name, size=size: size)
        with pytest.raises(FormatError):
            base.matching(wanted)
    with pytest.raises(DensorError):
        derived.DerivedBase(lambda: [], read, lambda name: 1 << 40).matching(wanted)


@pytest.mark.parametrize("way", ["rewritten", "replaced", "cut"])
def test_a_source_that_changes_before_it_is_packed(
    way: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was coded against it could not be restored; a file cut short would end the process."""
    for name in ("model.safetensors", "a-Q8_0.gguf"):
        shutil.copy(folder / name, tmp_path / name)
    source = tmp_path / "model.safetensors"
    content = source.read_bytes()
    other = content[:-4096] + bytes(4096)

    ordered = Derivation.ordered

    def changed(self: Derivation, archive: object, members: Iterable[Member]) -> Iterator[Member]:
        if way == "replaced":
            (tmp_path / "new").write_bytes(other)
            (tmp_path / "new").rename(source)
        else:
            source.write_bytes(other if way == "rewritten" else content[:4096])
        return ordered(self, archive, members)

    monkeypatch.setattr(Derivation, "ordered", changed)
    with pytest.raises(DensorError):
        densor.pack([source, tmp_path / "a-Q8_0.gguf"], tmp_path / "packed", derive=True)
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize("form", reference.RECORDS)
def test_any_scales_may_be_told(form: str) -> None:
    """What a search finds, what is near to a guess, and records that no quantiser gives."""
    rng = random_state("told")
    weights = np.concatenate([case().reshape(-1, 256)[:9] for case in CASES.values()])
    weights = (weights.view("u4") & 0xFFFF0000).view("f4")
    words = (weights.view("u4") >> 16).astype("<u2").reshape(-1).view(np.uint8)
    made = converted(words, "BF16", form, 256)
    told = told_by(made, words, "BF16", form, 256)
    right = reference.quantise(weights.reshape(-1), form, told.tobytes())
    assert converted(words, "BF16", form, 256, told=told).tobytes() == right
    usual = made[: made.size // 3]
    assert right[: usual.size] == usual.tobytes()
    near = np.frombuffer(records(form, 27, 4), np.uint8)
    for some in (near, rng.integers(0, 256, told.size, np.uint8), np.zeros_like(told)):
        right = reference.quantise(weights.reshape(-1), form, some.tobytes())
        assert converted(words, "BF16", form, 256, told=some).tobytes() == right
        numbers = weights.reshape(-1).view(np.uint8)
        assert converted(numbers, "F32", form, 256 * 27, told=some).tobytes() == right
        again = told_by(np.frombuffer(right, np.uint8), numbers, "F32", form, 256)
        assert converted(numbers, "F32", form, 256, told=again).tobytes() == right
    words.view("<u2")[256 * 20 + 3] = 0x7F80
    odd = bytearray(right)
    odd[20 * len(right) // 27 : 21 * len(right) // 27] = bytes(len(right) // 27)
    assert converted(words, "BF16", form, 256, told=some).tobytes() == odd


@pytest.mark.parametrize("form", reference.RECORDS)
def test_zeros_of_both_signs_have_the_same_guesses_everywhere(form: str) -> None:
    """Pruned weights: the sign of 0 is in the guess of a number, and no order may settle it."""
    signs = random_state("zeros told").integers(0, 2, (64, 256)).astype(np.uint32) << np.uint32(31)
    weights = signs.view(np.float32)
    weights[40:52] = np.where(np.arange(256) // 32 % 3 == 1, np.float32(-0.5), weights[40:52])
    weights[52:] = np.where(np.arange(256) // 32 % 3 == 1, np.float32(1e-45), weights[52:])
    data = weights.reshape(-1).view(np.uint8)
    none = np.zeros(64 * 2 * reference.RECORDS[form][0] + 64 * reference.RECORDS[form][1], np.uint8)
    made = converted(data, "F32", form, 256, told=none)
    assert reference.quantise(weights.reshape(-1), form, none.tobytes()) == made.tobytes()
    assert told_by(made, data, "F32", form, 256).tobytes() == none.tobytes()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and blocks of it by scales that no search finds."""
    folder = tmp_path_factory.mktemp("told")
    (folder / "model.safetensors").write_bytes(model())
    write_told(folder / "told.gguf")
    return folder


def test_scales_of_any_quantiser_are_told_once(told: Path, tmp_path: Path) -> None:
    whole, small = tmp_path / "whole", tmp_path / "small"
    densor.pack([told], whole, derive=True, verify=True)
    densor.pack([told], small, derive="small", verify=True)
    assert whole.stat().st_size < 0.8 * small.stat().st_size
    for path in (whole, small):
        out = tmp_path / f"out-{path.name}"
        densor.extract(path, out)
        assert _same(told, out)
    recipe = _recipes(whole)[0]
    first, second = recipe["tensors"][-2:]  # type: ignore[index]
    assert first[0] != second[0]
    assert first[1:] == second[1:]
    with densor.open(whole) as file:
        assert set(file.files()) == {"model.safetensors", "told.gguf"}
        found = file.archive.entry("told.gguf")
        assert file.archive.stored_size(found, 0, found.size) < 0.3 * found.size


def test_small_keeps_no_scales(folder: Path, tmp_path: Path) -> None:
    from densor.cli.main import main

    assert main(["pack", "-q", "--derive-small", str(tmp_path / "a"), str(folder)]) == 0
    archive = Archive(MemoryRandomSource((tmp_path / "a").read_bytes()))
    assert archive.find(derived.NAME) is not None
    assert archive.find(derived.SCALES) is None


def test_what_is_told_wrongly_is_found_out(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any record makes some block, so that hashes have to tell."""

    class Wrong(derive.PlacedSource):
        def take(self, count: int) -> np.ndarray:
            data = super().take(count)
            if isinstance(self.random, derive.Scales):
                data = data.copy()
                data[100] ^= 1  # not of the row that is 0
            return data

    monkeypatch.setattr(derive, "PlacedSource", Wrong)
    densor.pack([told], tmp_path / "a", derive=True)
    with pytest.raises(ChecksumError):
        densor.extract(tmp_path / "a", tmp_path / "out")
    assert not (tmp_path / "out" / "told.gguf").exists()


def test_scales_that_are_not_there_are_refused(told: Path, tmp_path: Path) -> None:
    densor.pack([told], tmp_path / "a", derive=True)
    recipes = _recipes(tmp_path / "a")
    parsed = derived.parse(json.dumps({"files": recipes}).encode())
    end = max(tensor.end_of_told for tensor in parsed[0].tensors)

    def read(name: str, begin: int, end: int) -> np.ndarray:
        raise AssertionError("read")

    for size in (None, end - 1, end):
        sizes = {derived.SCALES: size, "model.safetensors": 1 << 40}
        base = derived.DerivedBase(lambda: parsed, read, sizes.get)
        wanted = BaseRef(*parsed[0][:3])
        if size == end:
            base.matching(wanted)
            continue
        with pytest.raises(FormatError):
            base.matching(wanted)
    for value in (-1, 1.5, True, None, "0", 1 << 63):
        recipes[0]["tensors"][0][8] = value  # type: ignore[index]
        with pytest.raises(FormatError):
            derived.parse(json.dumps({"files": recipes}).encode())
