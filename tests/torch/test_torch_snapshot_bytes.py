"""Snapshots as bytes, and parity of ranks' bytes, against second opinions."""

import io
import itertools
import struct
import sys
import tracemalloc
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from reference import rank_parity as parity_reference
from reference import snapshot as reference
from reference.container import Entry
from reference.reading import Refused

import densor
from densor.codec.zstd import zstd_compress
from densor.errors import ArgumentError, DensorError, FormatError, LimitError, UnsupportedError
from densor.formats.container import strictjson

torch = pytest.importorskip("torch")

from densor.torch import pack_snapshot, sealed, stripes, unpack_snapshot  # noqa: E402
from densor.torch.snapshot_bytes import KIND  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.append(str(GOLDEN))
import make_training  # noqa: E402


def bits(tensor) -> tuple[object, ...]:
    data = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return tensor.dtype, tuple(tensor.shape), data


def comparable(part):
    """A state with bits in place of tensors and floats, types in place of nothing."""
    if isinstance(part, Entry):
        return comparable_entry(part)
    if isinstance(part, torch.Tensor):
        return bits(part)
    if isinstance(part, float):
        return struct.pack(">d", part)
    if isinstance(part, complex):
        return complex, struct.pack(">dd", part.real, part.imag)
    if isinstance(part, dict):
        pairs = [(comparable(key), comparable(value)) for key, value in part.items()]
        return type(part), pairs
    if isinstance(part, list | tuple):
        return type(part), [comparable(one) for one in part]
    return type(part), part


def comparable_entry(entry: Entry):
    dtype = {"BF16": torch.bfloat16, "F64": torch.float64, "F32": torch.float32, "I64": torch.int64}
    flat = torch.frombuffer(bytearray(entry.data) or bytearray(8), dtype=dtype[entry.meta["dtype"]])
    shape = entry.meta["shape"]
    flat = flat[: int(np.prod(shape))]
    if entry.meta.get("order", "C") == "F":
        return bits(flat.reshape(shape[::-1]).permute(*reversed(range(len(shape)))))
    return bits(flat.reshape(shape))


def assert_read(data: bytes, state, step: int) -> None:
    """By the library and by the reference."""
    for found in (unpack_snapshot(data), reference.decode(data)):
        assert found[1] == step
        assert comparable(found[0]) == comparable(state)


def test_states_come_back() -> None:
    state = make_training.snapshot()
    data = pack_snapshot(state, 12)
    assert_read(data, state, 12)
    assert unpack_snapshot(memoryview(data))[1] == 12
    assert unpack_snapshot(data)[0]["model"]["w"].untyped_storage().nbytes() == 1200
    nan = struct.unpack(">d", bytes.fromhex("7ff8000000000123"))[0]
    for one in (nan, None, "", -(2**4095), b"", (), [[]], {(None, (True, "k")): 1}, torch.ones(2)):
        assert_read(pack_snapshot(one, -(2**63)), one, -(2**63))
    parameter = torch.nn.Parameter(torch.ones(3))
    assert bits(unpack_snapshot(pack_snapshot(parameter, 0))[0]) == bits(torch.ones(3))


def test_golden_files() -> None:
    state = make_training.snapshot()
    assert_read((GOLDEN / "state.snapshot").read_bytes(), state, -7)
    found, step = unpack_snapshot((GOLDEN / "former.snapshot").read_bytes())
    assert step == 5
    assert found.keys() == {"model", "optimizer", "bytes"}
    assert type(found["model"]) is OrderedDict
    for name in ("w", "t", "odd"):
        assert bits(found["model"][name]) == bits(state["model"][name])
    assert comparable(found["optimizer"]) == comparable(
        {0: (0.1, None, True), (1, "a"): [2**80, -0.0, 1 - 2j]}
    )


def nested(depth: int):
    found = []
    for _ in range(depth - 1):
        found = [found]
    return found


def test_what_cannot_be_packed() -> None:
    assert comparable(unpack_snapshot(pack_snapshot(nested(100), 0))[0]) == comparable(nested(100))
    bad = [Path("x"), Counter("ab"), torch.ones(3).max(0), torch.ones(3).to_sparse(), nested(101)]
    bad += [{torch.ones(1): 1}, {(1, torch.ones(1)): 1}, {Path("x"): 1}, 2**4096, np.float64(1)]
    for one in bad:
        with pytest.raises(ArgumentError):
            pack_snapshot({"a": one}, 0)
    for step in (2**63, "1", True):
        with pytest.raises(ArgumentError):
            pack_snapshot({}, step)


def forged(table: bytes, pieces: bytes = b"", version: int = 1, reserved: int = 0) -> bytes:
    small = zstd_compress(table, 3)
    head = sealed.HEAD.pack(KIND.magic, version, reserved, len(small), len(table))
    body = head + small + pieces
    return body + xxhash.xxh3_128_digest(body)


TENSOR = densor.compress(torch.arange(3), 1, 1)
NUMBERS = densor.compress(np.arange(3), 1, 1)
BYTES = densor.compress(b"xy", 1, 1)


@pytest.mark.parametrize(
    ("node", "pieces"),
    [
        ({}, b""),
        ({"list": [], "tuple": []}, b""),
        ({"list": {}}, b""),
        ({"list": None}, b""),
        ({"set": []}, b""),
        ([], b""),
        (2**63, b""),
        (-(2**63) - 1, b""),
        *[({"int": one}, b"") for one in ("", "0", "01", "-0", "1_0", "+1", "A", "1" * 1025, 1)],
        *[({"float": one}, b"") for one in ("", "3ff", "3FF0000000000000", 1, "3ff000000000000 ")],
        *[({"complex": one}, b"") for one in ([], ["0" * 16], ["0" * 16, 1], "0" * 32)],
        *[({"tensor": one}, TENSOR) for one in (-1, True, "1", 2**63, len(TENSOR) + 1, 0, 4)],
        ({"tensor": len(TENSOR) - 1}, TENSOR[:-1]),
        ({"tensor": len(TENSOR)}, TENSOR + b"x"),
        ({"tensor": 2 * len(TENSOR)}, TENSOR + TENSOR),
        ({"tensor": len(NUMBERS)}, NUMBERS),
        ({"tensor": len(BYTES)}, BYTES),
        ({"bytes": len(TENSOR)}, TENSOR),
        (None, b"x"),
        ({"dict": [1]}, b""),
        ({"dict": [[1]]}, b""),
        ({"dict": [[1, 2, 3]]}, b""),
        ({"dict": [[1, 2], [True, 3]]}, b""),
        ({"dict": [[1, 2], [{"float": "3ff0000000000000"}, 3]]}, b""),
        ({"ordered": [["a", 2], ["a", 2]]}, b""),
        ({"dict": [[{"list": []}, 2]]}, b""),
        ({"dict": [[{"tuple": [{"dict": []}]}, 2]]}, b""),
        ({"dict": [[{"tensor": len(TENSOR)}, 2]]}, TENSOR),
        ({"dict": [[{"tuple": [{"tensor": len(TENSOR)}]}, 2]]}, TENSOR),
    ],
)
def test_forged_nodes_are_refused(node, pieces: bytes) -> None:
    data = forged(strictjson.dumps({"step": 1, "state": node}), pieces)
    with pytest.raises(DensorError):
        unpack_snapshot(data)
    with pytest.raises(Refused):
        reference.decode(data)


def deep(depth: int) -> bytes:
    return b'{"step":1,"state":' + b'{"list":[' * depth + b"]}" * depth + b"}"


def test_forged_tables_are_refused() -> None:
    assert unpack_snapshot(forged(b'{"step":1,"state":null}')) == (None, 1)
    assert unpack_snapshot(forged(deep(100)))[1] == 1
    tables = [b"", b"[]", b'{"step":1}', b'{"step":1,"state":null,"more":1}', deep(101)]
    tables += [b'{"step":true,"state":1}', b'{"step":1,"state":0.5}', deep(100_000)]
    tables += [b'{"step":9223372036854775808,"state":1}', b'{"step":1,"step":1,"state":1}']
    for table in tables:
        with pytest.raises(DensorError):
            unpack_snapshot(forged(table))
        with pytest.raises(Refused):
            reference.decode(forged(table))
    with pytest.raises(UnsupportedError, match="version 2"):
        unpack_snapshot(forged(b'{"step":1,"state":null}', version=2))
    with pytest.raises(DensorError):
        unpack_snapshot(forged(b'{"step":1,"state":null}', reserved=1))


def test_damage_is_found() -> None:
    for name in ("state", "former"):
        data = (GOLDEN / f"{name}.snapshot").read_bytes()
        for at in range(0, len(data), len(data) // 60):
            damaged = bytearray(data)
            damaged[at] ^= 4
            with pytest.raises(DensorError):
                unpack_snapshot(bytes(damaged))
            with pytest.raises(DensorError):
                unpack_snapshot(data[:at])


@pytest.mark.parametrize(
    "content",
    [
        {"step": 1, "state": {"densor:packed": 5}},
        {"step": 1, "state": {"densor:packed": torch.zeros(9).byte()}},
        {"step": 1, "state": [torch.zeros(9)]},
        {"step": "1", "state": 5},
        {"step": 1},
        Path("x"),
        5,
    ],
)
def test_forged_former_snapshots_are_refused(content) -> None:
    import io

    file = io.BytesIO()
    torch.save(content, file)
    with pytest.raises(DensorError):
        unpack_snapshot(file.getvalue() + xxhash.xxh3_128_digest(file.getvalue()))


# Parity across ranks


def test_parity_is_that_of_the_reference() -> None:
    pytest.importorskip("zfec")
    data, blocks = make_training.parity()
    assert blocks == (GOLDEN / "ranks.parity").read_bytes()
    assert b"".join(parity_reference.held(data, 2).values()) == blocks


@pytest.mark.parametrize(("ranks", "lost"), [(2, 1), (3, 1), (4, 2), (5, 3), (5, 4)])
def test_any_ranks_can_be_lost(ranks: int, lost: int) -> None:
    pytest.importorskip("zfec")
    data = [np.random.default_rng(i).bytes(i * 37 % 101) for i in range(ranks)]
    held = parity_reference.held(data, lost)
    code, sizes = stripes.Stripes(ranks, lost), [len(one) for one in data]
    for gone in itertools.combinations(range(ranks), lost):
        for rank in gone:
            pieces = []
            for stripe in range(ranks):
                if rank in code.members(stripe):
                    blocks = {
                        other: np.frombuffer(held[stripe, other], np.uint8)
                        if other in code.holders(stripe)
                        else code.piece(other, data[other], sizes, stripe)
                        for other in range(ranks)
                        if other not in gone
                    }
                    pieces.append(code.restored(rank, stripe, blocks))
            assert b"".join(pieces)[: sizes[rank]] == data[rank]


def test_what_ranks_say_is_checked() -> None:
    digest = list(stripes.digest_of(b"x"))
    assert stripes.parse_row([-5, 1, *digest]) == (-5, 1, stripes.digest_of(b"x"))
    for row in ([1, -1, *digest], [1, 2**40 + 1, *digest], [1, 1, *digest[1:], 256]):
        with pytest.raises(FormatError):
            stripes.parse_row(row)
    newer, older = [7, 1, 2, *digest, *digest], [6, 3, 4, *digest, *digest]
    good = [2, *newer, *older]
    assert stripes.row_length(2) == len(good)
    rounds = [(7, [1, 2], [bytes(digest)] * 2), (6, [3, 4], [bytes(digest)] * 2)]
    for count in range(3):  # what follows is ignored
        assert stripes.parse_rows([count, *good[1:]], 2) == rounds[:count]
        row = parity_reference.said([(7, [1, 2], [bytes(digest)] * 2), rounds[1]][:count], 2)
        assert stripes.parse_rows(row, 2) == rounds[:count]
        assert len(row) == len(good)
    for at, value in ((0, 3), (0, -1), (2, -1), (3, 2**62), (4, -1), (35, 2**40), (70, 256)):
        bad = [*good[:at], value, *good[at + 1 :]]
        with pytest.raises(FormatError):
            stripes.parse_rows(bad, 2)


def test_ranks_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("zfec")
    for ranks, lost in ((2, 2), (2, 0), (1, 1), (256, 1)):
        with pytest.raises(ArgumentError):
            stripes.Stripes(ranks, lost)

    def full(*_: object) -> None:
        raise MemoryError

    code = stripes.Stripes(3, 1)
    monkeypatch.setattr(np, "zeros", full)
    with pytest.raises(LimitError):
        code.zeros([1 << 40, 0, 0])


def test_parity_copies_no_blocks() -> None:
    pytest.importorskip("zfec")
    code, blocks = stripes.Stripes(5, 1), [np.ones(1 << 20, np.uint8)] * 5
    tracemalloc.start()
    try:
        code.parity(0, blocks, 0)
        code.restored(1, 0, {rank: blocks[rank] for rank in (0, 2, 3, 4)})
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tuples", [False, True])
def test_many_keys_of_one_hash_are_refused(tuples: bool) -> None:
    numbers = [{"int": f"{(1024 + i) * ((1 << 61) - 1):x}"} for i in range(65)]
    pairs = [[{"tuple": [number]} if tuples else number, None] for number in numbers]
    table = {"step": 1, "state": {"dict": pairs[:64]}}
    assert len(unpack_snapshot(sealed.sealed(KIND, table, []))[0]) == 64
    table["state"] = {"dict": pairs}
    with pytest.raises(FormatError, match="of one hash"):
        unpack_snapshot(sealed.sealed(KIND, table, []))


def test_keys_of_one_hash_that_could_not_be_read_are_not_packed() -> None:
    keys = [i * ((1 << 61) - 1) for i in range(65)]
    assert unpack_snapshot(pack_snapshot(dict.fromkeys(keys[:64]), 1))[0].keys() == set(keys[:64])
    with pytest.raises(ArgumentError, match="of one hash"):
        pack_snapshot(dict.fromkeys(keys), 1)


@pytest.mark.parametrize("state", ["\ud83d\ude00", {"\ud800\udfff": 1}, ["a", ("\udbff\udc00",)]])
def test_pairs_of_surrogates_are_not_packed(state: Any) -> None:
    """JSON has no way to tell them from one character."""
    with pytest.raises(ArgumentError, match="surrogates"):
        pack_snapshot(state, 1)


def test_no_more_is_unpacked_than_is_asked_for() -> None:
    zeros = torch.zeros(1 << 20, dtype=torch.uint8)
    data = pack_snapshot({"a": [zeros] * 3}, 1)
    assert len(unpack_snapshot(data, max_output_size=3 << 20)[0]["a"]) == 3
    with pytest.raises(LimitError):
        unpack_snapshot(data, max_output_size=(3 << 20) - 1)
    table = pack_snapshot([[]] * 1000, 1)
    with pytest.raises(LimitError):
        unpack_snapshot(table, max_output_size=1000)


def former(state: Any) -> bytes:
    """A snapshot as version 0.7.0 wrote it."""
    file = io.BytesIO()
    torch.save({"step": 1, "state": state}, file)
    return file.getvalue() + xxhash.xxh3_128_digest(file.getvalue())


def test_lists_that_share_lists_are_read_once() -> None:
    """Each of 60 levels has the one below it twice."""
    state: list[Any] = []
    for _ in range(60):
        state = [state, state]
    found = unpack_snapshot(former(state))[0]
    assert found[0] is found[1] and found[0][0] is found[0][1]


@pytest.mark.parametrize(
    "blob",
    [
        torch.zeros(1, dtype=torch.uint8).expand(1 << 50),
        torch.zeros(4, dtype=torch.uint8).to_sparse(),
        torch.zeros(4, dtype=torch.uint8, device="meta"),
        torch.zeros(8, dtype=torch.uint8)[::2],
    ],
    ids=["repeated", "sparse", "meta", "every second"],
)
def test_former_tensors_are_plain_bytes(blob: Any) -> None:
    with pytest.raises(FormatError):
        unpack_snapshot(former({"densor:packed": blob}))
