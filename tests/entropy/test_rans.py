"""rANS: against the slow coder in `reference.rans`, on damage, and for every kind of processor."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rans_digest
from helpers import random_state
from hypothesis import given
from hypothesis import strategies as st
from reference import rans as reference
from reference.reading import Refused

import densor
from densor.entropy.rans import tables
from densor.entropy.rans.decode import StreamDecoder, decode, decode_table
from densor.entropy.rans.encode import StreamEncoder, encode

Bytes = npt.NDArray[np.uint8]
SIZES = (0, 1, 31, 32, 33, 63, 64, 65, 1000, 100_003)


def rows_of(freqs: tables.Freqs) -> list[list[int]]:
    rows: list[list[int]] = freqs.tolist()
    return rows


def some_freqs(contexts: int, rng: np.random.Generator) -> tables.Freqs:
    """Rows of every shape: flat, peaked, a single symbol, one that is all but certain, none."""
    rows = np.zeros((contexts, 256), np.int64)
    for c in range(contexts):
        shape = c % 6
        if shape == 0:
            rows[c] = 1
        elif shape == 1:
            rows[c] = 1e6 * np.exp2(-np.abs(np.arange(256) - 100) / 3)
        elif shape == 2:
            rows[c, rng.integers(0, 256)] = 5
        elif shape == 3:
            rows[c, :2] = (10**7, 1)
        elif shape == 4:
            rows[c, rng.choice(256, 5, replace=False)] = rng.integers(1, 1000, 5)
    return tables.quantise(rows)


def some_symbols(
    n: int, freqs: tables.Freqs, rng: np.random.Generator, contexts: Bytes | None = None
) -> tuple[Bytes, Bytes]:
    """Symbols and contexts as the frequencies have it."""
    if contexts is None:
        contexts = rng.integers(0, len(freqs), n, np.uint8)
    owners = np.array([reference.slots(row)[0] for row in rows_of(freqs)], np.uint8)
    return owners[contexts, rng.integers(0, 4096, n)], contexts


def round_trip(symbols: Bytes, contexts: Bytes, freqs: tables.Freqs) -> Bytes:
    stream = encode(symbols, contexts, freqs)
    out = np.full_like(symbols, 77)
    decode(decode_table(freqs), stream, contexts, out)
    assert out.tobytes() == symbols.tobytes()
    return stream


# Streams


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("contexts", [1, 7, 256])
def test_symbols_come_back(n: int, contexts: int) -> None:
    rng = random_state("rans", n, contexts)
    freqs = some_freqs(contexts, rng)
    symbols, under = some_symbols(n, freqs, rng)
    stream = round_trip(symbols, under, freqs)
    if n <= 1000:
        rows = rows_of(freqs)
        assert reference.encode([(symbols.tobytes(), under.tolist())], rows) == stream.tobytes()
        assert reference.decode(stream.tobytes(), rows, under.tolist()) == symbols.tobytes()


@pytest.mark.parametrize("n", SIZES)
def test_certain_symbols_take_no_words(n: int) -> None:
    freqs = np.zeros((3, 256), np.uint16)
    freqs[0, 200] = freqs[1, 0] = 4096  # and a context without frequencies, which means symbol 0
    contexts = np.resize(np.array([0, 1, 2], np.uint8), n)
    symbols = np.where(contexts == 0, 200, 0).astype(np.uint8)
    assert round_trip(symbols, contexts, freqs).size == 128


def test_streams_come_close_to_the_entropy() -> None:
    rng = random_state("entropy")
    freqs = some_freqs(6, rng)
    symbols, contexts = some_symbols(300_000, freqs, rng, np.resize(np.uint8([0, 1, 4]), 300_000))
    counts = np.zeros((6, 256), np.int64)
    np.add.at(counts, (contexts, symbols), 1)
    stream = round_trip(symbols, contexts, freqs)
    assert stream.size <= tables.cost_bits(counts, freqs) / 8 * 1.0002 + 130


def test_the_rarest_symbols_take_no_more_than_a_word_each() -> None:
    """What the encoder has room for: 12 bits each, and a word at most."""
    freqs = np.zeros((1, 256), np.uint16)
    freqs[0, :2] = (4095, 1)
    for n in SIZES:
        stream = round_trip(np.ones(n, np.uint8), np.zeros(n, np.uint8), freqs)
        assert stream.size <= 128 + 2 * n


def test_states_live_on_from_run_to_run() -> None:
    rng = random_state("runs")
    freqs = some_freqs(6, rng)
    table = decode_table(freqs)
    sizes = [0, 1, 40, 32, 0, 77, 500, 3]
    runs = [some_symbols(n, freqs, rng) for n in sizes]
    encoder = StreamEncoder(freqs, sum(sizes))
    for symbols, contexts in reversed(runs):
        encoder.put(symbols, contexts)
    stream = encoder.finish()
    expected = [(symbols.tobytes(), contexts.tolist()) for symbols, contexts in runs]
    assert stream.tobytes() == reference.encode(expected, rows_of(freqs))
    decoder, slow = (
        StreamDecoder(table, stream),
        reference.Decoder(stream.tobytes(), rows_of(freqs)),
    )
    for symbols, contexts in runs:
        out = np.empty_like(symbols)
        decoder.take(contexts, out)
        assert out.tobytes() == symbols.tobytes() == slow.run(contexts.tolist())
    decoder.finish()
    slow.finish()


@given(
    n=st.integers(0, 300),
    contexts=st.integers(1, 20),
    seed=st.integers(0, 1 << 30),
)
def test_both_coders_agree(n: int, contexts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    freqs = some_freqs(contexts, rng)[rng.permutation(contexts)]
    symbols, under = some_symbols(n, freqs, rng)
    stream = round_trip(symbols, under, freqs).tobytes()
    assert stream == reference.encode([(symbols.tobytes(), under.tolist())], rows_of(freqs))


def test_what_has_no_code_is_not_coded() -> None:
    freqs = np.zeros((2, 256), np.uint16)
    freqs[0, 5] = 4096
    for symbol, context in ((4, 0), (1, 1), (5, 2), (5, 255)):
        with pytest.raises(ValueError, match="without a frequency"):
            encode(np.full(40, symbol, np.uint8), np.full(40, context, np.uint8), freqs)
    with pytest.raises(ValueError, match="do not fit"):
        encode(np.zeros(3, np.uint8), np.zeros(2, np.uint8), freqs)
    with pytest.raises(ValueError, match="do not fit"):
        StreamEncoder(freqs, 3).put(np.full(4, 5, np.uint8), np.zeros(4, np.uint8))
    stream = encode(np.full(40, 5, np.uint8), np.zeros(40, np.uint8), freqs)
    with pytest.raises(ValueError, match="without a table"):
        decode(decode_table(freqs), stream, np.full(40, 2, np.uint8), np.empty(40, np.uint8))
    with pytest.raises(ValueError, match="needs a context"):
        decode(decode_table(freqs), stream, np.zeros(39, np.uint8), np.empty(40, np.uint8))


# Damage


def decoded(stream: Bytes, table: Any, contexts: Bytes) -> Bytes | None:
    """The symbols, or None after FormatError; nothing else may happen."""
    around = np.full(contexts.size + 128, 99, np.uint8)
    out = around[64:-64]
    try:
        decode(table, stream, contexts, out)
    except densor.FormatError:
        return None
    finally:
        assert (around[:64] == 99).all()
        assert (around[-64:] == 99).all()
    return out


def refused(stream: Bytes, table: Any, contexts: Bytes) -> bool:
    return decoded(stream, table, contexts) is None


@pytest.mark.parametrize("n", [1, 33, 700])
def test_streams_of_another_length_are_refused(n: int) -> None:
    rng = random_state("lengths", n)
    freqs = some_freqs(2, rng)
    symbols, contexts = some_symbols(n, freqs, rng)
    stream = encode(symbols, contexts, freqs)
    table = decode_table(freqs)
    for length in range(stream.size):
        assert refused(stream[:length].copy(), table, contexts)
    for extra in (1, 2, 3, 64, 1000):
        assert refused(np.append(stream, np.zeros(extra, np.uint8)), table, contexts)
    assert refused(stream, table, contexts[:-1])
    assert refused(stream, table, np.append(contexts, np.uint8(0)))


def test_damaged_streams_are_refused_or_decode_to_symbols_that_have_codes() -> None:
    rng = random_state("flips")
    freqs = some_freqs(5, rng)
    freqs[~freqs.any(axis=1), 0] = 4096
    table = decode_table(freqs)
    for n in (31, 200, 1500):
        symbols, contexts = some_symbols(n, freqs, rng)
        stream = encode(symbols, contexts, freqs)
        for bit in rng.choice(8 * stream.size, min(400, 8 * stream.size), replace=False).tolist():
            bad = stream.copy()
            bad[bit // 8] ^= 1 << bit % 8
            out = decoded(bad, table, contexts)
            if out is not None:  # another symbol as likely as the right one
                assert (out != symbols).any()
                assert freqs[contexts, out].all()
        for _ in range(100):
            noise = rng.integers(0, 256, stream.size, np.uint8)
            noise[: stream.size // 3] |= 0x80
            assert refused(noise, table, contexts)


def test_states_below_the_least_are_refused() -> None:
    freqs = some_freqs(1, random_state("states"))
    stream = encode(np.zeros(0, np.uint8), np.zeros(0, np.uint8), freqs)
    for lane in range(32):
        bad = stream.copy()
        bad[4 * lane : 4 * lane + 4] = (255, 255, 0, 0)
        assert refused(bad, decode_table(freqs), np.zeros(0, np.uint8))
        bad[4 * lane : 4 * lane + 4] = (1, 0, 1, 0)
        assert refused(bad, decode_table(freqs), np.zeros(0, np.uint8))


# Frequencies


COUNTS = st.one_of(
    st.lists(st.integers(0, 5), min_size=256, max_size=256),
    st.lists(st.integers(0, 40).map(lambda n: 2**n), min_size=256, max_size=256),
    st.lists(st.integers(0, 10**6), max_size=3).map(lambda some: (some + [0] * 256)[:256]),
)


@given(counts=st.lists(COUNTS, min_size=1, max_size=3))
def test_frequencies_are_packed_as_the_document_says(counts: list[list[int]]) -> None:
    freqs = tables.quantise(np.array(counts, np.int64))
    for row, counted in zip(freqs, counts, strict=True):
        assert int(row.sum()) == (4096 if any(counted) else 0)
        assert ((row > 0) == (np.array(counted) > 0)).all()
    packed = tables.pack(freqs)
    assert packed == reference.pack(rows_of(freqs))
    assert reference.unpack(packed + b"\xff", len(counts)) == (rows_of(freqs), len(packed))
    again, size = tables.unpack(np.frombuffer(packed + b"\xff", np.uint8), len(counts))
    assert size == len(packed)
    assert again.tobytes() == freqs.tobytes()


def test_quantised_frequencies_are_about_as_good_as_can_be() -> None:
    rng = random_state("quantise")
    for _ in range(30):
        counts = (rng.pareto(0.7, (1, 256)) * 3).astype(np.int64) + (rng.random((1, 256)) < 0.1)
        used = counts[counts > 0]
        entropy = float((used * np.log2(used.sum() / used)).sum())
        # 256 symbols of at least 1/4096 leave that much less for the others.
        assert (
            tables.cost_bits(counts, tables.quantise(counts)) <= entropy * 1.01 + used.sum() * 0.1
        )
    freqs = np.zeros((1, 256), np.uint16)
    freqs[0, 0] = 4096
    assert tables.cost_bits(np.eye(1, 256, dtype=np.int64), freqs) == 0.0
    assert tables.cost_bits(np.eye(1, 256, k=1, dtype=np.int64), freqs) == float("inf")
    with pytest.raises(ValueError, match="256 counts"):
        tables.quantise(np.ones((2, 4), np.int64))
    with pytest.raises(ValueError, match="256 counts"):
        tables.cost_bits(np.ones((2, 256), np.int64), freqs)


@given(data=st.binary(max_size=80), contexts=st.integers(1, 4), kept=st.integers(0, 60))
def test_frequencies_from_anywhere_add_up_or_are_refused(
    data: bytes, contexts: int, kept: int
) -> None:
    good = tables.pack(some_freqs(contexts, np.random.default_rng(kept)))
    for text in (data, good[:kept] + data):
        try:
            expected = reference.unpack(text, contexts)
        except Refused:
            with pytest.raises(densor.FormatError):
                tables.unpack(np.frombuffer(text, np.uint8), contexts)
            continue
        freqs, size = tables.unpack(np.frombuffer(text, np.uint8), contexts)
        assert (rows_of(freqs), size) == expected
        assert set(freqs.sum(axis=1).tolist()) <= {0, 4096}
        decode_table(freqs)


def test_single_changes_of_packed_frequencies() -> None:
    """Every bit of a text flipped: what is accepted is what the slow reader accepts."""
    good = tables.pack(some_freqs(5, random_state("bits")))
    for bit in range(8 * len(good)):
        text = bytearray(good)
        text[bit // 8] ^= 1 << bit % 8
        try:
            expected: object = reference.unpack(bytes(text), 5)
        except Refused:
            expected = None
        try:
            freqs, size = tables.unpack(np.frombuffer(bytes(text), np.uint8), 5)
            found: object = (rows_of(freqs), size)
        except densor.FormatError:
            found = None
        assert found == expected


# Processors


PROCESSORS = {
    "haswell": {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx2,+avx,+sse4.2,+ssse3,+bmi,+bmi2,+fma,+popcnt,+lzcnt",
    },
    "generic": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    "checked": {"NUMBA_BOUNDSCHECK": "1"},
}
NEEDED = {"haswell": {"avx2", "bmi2", "fma"}}


def processor_features() -> set[str]:
    """What this processor can do, if it tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {word for line in lines if line.startswith("flags") for word in line.split()}


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digest by each kind of processor that this one can stand for, all found at once."""
    usable = [name for name in PROCESSORS if NEEDED.get(name, set()) <= processor_features()]
    package = str(Path(densor.__file__).parent.parent)
    running = {}
    for name in usable:
        cache = str(tmp_path_factory.mktemp(name))
        environment = os.environ | PROCESSORS[name]
        environment |= {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": package}
        command = [sys.executable, rans_digest.__file__]
        running[name] = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    found = {}
    for name, process in running.items():
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        found[name] = out.strip()
    return found


@pytest.mark.parametrize("name", list(PROCESSORS))
def test_all_processors_give_the_same_bytes(name: str, digests: dict[str, str]) -> None:
    if name not in digests:
        pytest.skip(f"this processor lacks one of {sorted(NEEDED[name])}")
    assert digests[name] == rans_digest.digest()
