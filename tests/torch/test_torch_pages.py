"""Pages of key-value caches."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import xxhash
from reference import cache_page as reference

import densor
from densor.errors import ArgumentError, DensorError

torch = pytest.importorskip("torch")

from densor.torch import PagedCache, pack_page, pages, rotated, rotated_coding, unpack_page  # noqa: E402
from densor.torch.pages import _HEAD, KEYS, ROTATED, SORTED, VALUES, Page  # noqa: E402

THETA = 10000.0


def rotary_keys(tokens: int, first: int = 0, seed: int = 0, channels: int = 32):
    """Channels with strong means, turned to their positions."""
    generator = torch.Generator().manual_seed(seed)
    means = 3 * torch.randn(1, 2, 1, channels, generator=torch.Generator().manual_seed(9))
    x = means + torch.randn(1, 2, tokens, channels, generator=generator)
    inverse = THETA ** (-torch.arange(0, channels, 2) / channels)
    angle = torch.arange(first, first + tokens)[:, None] * inverse
    a, b = x.split(channels // 2, -1)
    turned = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
    return torch.cat(turned, -1).bfloat16()


def assert_same(one, other) -> None:
    assert one.dtype == other.dtype and one.shape == other.shape
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[one.itemsize]
    assert torch.equal(one.contiguous().view(integer), other.contiguous().view(integer))


def test_keys_are_relative_to_their_rotated_means() -> None:
    keys = rotary_keys(700, 50)
    packed = pack_page(Page(KEYS, 3, 50, keys), rope_theta=THETA)
    assert _HEAD.unpack_from(packed)[3] == ROTATED
    assert len(packed) < 0.96 * len(pack_page(Page(KEYS, 3, 50, keys)))
    page = unpack_page(packed)
    assert page[:3] == (KEYS, 3, 50)
    assert_same(page.tensor, keys)


@pytest.mark.parametrize("level", [1, 3, 6])
def test_values_have_scales_by_head(level: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scales = (1.5 * torch.randn(1, 4, 1, 64, generator=generator)).exp()
    values = (scales * torch.randn(1, 4, 512, 64, generator=generator)).bfloat16()
    packed = pack_page(Page(VALUES, 3, 0, values), level)
    assert len(packed) < 0.97 * len(densor.compress(values, level))
    assert_same(unpack_page(packed).tensor, values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 2, 3, 4), (2, 1, 65, 7), (1, 1, 0, 8), (1, 3, 1, 2)])
def test_any_page_comes_back(dtype, shape) -> None:
    tensor = torch.randn(shape).to(dtype)
    if tensor.numel() > 2:
        tensor.view(-1)[:3] = torch.tensor([float("nan"), -0.0, float("inf")])
    for which in (KEYS, VALUES):
        packed = pack_page(Page(which, 0, 7, tensor), rope_theta=THETA)
        assert_same(unpack_page(packed).tensor, tensor)


@pytest.mark.parametrize(("channels", "first"), [(4098, 0), (32, (1 << 64) - 1), (4096, 5)])
def test_pages_beyond_what_means_can_be_for(channels: int, first: int) -> None:
    keys = rotary_keys(60, channels=channels)
    page = unpack_page(pack_page(Page(KEYS, 0, first, keys), rope_theta=THETA))
    assert page.first == first
    assert_same(page.tensor, keys)


def test_tensors_at_odd_addresses() -> None:
    memory = torch.frombuffer(
        bytearray(rotary_keys(70).view(torch.uint8).numpy().tobytes()), dtype=torch.uint8
    )
    odd = torch.empty(memory.numel() + 1, dtype=torch.uint8)
    odd[1:] = memory
    keys = torch.frombuffer(odd.numpy(), dtype=torch.bfloat16, offset=1).reshape(1, 2, 70, 32)
    packed = pack_page(Page(KEYS, 0, 0, keys), rope_theta=THETA)
    assert packed == pack_page(Page(KEYS, 0, 0, keys.clone()), rope_theta=THETA)
    assert_same(unpack_page(packed).tensor, keys)


def test_keys_of_many_tokens_take_tables_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = rotary_keys(150, 9)
    packed = pack_page(Page(KEYS, 0, 9, keys), rope_theta=THETA)
    assert _HEAD.unpack_from(packed)[3] == ROTATED
    monkeypatch.setattr(rotated, "_MAX_KEPT", 16 * 7)
    assert pack_page(Page(KEYS, 0, 9, keys), rope_theta=THETA) == packed
    assert_same(unpack_page(packed).tensor, keys)


def near(means: rotated.Means, tokens: int, seed: int) -> np.ndarray:
    """Bits about as far from what is expected as escapes are, and some that are anything."""
    rng = np.random.default_rng(seed)
    rows, channels = means.means.shape
    size = rows * tokens * channels
    work = rotated_coding._work_for((size + 3) // 4 * 4)
    rotated_coding._expect(means, tokens, rotated_coding._BOUNDS, work)
    word = work.expected[:size].astype(np.int64)
    far = rng.choice([-6144, -6143, -6081, -6080, 2046, 2047, 2048], size)
    offset = np.where(rng.random(size) < 0.05, far, np.rint(300 * rng.normal(size=size)))
    bits = (word + offset.astype(np.int64)) & 0x7FFF | rng.integers(0, 2, size) << 15
    return bits.astype(np.uint16).reshape(rows, tokens, channels)


def any_means(rows: int, channels: int, exponent: int, position: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rotated.Means(
        rng.integers(-(1 << 15), 1 << 15, (rows, channels)).astype(np.int16),
        rng.integers(0, 193, (rows, channels)).astype(np.uint8),
        rng.integers(0, 1 << 32, channels // 2).astype(np.uint32),
        exponent,
        position,
    )


@pytest.mark.parametrize("tokens", [5, 6, 7, 90])
@pytest.mark.parametrize("exponent", [-200, -150, -20, 0, 100, 200])
def test_any_bits_under_any_means(exponent: int, tokens: int) -> None:
    for channels in (2, 6, 38):
        means = any_means(2, channels, exponent, (1 << 40) + tokens, channels)
        bits = near(means, tokens, channels)
        coded = rotated_coding.encode(bits, means, b"before")
        if coded is None:
            assert bits.size < 100  # where a few escapes are many
            continue
        assert bytes(coded[:6]) == b"before"
        body = bytes(coded[6:])
        assert np.array_equal(rotated_coding.decode(memoryview(body), means, tokens), bits)
        again, found, _ = rotated.parse(memoryview(rotated.pack(means, tokens)))
        assert found == tokens and np.array_equal(again.means, means.means)
        if bits.size < 2000:
            shape = (1, 2, tokens, channels)
            page = _HEAD.pack(b"\x89DPAGE\r\n", 1, KEYS, ROTATED, 0, 0, *shape)
            page += rotated.pack(means, tokens) + body
            assert reference.decode(page + xxhash.xxh3_128_digest(page)).data == bits.tobytes()


def test_bits_far_from_what_is_expected_are_coded_another_way() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 16, (2, 90, 6)).astype(np.uint16)
    assert rotated_coding.encode(bits, any_means(2, 6, 0, 0), b"") is None
    keys = rotary_keys(90)
    keys[:, :, ::2] = 0
    page = unpack_page(pack_page(Page(KEYS, 0, 0, keys), rope_theta=THETA))
    assert_same(page.tensor, keys)


def test_sines_are_those_of_real_arithmetic() -> None:
    wanted = np.rint(np.sin(np.arange(4096) * (2 * np.pi / 4096)) * 2**14)
    assert np.array_equal(rotated.sines(), wanted)


def test_a_cache_grows_and_codes_nothing_twice(tmp_path: Path) -> None:
    keys, values = rotary_keys(150), torch.randn(1, 2, 150, 16).bfloat16()
    for folder in (None, tmp_path / "pages"):
        cache = PagedCache(64, rope_theta=THETA, folder=folder)
        at = 0
        for count in (1, 60, 5, 1, 70, 13):
            cache.append(2, keys[:, :, at : at + count], values[:, :, at : at + count])
            at += count
            found = cache.layer(2)
            assert_same(found[0], keys[:, :, :at])
            assert_same(found[1], values[:, :, :at])
        assert 0 < cache.packed_bytes < 0.9 * (keys.nbytes + values.nbytes)
    assert len(list((tmp_path / "pages").iterdir())) == 4
    (tmp_path / "pages/2-k-1.page").write_bytes((tmp_path / "pages/2-k-0.page").read_bytes())
    with pytest.raises(DensorError, match="another"):
        cache.layer(2)
    (tmp_path / "pages/2-k-1.page").unlink()
    with pytest.raises(DensorError):
        cache.layer(2)
    with pytest.raises(ArgumentError):
        cache.layer(0)
    with pytest.raises(ArgumentError):
        cache.append(2, keys.float(), values)
    with pytest.raises(ArgumentError):
        PagedCache(0)


@pytest.mark.parametrize("theta", [THETA, None])
def test_a_way_is_chosen_by_few_tokens(
    monkeypatch: pytest.MonkeyPatch, theta: float | None
) -> None:
    """It is the smallest for all, and only one way codes all tokens, at the next choice too."""
    keys = torch.cat([rotary_keys(1100), rotary_keys(1100, seed=1)], 1)
    if theta is None:  # or both ways that are left may be as good as each other
        keys *= 2 ** torch.randn(4, 1, 32, generator=torch.Generator().manual_seed(2)).mul(4)
    smallest = pack_page(Page(KEYS, 0, 0, keys), rope_theta=theta)
    whole = []
    pack = pages._pack

    def counted(page: Page, *arguments):
        whole.append(page.tensor.shape == keys.shape)
        return pack(page, *arguments)

    monkeypatch.setattr(pages, "_pack", counted)
    choice = pages.Choice()
    for number in range(pages._CHOSEN_FOR + 1):
        packed = choice.pack(Page(KEYS, 0, 0, keys), 3, theta)
        assert packed == smallest
        if number in (0, pages._CHOSEN_FOR):
            assert whole.count(True) == 1 and whole.count(False) == 3
        whole.clear()
    short = keys[:, :, :20]  # says too little
    assert pages.Choice().pack(Page(KEYS, 0, 0, short), 3, theta) == pack_page(
        Page(KEYS, 0, 0, short), rope_theta=theta
    )


@pytest.mark.parametrize("sign", [0, 0x8000])
def test_the_largest_magnitude_has_any_sign(sign: int) -> None:
    """What is not finite has no means; the unit suits what is the largest."""
    bits = np.full((1, 4, 8), 0x3F80, np.uint16)
    bits[0, 1, 3] = sign | 0x7F80
    assert rotated.fit(bits, rotated.steps_of(THETA, 8), 0) is None
    bits[0, 1, 3] = sign | 0x5F80
    large = rotated.fit(bits, rotated.steps_of(THETA, 8), 0)
    assert large is not None and large.exponent > 30
    assert rotated.fit(bits * 0 | np.uint16(sign), rotated.steps_of(THETA, 8), 0) is None


def test_bad_pages_are_refused() -> None:
    packed = pack_page(Page(KEYS, 1, 0, rotary_keys(200)), rope_theta=THETA)
    rng = np.random.default_rng(1)
    for at in rng.integers(0, len(packed), 200):
        damaged = bytearray(packed)
        damaged[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(DensorError):
            unpack_page(bytes(damaged))
        body = bytes(damaged[:-16])  # as an attacker would write it: refused, or other values
        with contextlib.suppress(DensorError):
            unpack_page(body + xxhash.xxh3_128(body).digest())
    for size in (0, 20, 60, len(packed) - 17):
        with pytest.raises(DensorError):
            unpack_page(packed[:size])
        with pytest.raises(DensorError):
            unpack_page(packed[:size] + xxhash.xxh3_128(packed[:size]).digest())


def test_golden_files() -> None:
    golden = Path(__file__).parents[1] / "golden"
    for name, way, digest in (
        ("keys", SORTED, "e1b87236979f9c12"),
        ("keys-coded", ROTATED, "e1b87236979f9c12"),
        ("values", 0, "bc75a4b517e68593"),
    ):
        data = (golden / f"{name}.page").read_bytes()
        assert _HEAD.unpack_from(data)[3] == way
        bits = unpack_page(data).tensor.contiguous().view(torch.uint8).numpy()
        assert xxhash.xxh3_64(bits.tobytes()).hexdigest() == digest
        assert reference.decode(data).data == bits.tobytes()


def test_positions_at_the_end_of_what_there_is() -> None:
    bits = torch.randn(1, 1, 200, 4096, generator=torch.Generator().manual_seed(0)) * 0.3 + 1
    page = Page(KEYS, 0, 2**63 - 50, bits.to(torch.bfloat16))
    back = unpack_page(pack_page(page, 3, 10000.0))
    assert torch.equal(back.tensor.view(torch.int16), page.tensor.view(torch.int16))


def constant_but_for(keys: torch.Tensor, *heads: int) -> torch.Tensor:
    made = torch.randn(1, 8, 1, 32, generator=torch.Generator().manual_seed(1))
    made = made.expand(1, 8, keys.shape[2], 32).clone()
    for head in heads:
        made[:, head] = keys[:, 0]
    return made


@pytest.mark.parametrize("tokens", [512, 1024])
def test_heads_that_are_unlike_each_other_do_not_mislead(tokens: int) -> None:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, 8, tokens, 32, generator=generator)
    scaled = noise * 2 ** torch.randn(1, 8, 1, 32, generator=generator).mul(4)
    scaled[:, 0] = 1
    rope = rotary_keys(tokens).float()
    unlike = ((noise, (0,)), (rope, (0,)), (rope, (7,)), (rope, (0, 3, 7)))
    constant = [constant_but_for(keys, *heads) for keys, heads in unlike]
    late = rotary_keys(tokens).float().repeat(1, 4, 1, 1)
    late[:, :, tokens // 3 :] = 1
    for keys in (scaled, *constant, late):
        page = pages.Page(pages.KEYS, 0, 0, keys.bfloat16())
        chosen = pages.Choice().pack(page, 3, THETA)
        assert len(chosen) <= 1.01 * len(pages.pack_page(page, 3, THETA))
        assert_same(unpack_page(chosen).tensor, page.tensor)


def test_pages_that_are_refused_are_refused_by_a_choice_too() -> None:
    with pytest.raises(ArgumentError):
        pages.Choice().pack(Page(KEYS, 0, 0, torch.zeros(3, 1 << 18)), 3, THETA)
    last = Page(KEYS, 0, (1 << 64) - 1, rotary_keys(4096))
    assert unpack_page(pages.Choice().pack(last, 3, THETA)).first == last.first
