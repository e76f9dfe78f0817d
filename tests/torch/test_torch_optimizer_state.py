"""Adam's state as what a step makes of the one before."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import adam as reference

import densor
from densor.errors import ArgumentError, DensorError, FormatError

torch = pytest.importorskip("torch")

from densor.codec.adam import replay, scaled  # noqa: E402
from densor.torch import pack_state, sealed, unpack_state  # noqa: E402
from densor.torch.adam import layout, scales  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden"


def trained(steps: int, factor: float = 1.0, seed: int = 0, **options):
    """States before and after the last step, and its gradients in FP32."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(200, 301), (7,), (64, 3), (0, 4)]
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, **options)
    before = None
    for _ in range(steps):
        before = copy.deepcopy(optimizer.state_dict())
        for parameter in parameters:
            gradient = torch.randn(parameter.shape, generator=generator)
            gradient[: len(gradient) // 8] = 0
            parameter.grad = gradient.bfloat16().float() * factor
        optimizer.step()
    gradients = {i: parameter.grad for i, parameter in enumerate(parameters)}
    return before, optimizer.state_dict(), gradients


def assert_same(one, other) -> None:
    assert one["param_groups"] == other["param_groups"]
    assert one["state"].keys() == other["state"].keys()
    for key, slot in one["state"].items():
        assert slot.keys() == other["state"][key].keys()
        for name, value in slot.items():
            found = other["state"][key][name]
            assert found.dtype == value.dtype and found.shape == value.shape
            assert np.array_equal(found.numpy().view(np.uint32), value.numpy().view(np.uint32))


def bits_of(state) -> dict[object, tuple[bytes, bytes]]:
    return {
        key: (slot["exp_avg"].numpy().tobytes(), slot["exp_avg_sq"].numpy().tobytes())
        for key, slot in state["state"].items()
    }


def assert_decodes(packed: bytes, before, right) -> None:
    """By the reference decoder."""
    bits = bits_of(right)
    for keys, (m, v) in reference.decode(packed, bits_of(before)).items():
        assert b"".join(bits[key][0] for key in keys) == m
        assert b"".join(bits[key][1] for key in keys) == v


def moment_bytes(state) -> int:
    return sum(
        slot["exp_avg"].nbytes + slot["exp_avg_sq"].nbytes for slot in state["state"].values()
    )


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"betas": (0.8, 0.95)}])
@pytest.mark.parametrize("given", [False, True])
def test_a_step_is_replayed(options, given: bool) -> None:
    before, after, gradients = trained(4, 0.8123, **options)
    packed = pack_state(after, before, gradients if given else None)
    assert len(packed) < 0.2 * moment_bytes(after) + 4000
    assert_same(after, unpack_state(packed, before))


def test_what_does_not_follow_is_coded_all_the_same() -> None:
    before, after, gradients = trained(3)
    flat = after["state"][0]["exp_avg"].view(-1).numpy().view(np.uint32)
    flat[:5] = [0x7FC00001, 0xFFC12345, 0x7F800000, 0x80000000, 1]
    assert_same(after, unpack_state(pack_state(after, before), before))
    assert_same(after, unpack_state(pack_state(after, before, gradients), before))
    _, other, _ = trained(3, seed=5)
    assert_same(other, unpack_state(pack_state(other, before), before))
    assert_same(other, unpack_state(pack_state(other)))


def tiny_gradients() -> list[dict[str, Any]]:
    """States of three steps of which some elements of v are denormal."""
    generator = torch.Generator().manual_seed(4)
    parameter = torch.nn.Parameter(torch.randn(200, 100, generator=generator))
    optimizer = torch.optim.AdamW([parameter])
    states = []
    for _ in range(3):
        gradient = torch.randn(200, 100, generator=generator)
        gradient[::50] *= 1e-19
        parameter.grad = gradient.bfloat16().float()
        optimizer.step()
        states.append(copy.deepcopy(optimizer.state_dict()))
    return states


def flushes() -> bool:
    return bool(np.finfo(np.float32).smallest_normal * np.float32(0.5) == 0)


@pytest.fixture
def flushing() -> Iterator[Callable[[bool], None]]:
    """Switches flushing of denormals on and off."""

    def switch(on: bool) -> None:
        torch.set_flush_denormal(on)
        assert flushes() == on

    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush denormals")
    yield switch
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("packs", [False, True])
def test_denormals_are_kept_where_they_are_flushed(trains: bool, packs: bool, flushing) -> None:
    flushing(trains)
    _, before, after = tiny_gradients()
    flushing(packs)
    packed = pack_state(after, before)
    assert [entry["way"] for entry in layout.table_of(packed)["groups"]] == ["replay"]
    for reads in (False, True):
        flushing(reads)
        found = unpack_state(packed, before)
        assert flushes() == reads  # as before
        flushing(False)
        assert_same(after, found)
    assert_decodes(packed, before, after)


def test_states_packed_with_flushed_denormals(flushing, monkeypatch: pytest.MonkeyPatch) -> None:
    """As earlier versions did where a process flushed them."""
    flushing(True)
    _, before, after = tiny_gradients()
    flushing(False)
    real = replay.predicted
    with monkeypatch.context() as patch:
        patch.setattr(replay, "predicted", lambda *given: real(*given, True))
        packed = pack_state(after, before)
    assert [entry["way"] for entry in layout.table_of(packed)["groups"]] == ["replay"]
    for reads in (False, True):
        flushing(reads)
        found = unpack_state(packed, before)
        flushing(False)
        assert_same(after, found)


def test_gradients_that_are_not_bf16() -> None:
    parameter = torch.nn.Parameter(torch.randn(300, 200))
    optimizer = torch.optim.Adam([parameter])
    states = []
    for _ in range(3):
        parameter.grad = torch.randn(300, 200)
        optimizer.step()
        states.append(copy.deepcopy(optimizer.state_dict()))
    packed = pack_state(states[-1], states[-2], {0: parameter.grad})
    assert len(packed) < moment_bytes(states[-1])
    assert_same(states[-1], unpack_state(packed, states[-2]))


def test_another_state_before_is_refused() -> None:
    before, after, _ = trained(3)
    packed = pack_state(after, before)
    with pytest.raises(ArgumentError, match="another"):
        unpack_state(packed, after)
    with pytest.raises(ArgumentError, match="needs"):
        unpack_state(packed)
    with pytest.raises(ArgumentError):
        unpack_state(packed, {"state": {}})
    with pytest.raises(ArgumentError):
        pack_state({})


def test_damage_is_found() -> None:
    before, after, _ = trained(2)
    packed = pack_state(after, before)
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(packed), 60):
        damaged = bytearray(packed)
        damaged[at] ^= 1 << rng.integers(8)
        with pytest.raises(DensorError):
            unpack_state(bytes(damaged), before)
    for size in (0, 10, len(packed) // 2, len(packed) - 1):
        with pytest.raises(DensorError):
            unpack_state(packed[:size], before)


def test_forged_tables_are_refused() -> None:
    """With a right checksum, as an attacker would write them."""
    import xxhash

    from densor.codec.zstd import zstd_compress, zstd_decompress
    from densor.formats.container import strictjson

    before, after, _ = trained(2)
    packed = pack_state(after, before)
    head = sealed.HEAD
    _, _, _, stored, size = head.unpack_from(packed)
    table = strictjson.loads(zstd_decompress(packed[head.size : head.size + stored], size), "t")

    def forged(change) -> bytes:
        own = copy.deepcopy(table)
        change(own["groups"][0])
        text = strictjson.dumps(own)
        small = zstd_compress(text, 3)
        body = head.pack(layout.KIND.magic, 1, 0, len(small), len(text)) + small
        body += packed[head.size + stored : -16]
        return body + xxhash.xxh3_128(body).digest()

    assert_same(after, unpack_state(forged(lambda entry: None), before))
    changes = [
        lambda e: e.update(way="alone"),
        lambda e: e.update(way="?"),
        lambda e: e.update(keys=[99]),
        lambda e: e.update(keys=[]),
        lambda e: e.update(keys=[0, 0], shapes=[[200, 150], [200, 151]]),
        lambda e: e.update(shapes=[[1 << 40, 1 << 40]]),
        lambda e: e.update(shapes=[[301, 200]]),
        lambda e: e.update(lengths=[1 << 62, 0, 0]),
        lambda e: e.update(lengths=[0, 0, 0]),
        lambda e: e.update(step=[0] * 6),
        lambda e: e.update(step=[0, 0, 0, 0, 9, 0]),
        lambda e: e.update(digest="0"),
        lambda e: e.pop("lengths"),
    ]
    for change in changes:
        with pytest.raises(DensorError):
            unpack_state(forged(change), before)


def exact_fused(a: float, b: float, c: float) -> float:
    """By integers: the sum is exact as a fraction, and rounded once."""
    from fractions import Fraction

    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return 0.0
    near = np.float32(float(exact))
    candidates = [
        near,
        np.nextafter(near, np.float32(-np.inf)),
        np.nextafter(near, np.float32(np.inf)),
    ]
    return float(
        min(candidates, key=lambda x: (abs(Fraction(float(x)) - exact), x.view(np.uint32) & 1))
    )


def test_fused_operations_are_rounded_once() -> None:
    rng = np.random.default_rng(1)
    a, b, c = (rng.standard_normal(4000).astype(np.float32) for _ in range(3))
    b *= np.float32(2.0) ** rng.integers(-40, 2, b.size)
    tie = slice(0, 2000)  # halfway, but for a little
    a[tie] = np.float32(1) + rng.integers(0, 1 << 12, 2000).astype(np.float32) * np.float32(2**-12)
    b[tie] = rng.choice(np.array([2**-24, -(2**-24), 2**-24 * (1 + 2**-12)], np.float32), 2000)
    c[tie] = 1 + rng.integers(0, 1 << 20, 2000).astype(np.float32) * np.float32(2**-20)
    found = replay.fused(a, b, c)
    wanted = [exact_fused(float(x), float(y), float(z)) for x, y, z in zip(a, b, c, strict=True)]
    assert np.array_equal(found, np.array(wanted, np.float32))


def test_factors_are_found() -> None:
    generator = torch.Generator().manual_seed(2)
    plain = torch.randn(50_000, generator=generator).bfloat16().float()
    for factor in (1.0, 0.5, 0.37123, 0.99999, 3e-3):
        x = (plain * torch.tensor(factor)).numpy()
        halves, found = scaled.split(x)
        assert np.array_equal(scaled.widened(halves, found).view(np.uint32), x.view(np.uint32))
    x[777] = np.nextafter(x[777], np.float32(1))
    assert scaled.split(x) is None
    assert scaled.split(np.random.default_rng(0).standard_normal(5000).astype(np.float32)) is None


def test_tampered_rest_is_no_code() -> None:
    class Evil:
        def __reduce__(self):
            return (print, ("no",))

    _, after, _ = trained(1)
    after["evil"] = Evil()
    with pytest.raises(DensorError):
        unpack_state(pack_state(after))


def test_golden_files() -> None:
    before = unpack_state((GOLDEN / "adam-before.state").read_bytes())
    packed = (GOLDEN / "adam-after.state").read_bytes()
    assert [group["way"] for group in layout.table_of(packed)["groups"]] == ["replay"]
    after = unpack_state(packed, before)  # which compares digests
    assert_decodes(packed, before, after)
    assert after["state"][0]["exp_avg"].shape == (60, 61)
    assert float(after["state"][0]["step"]) == 2


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}])
def test_a_slow_decoder_takes_all_ways(options) -> None:
    before, after, _ = trained(3, 0.7, **options)
    _, other, _ = trained(3, seed=5)
    ways = set()
    for new, old in ((after, before), (other, before), (other, None)):
        packed = pack_state(new, old)
        assert_decodes(packed, before, new)
        ways |= {group["way"] for group in layout.table_of(packed)["groups"]}
    assert ways >= {"replay", "alone"}


def scaled_state(shape, seed: int = 0):
    """m and v of gradients whose size differs by row and column."""
    generator = torch.Generator().manual_seed(seed)
    size = 10.0 ** (2 * torch.randn(shape[0], *[1] * (len(shape) - 1), generator=generator))
    size = size * 10.0 ** torch.randn(shape[1:], generator=generator)
    m = torch.randn(shape, generator=generator) * size
    v = (0.5 + torch.rand(shape, generator=generator)) * size**2
    slot = {"exp_avg": m, "exp_avg_sq": v, "step": torch.tensor(9.0)}
    return {"state": {0: slot}, "param_groups": [{"params": [0], "betas": (0.9, 0.999)}]}


@pytest.mark.parametrize("shape", [(60, 90), (40, 3, 30)])
def test_v_is_relative_to_scales(shape, monkeypatch: pytest.MonkeyPatch) -> None:
    state = scaled_state(shape)
    slot = state["state"][0]
    slot["exp_avg_sq"][3] = 0
    slot["exp_avg_sq"][4, 0] = torch.tensor(float("nan"))
    slot["exp_avg_sq"][4, 1] = -0.0
    slot["exp_avg"][5, 1] = float("-inf")
    packed = pack_state(state)
    assert [group["way"] for group in layout.table_of(packed)["groups"]] == ["relative"]
    assert_same(unpack_state(packed), state)
    assert_decodes(packed, {"state": {}}, state)
    monkeypatch.setattr(scales, "_BLOCK", 100)
    assert pack_state(state) == packed
    assert_same(unpack_state(packed), state)


def test_v_relative_to_scales_takes_less() -> None:
    state = scaled_state((200, 301))
    slot = state["state"][0]
    alone = sum(len(densor.compress(slot[name], 6, 1)) for name in ("exp_avg", "exp_avg_sq"))
    assert len(pack_state(state)) < 0.97 * alone


def test_any_bits_are_relative_to_any_scales() -> None:
    rng = np.random.default_rng(0)
    m, v = rng.integers(0, 1 << 32, (2, 35), dtype=np.uint32)
    found = scales.fitted(m, v, (5, 7))
    assert np.array_equal(scales.absolute(scales.relative(v, m, found), m, found), v)
    again = scales.split(found.joined(), (5, 7))
    assert all(np.array_equal(a, b) for a, b in zip(again, found, strict=True))
    wild = scales.split(rng.integers(-(1 << 15), 1 << 15, 36).astype(np.int16), (5, 7))
    assert np.array_equal(scales.absolute(scales.relative(v, m, wild), m, wild), v)


def test_long_rows_have_no_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    state = scaled_state((60, 90))
    packed = pack_state(state)
    monkeypatch.setattr(layout, "MOST_COLUMNS", 89)
    with pytest.raises(FormatError, match="no matrix"):
        unpack_state(packed)
    other = pack_state(state)
    assert [group["way"] for group in layout.table_of(other)["groups"]] == ["alone"]
    assert_same(unpack_state(other), state)


def test_golden_file_under_scales() -> None:
    packed = (GOLDEN / "adam-relative.state").read_bytes()
    assert [group["way"] for group in layout.table_of(packed)["groups"]] == ["relative"]
    state = unpack_state(packed)  # which compares digests
    assert_decodes(packed, {"state": {}}, state)
    assert state["state"][0]["exp_avg"].shape == (40, 50)
