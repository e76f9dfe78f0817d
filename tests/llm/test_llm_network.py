"""Language models in integers: one result everywhere, near to what floats give."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_models import (
    CONFIG,
    SPECIAL,
    WORDS,
    float_probabilities,
    tokenizer,
    weights,
    write_folder,
    write_gguf,
)
from reference.network import Head, Reference, rotary, unpacked

from densor.codec.language_model.params import MAX_POSITIONS
from densor.errors import ArgumentError, DensorError, FileError, UnsupportedError
from densor.files.language_models import from_tokenizer, load
from densor.llm import helpers, kernels, selftest, tables
from densor.llm.helpers import Team
from densor.llm.model import CACHE_8, CACHE_16, quantise
from densor.llm.network import Logits, Network
from densor.llm.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def tiny() -> Any:
    return selftest.tiny_model()


@pytest.mark.parametrize("numerics", [CACHE_16, CACHE_8])
@pytest.mark.parametrize("rows", [1, 3, 7, 8, 32, 60])
def test_every_batch_gives_the_same_counts(tiny: Any, rows: int, numerics: int) -> None:
    found = hashlib.sha256(selftest.outcome(tiny, rows, numerics)).hexdigest()
    assert found == selftest.EXPECTED[numerics]


@pytest.mark.parametrize("numerics", [CACHE_16, CACHE_8])
def test_numpy_alone_gives_the_same_counts(tiny: Any, numerics: int) -> None:
    texts = [Reference(tiny, numerics), Reference(tiny, numerics)]
    head = Head(tiny, *selftest.RATES)
    rows = []
    for i in range(60):
        token = i * 7 % tiny.shape.vocabulary
        row = texts[i % 2].read(token)
        rows.append(head.counts(*row))
        if token < tiny.vocabulary.count:
            head.learn(*row, rows[-1], token)
    digest = hashlib.sha256(np.array(rows).astype("<i8").tobytes()).hexdigest()
    assert digest == selftest.EXPECTED[numerics]


@pytest.mark.parametrize("numerics", [CACHE_16, CACHE_8])
def test_rows_of_several_texts_may_be_mixed(tiny: Any, numerics: int) -> None:
    """Runs of rows that go through keys and values together, of 1 to 5 rows, before full blocks."""
    tokens = np.arange(50, dtype=np.int64) * 11 % tiny.shape.vocabulary
    alone = Network(tiny, 1, 64, numerics)
    wanted = [
        alone.read(tokens[i : i + 1], np.zeros(1, np.int64), np.array([i]), 1) for i in range(50)
    ]
    together, at = Network(tiny, 3, 64, numerics), 0
    while at < 50:
        run = min(at % 5 + 1, 50 - at)
        slots = np.repeat(np.arange(3), run)
        places = np.tile(np.arange(at, at + run), 3)
        found = together.read(np.tile(tokens[at : at + run], 3), slots, places, 3 * run)
        for n, place in enumerate(places.tolist()):
            assert np.array_equal(found.values[n], wanted[place].values[0])
            assert found.shifts[n] == wanted[place].shifts[0]
        at += run


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("numerics", [CACHE_16, CACHE_8])
def test_threads_change_nothing(tiny: Any, threads: int, numerics: int) -> None:
    """Steps in parts, few rows and many, and with fewer threads than there are."""
    team = Team(threads)
    network, head = Network(tiny, 2, 64, numerics, team), Logits(tiny, team)
    alone, plain = Network(tiny, 2, 64, numerics), Logits(tiny)
    at = 0
    for number, run in enumerate([1, 1, 2, 5, 9, 12, 1, 3]):
        team.limit = 1 + (number + 1) % threads
        slots = np.repeat(np.arange(2), run)
        places = np.tile(np.arange(at, at + run), 2)
        tokens = (slots + places) * 13 % tiny.shape.vocabulary
        found = network.read(tokens, slots, places, 2 * run)
        wanted = alone.read(tokens, slots, places, 2 * run)
        assert np.array_equal(found.values, wanted.values)
        assert np.array_equal(found.shifts, wanted.shifts)
        assert np.array_equal(head.counts(found), plain.counts(found))
        at += run


def test_helpers_take_parts(tiny: Any) -> None:
    """A helper that is there before who leads, and one that comes when all is done."""
    seen: list[int] = []
    network = Network(tiny, 1, 64, team=Team(2))
    space = network._spaces[1]
    space.work[:] = -1
    waiting = threading.Event()

    class Slow(Team):
        def run(self, step: Any, size: Any) -> None:
            def late(thread: int, threads: int, team: int) -> None:
                if thread:
                    waiting.set()
                else:
                    waiting.wait(10)
                seen.append(thread)
                step(thread, threads, team)

            self._together(late, 2)

    network.team = Slow(2)
    places = np.arange(60)
    for _ in range(50):
        network.read(places, np.zeros(60, np.int64), places, 60)
    assert set(seen) == {0, 1}
    assert not (space.work == -1).all()


def test_what_is_slower_is_tried_less_often() -> None:
    pace, shared = helpers._Pace(), []
    for _ in range(2000):
        shared.append(pace.choose())
        pace.learn(shared[-1], 2.0 if shared[-1] else 1.0)
    assert 0 < sum(shared[200:]) < 20
    for _ in range(2000):
        shared.append(pace.choose())
        pace.learn(shared[-1], 0.5 if shared[-1] else 1.0)
    assert sum(shared[-500:]) > 450


def test_numpy_alone_runs_the_sample_model() -> None:
    model = load("sample")
    network, reference, head = Network(model, 1, 256), Reference(model), Head(model)
    tokens = [model.start, *b"        retur"]
    n = len(tokens)
    rows = network.read(np.array(tokens), np.zeros(n, np.int64), np.arange(n), n)
    found = Logits(model).counts(rows)
    assert np.array_equal(found, [head.counts(*reference.read(token)) for token in tokens])
    assert np.diff(found[-1]).argmax() == ord("n")


SETTINGS = [
    {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+avx,+sse4.2,+ssse3,+fma"},
    {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "NPY_DISABLE_CPU": "1"},
    {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "2", "NUMBA_OPT": "1"},
]


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: next(iter(s.values())))
def test_every_instruction_set_gives_the_same_counts(setting: dict[str, str]) -> None:
    """The self-test compares with the known hash; two threads share the model."""
    code = (
        "import densor\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from densor.llm import selftest\n"
        "model = selftest.tiny_model()\n"
        "with ThreadPoolExecutor(2) as pool:\n"
        "    a, b = pool.map(lambda rows: selftest.outcome(model, rows), (1, 32))\n"
        "assert a == b\n"
        "selftest.check(1), selftest.check(2)\n"
        "data = b'A codec is a thing that encodes. ' * 8\n"
        "print(hash(densor.compress(data, llm='sample')))\n"
    )
    ran = {}
    for more in ({}, setting):
        env = {**os.environ, "PYTHONHASHSEED": "0", **more}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        ran[done.stdout] = more
    assert len(ran) == 1


def test_another_result_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "EXPECTED", {CACHE_8: "0" * 64})
    with pytest.raises(UnsupportedError, match="this machine"):
        selftest.check.__wrapped__(CACHE_8)


@numba.njit
def multiply_all(rows, a, shifts, matrix, out):  # type: ignore[no-untyped-def]
    sums, totals = np.zeros(128, np.int32), np.zeros(128, np.int64)
    wide = matrix.scales.size
    kernels.multiply_columns(rows, a, shifts, matrix, 16, 1, 0, wide, sums, totals, out, wide)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 40).map(lambda n: 32 * n),
    st.integers(1, 3),
    st.integers(0, 1 << 30),
)
def test_products_are_exact(rows: int, size: int, blocks: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    extreme = seed % 2
    a = random.integers(-16383, 16384, rows * size).astype(np.int16)
    q = random.integers(-127, 128, 32 * blocks * size).astype(np.int8)
    if extreme:  # the largest sums there are
        a[:], q[:] = 16383, 127
    scales = random.integers(1, 1 << 24, 32 * blocks).astype(np.int32)
    shifts = random.integers(-8, 20, rows)
    out = random.integers(-1000, 1000, rows * 32 * blocks)
    before = out.copy()
    multiply_all(rows, a, shifts, kernels.Columns(q, scales, 30, size), out)
    w = q.reshape(blocks, size // 2, 32, 2).transpose(0, 2, 1, 3).reshape(-1, size)
    for row in range(rows):
        sums = w.astype(object) @ a.reshape(rows, size)[row].astype(object)
        right = 30 - int(shifts[row])
        wanted = [
            (int(s) * int(c) + (1 << right >> 1)) >> right
            for s, c in zip(sums, scales, strict=True)
        ]
        wanted = [min(max(v, -(1 << 47)), 1 << 47) for v in wanted]
        part = slice(row * 32 * blocks, (row + 1) * 32 * blocks)
        assert (out - before)[part].tolist() == wanted


def test_it_says_what_floats_say() -> None:
    config = {**CONFIG, "num_hidden_layers": 3}
    tensors = weights(config)
    from densor.files.language_models import _shape
    from densor.llm.model import build

    shape, positions = _shape(config)
    pieces = [word.encode() for word in WORDS]
    model = build(shape, tensors.get, Vocabulary([*pieces, None]), positions, len(WORDS))
    order = model.vocabulary.numbers
    ranks = [13, *np.random.default_rng(3).integers(0, 13, 60).tolist()]
    network = Network(model, 1, 64)
    rows = network.read(np.array(ranks), np.zeros(61, np.int64), np.arange(61, dtype=np.int64), 61)
    found = Logits(model).counts(rows)
    ours = np.diff(found) / found[:, -1:]
    theirs = float_probabilities(config, tensors, order[ranks].tolist())[:, order[:13]]
    theirs /= theirs.sum(-1, keepdims=True)
    lost = (theirs * np.log2(theirs / ours)).sum(-1)
    assert lost.mean() < 0.01  # bits per token, with weights of 8 bits


def test_tables_are_near_what_they_stand_for() -> None:
    x = np.arange(8193) / 256 - 16
    assert np.abs(tables.sigmoid_table() - 65536 / (1 + np.exp(-x))).max() < 0.51
    assert np.abs(tables.exp2_table(1 << 30) - 2.0 ** (30 - np.arange(1024) / 1024)).max() < 0.51
    angles = np.arange(300)[:, None] * 1e4 ** (-np.arange(0, 64, 2) / 64)
    turns = tables.turns(1e4, 64, 300)
    assert np.abs(turns[:, 0] - np.cos(angles) * 32768).max() < 0.51
    assert np.abs(turns[:, 1] - np.sin(angles) * 32768).max() < 0.51


@pytest.mark.parametrize(("theta", "size"), [(1e4, 64), (5e5, 128)])
def test_rotary_positions_are_those_of_the_specification(theta: float, size: int) -> None:
    """Rounded from real numbers, up to the last place that a model may have."""
    turns = tables.turns(theta, size, MAX_POSITIONS)
    for place in (0, 1, 64, 127, 150, 255, 1000, 4095, MAX_POSITIONS - 1):
        assert np.array_equal(turns[place], rotary(theta, size, place))


def test_quantised_rows_are_near() -> None:
    random = np.random.default_rng(5)
    rows = (random.standard_normal((37, 64)) * 10.0 ** random.integers(-4, 3, (37, 1))).astype(
        np.float32
    )
    rows[5] = 0
    matrix = quantise(rows)
    back = unpacked(matrix) * np.ldexp(matrix.scales.astype(float), -matrix.exponent)[:, None]
    largest = np.abs(rows).max(axis=1, keepdims=True)
    step = largest / 127 + largest.max() / 127 / (1 << 23)
    assert (np.abs(back[:37] - rows) <= step * 0.51).all()
    assert not back[37:].any()
    rows[0, 0] = np.nan
    with pytest.raises(UnsupportedError, match="finite"):
        quantise(rows)


# Vocabularies and tokens


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text("abeth \né☃" + SPECIAL, max_size=60).map(str.encode))
def test_tokens_make_up_the_text(data: bytes) -> None:
    from llm_models import tokenizer

    words = from_tokenizer(tokenizer(), len(WORDS) + 1)
    tokens = words.tokens(data)
    assert b"".join(words.pieces[t] if t >= 0 else bytes([-1 - t]) for t in tokens) == data
    singles = {piece[0] for piece in words.pieces if len(piece) == 1}
    assert all(-1 - t not in singles for t in tokens if t < 0)


def test_the_tokeniser_of_the_model_is_used_where_it_changes_nothing() -> None:
    from llm_models import tokenizer

    words = from_tokenizer(tokenizer(), len(WORDS) + 1)
    assert [words.pieces[t] for t in words.tokens(b"the the")] == [b"the", b" the"]
    lower = {**tokenizer(), "normalizer": {"type": "Lowercase"}}
    words = from_tokenizer(lower, len(WORDS) + 1)
    assert [words.pieces[t] for t in words.tokens(b"the")] == [b"the"]
    assert words.tokens(b"THE") == [-1 - b for b in b"THE"]


def test_of_tokens_with_the_same_bytes_the_last_is_used() -> None:
    words = Vocabulary([b"a", b"b", b"a", None])
    assert words.pieces == [b"a", b"b"]
    assert words.numbers.tolist() == [2, 1, 0, 3]


# Loading


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_folders_hold_floats_of_several_types(tmp_path: Path, kind: str) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {name: torch.from_numpy(value) for name, value in weights().items()}
    to = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    rounded = {name: value.to(torch.bfloat16).to(torch.float32) for name, value in tensors.items()}
    folder = write_folder(tmp_path / "a", tensors={n: v.numpy() for n, v in rounded.items()})
    other = write_folder(tmp_path / "b")
    save_file({name: value.to(to) for name, value in rounded.items()}, other / "model.safetensors")
    assert load(folder).digest == load(other).digest


def test_gguf_and_folder_are_the_same_model(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    folder = load(write_folder(tmp_path / "folder"))
    path = tmp_path / "model.gguf"
    write_gguf(path)
    found = load(path)
    # The epsilon is stored in single precision, which the digest sees.
    assert found.vocabulary.digest == folder.vocabulary.digest
    assert found.start == folder.start
    assert np.array_equal(found.layers[1].qkv.weights, folder.layers[1].qkv.weights)
    assert np.array_equal(found.tokens.weights, folder.tokens.weights)
    damaged = tmp_path / "damaged.gguf"
    data = path.read_bytes()
    for size in (3, 20, 200, len(data) - 5000):
        damaged.write_bytes(data[:size])
        with pytest.raises(DensorError):
            load(damaged)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
def test_quantised_gguf(kind: str, tmp_path: Path) -> None:
    """They come near; matrices of zeros are allowed, scales that are not finite are not."""
    pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    exact = load(write_folder(tmp_path / "folder")).layers[1].gates
    write_gguf(path, blocks=kind)
    found = load(path).layers[1].gates
    ours, theirs = (
        unpacked(m) * np.ldexp(m.scales.astype(float), -m.exponent)[:, None] for m in (found, exact)
    )
    step = np.abs(theirs).max() / (100 if kind == "Q8_0" else 10)
    assert 0 < np.abs(ours - theirs).max() < step

    def zeros(name: str, stored: Any) -> Any:
        return np.zeros_like(stored) if "ffn_up" in name else stored

    empty = tmp_path / "zeros.gguf"
    write_gguf(empty, blocks=kind, change=zeros)
    model = load(empty)
    inner = model.shape.inner
    assert not unpacked(model.layers[1].gates)[inner : 2 * inner].any()

    def infinite(name: str, stored: Any) -> Any:
        if "ffn_up" in name:
            stored[0, :2] = np.frombuffer(np.float16(np.inf).tobytes(), np.uint8)
        return stored

    infinity = tmp_path / "infinite.gguf"
    write_gguf(infinity, blocks=kind, change=infinite)
    with pytest.raises(UnsupportedError, match="finite"):
        load(infinity)


BAD = [
    ({"model_type": "gpt2"}, "type"),
    ({"hidden_act": "gelu"}, "silu"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rotary"),
    ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rotary"),
    ({"head_dim": 24}, "multiples"),
    ({"num_key_value_heads": 3}, "heads"),
    ({"num_hidden_layers": 1}, "tensor"),
    ({"num_hidden_layers": 3}, "no tensor"),
    ({"hidden_size": None}, "cannot be"),
    ({"intermediate_size": 128}, "no tensor"),
]


@pytest.mark.parametrize(("change", "reason"), BAD, ids=lambda value: str(value)[:30])
def test_models_of_other_kinds_are_refused(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({**CONFIG, **change}))
    with pytest.raises(UnsupportedError, match=reason):
        load(folder)


def changed(found: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with one thing replaced."""
    if not path:
        return value
    copy = found.copy()
    copy[path[0]] = changed(found[path[0]], path[1:], value)
    return copy


ODD_VALUES = [
    None,
    "x",
    -1,
    1e400,
    10**30,
    [],
    {},
    [["a"]],
    [1],
    {"a": "b"},
    {"a": None},
    [["a", 1]],
]
PLACES_IN_TOKENIZERS = [
    *(("model",), ("model", "vocab"), ("model", "merges"), ("model", "type"), ("version",)),
    *(("added_tokens",), ("added_tokens", 0), ("added_tokens", 0, "id")),
    *(("pre_tokenizer",), ("decoder",), ("normalizer",)),
]


def loads_or_is_refused(folder: Path) -> None:
    with contextlib.suppress(DensorError):
        model = load(folder)
        data = b"the bath xyz \xff"
        assert len(model.vocabulary.tokens(data)) > 1
        one = np.zeros(1, np.int64)
        Logits(model).counts(Network(model, 1, 32).read(np.array([model.start]), one, one, 1))


@pytest.mark.parametrize("key", CONFIG)
def test_odd_configurations(tmp_path: Path, key: str) -> None:
    for number, value in enumerate(ODD_VALUES):
        folder = write_folder(tmp_path / str(number))
        (folder / "config.json").write_text(json.dumps({**CONFIG, key: value}))
        loads_or_is_refused(folder)


@pytest.mark.parametrize("place", PLACES_IN_TOKENIZERS, ids=str)
def test_odd_tokenizers(tmp_path: Path, place: tuple[Any, ...]) -> None:
    for number, value in enumerate(ODD_VALUES):
        folder = write_folder(tmp_path / str(number))
        description = changed(tokenizer(), place, value)
        (folder / "tokenizer.json").write_text(json.dumps(description))
        loads_or_is_refused(folder)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"\xff", b"[]", b"{", b""])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_what_is_no_json_is_refused(tmp_path: Path, name: str, text: bytes) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / name).write_bytes(text)
    with pytest.raises(UnsupportedError, match=name):
        load(folder)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no model"):
        load(str(tmp_path / "nothing"))
    with pytest.raises(FileError):
        load(tmp_path)
    (tmp_path / "text").write_text("text")
    with pytest.raises(UnsupportedError):
        load(tmp_path / "text")
    folder = write_folder(tmp_path / "model")
    data = (folder / "model.safetensors").read_bytes()
    for damaged in (data[:9], data[:-1000], b"x" * 100, b""):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(DensorError):
            load(folder)
