"""The codec of changes after docs/format/delta.md and nothing else: slow and readable.

`parse_model` and `decode` read. `pack_model` and `chunk` write, also what no sensible
writer would choose.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reference import rans
from reference.rans import Bits
from reference.reading import Refused, decode_zstd, fail

CODEC = 7
DIFFERENCE, XOR, OWN = 1, 2, 3
SAME, CODED = 0, 1
FLOATS = 1
MAX_CONTEXTS = 64
MAX_CONTEXT_BITS = 12
MAX_CHUNK = 8388608
HEAD = struct.Struct("<10BH")

Frequencies = list[int]  # of 256 symbols under a context


@dataclass(frozen=True)
class Model:
    """The fields of a MODEL, with the map and the frequencies of its contexts."""

    size: int
    floats: bool
    method: int
    dropped: int
    direct: int
    mantissa: int
    shift: int
    mapped: bytes
    frequencies: list[Frequencies]

    @property
    def width(self) -> int:
        """Bits of an element that are coded."""
        return 8 * self.size - self.dropped

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """CHUNK."""
        if base is None:
            fail("changes in an entry without a base")
        return decode(self, payload, original, base)


def parse_model(payload: bytes) -> "Model | few.Model":
    """MODEL."""
    if payload[3:4] == bytes([few.METHOD]):
        return few.parse_model(payload)
    return parse_own(payload)


def parse_own(payload: bytes) -> Model:
    """MODEL of methods 1 to 3."""
    if payload[3:4] and payload[3] not in (DIFFERENCE, XOR, OWN):
        raise Refused("unsupported", f"method {payload[3]}")
    if len(payload) < HEAD.size:
        fail("too short")
    fields = HEAD.unpack_from(payload)
    _, size, flags, method, dropped, direct, mantissa, contexts, shift, bits, length = fields
    if size not in (1, 2, 4, 8) or flags not in (0, FLOATS) or dropped > 8 * size - 8:
        fail("size, flags or dropped bits")
    width = 8 * size - dropped
    if not splits_all(method, width, direct, mantissa):
        fail("direct or mantissa bits")
    if contexts > MAX_CONTEXTS or shift >= 8 * size or bits > MAX_CONTEXT_BITS:
        fail("contexts")
    packed, rest = payload[HEAD.size : HEAD.size + length], payload[HEAD.size + length :]
    if len(packed) < length or (contexts < 2 and (bits or length)):
        fail("context map")
    mapped = decode_zstd(packed, 1 << bits) if contexts > 1 else b"\0"
    if max(mapped) >= max(contexts, 1):
        fail("a context that is not there")
    frequencies, used = rans.unpack(rest, contexts) if contexts else ([], 0)
    if used != len(rest):
        fail("too long")
    model = Model(
        size, flags == FLOATS, method, dropped, direct, mantissa, shift, mapped, frequencies
    )
    if any(table[t] and meaning(model, t) is None for table in frequencies for t in range(256)):
        fail("a symbol that stands for no change")
    return model


def splits_all(method: int, width: int, direct: int, mantissa: int) -> bool:
    """The table of D and M."""

    def kinds(n: int) -> int:
        return (1 << direct) + ((n - direct) << mantissa)

    if method == OWN:
        return direct == mantissa == 0
    if method == DIFFERENCE:
        return mantissa <= direct < width and kinds(width - 1) <= 128
    return mantissa <= direct <= width and kinds(width) <= 256


def meaning(model: Model, t: int) -> tuple[int, int] | None:
    """Extra bits e of a symbol, and m for r = 0; None where it stands for no change."""
    if model.method == OWN:
        e = model.width - 8
        return e, t << e
    c = (t + 1) // 2 if model.method == DIFFERENCE else t
    if c < 1 << model.direct:
        e, m = 0, c
    else:
        q = c - (1 << model.direct)
        e = model.direct + (q >> model.mantissa) - model.mantissa
        m = ((1 << model.mantissa) + q % (1 << model.mantissa)) << e
    return (e, m) if m < 1 << model.width else None


def decode(model: Model, payload: bytes, original: int, base: bytes) -> bytes:
    """CHUNK."""
    if len(payload) < 9 or original % model.size:
        fail("length")
    offset, mode = struct.unpack_from("<QB", payload)
    if offset + original > len(base):
        fail("beyond the end of the base")
    if original > MAX_CHUNK:
        raise Refused("limit", "more bytes than a chunk may have")
    before = base[offset : offset + original]
    if mode == SAME and len(payload) == 9:
        return before
    if mode != CODED or not model.frequencies or len(payload) < 13:
        fail("mode")
    length = int.from_bytes(payload[9:13], "little")
    if 13 + length > len(payload):
        fail("a stream beyond the end")
    old = [
        int.from_bytes(before[i : i + model.size], "little") for i in range(0, original, model.size)
    ]
    contexts = [model.mapped[(b >> model.shift) % len(model.mapped)] for b in old]
    stream = rans.Decoder(payload[13 : 13 + length], model.frequencies)
    symbols = stream.run(contexts)
    stream.finish()
    extra = Bits(payload[13 + length :])
    new = [element(model, b, t, extra) for b, t in zip(old, symbols, strict=True)]
    if extra.finish() != len(payload) - 13 - length:
        fail("too many extra bits")
    return b"".join(x.to_bytes(model.size, "little") for x in new)


def element(model: Model, b: int, t: int, extra: Bits) -> int:
    """The new element for an old one and a symbol."""
    found = meaning(model, t)
    assert found is not None
    e, m = found
    m += extra.take(e)
    b >>= model.dropped
    w, modulus = model.width, 1 << model.width
    if model.method == OWN:
        x = (m >> 1 | (m & 1) << (w - 1)) if model.floats else m
    elif model.method == XOR:
        x = b ^ m
    else:
        d = -m if t % 2 else m
        x = moved(b, d, w) if model.floats else (b + d) % modulus
    return x << model.dropped


def moved(b: int, d: int, w: int) -> int:
    """The number d steps away from sign and magnitude b, away from zero where d is positive."""
    sign = 1 << (w - 1)
    y = (b % sign + d) % (2 * sign)
    if y & sign:
        y ^= sign - 1
    return y ^ (b & sign)


# The writer


def pack_model(model: Model, pack_zstd: Callable[[bytes], bytes]) -> bytes:
    """MODEL, right or wrong."""
    contexts = len(model.frequencies)
    packed = pack_zstd(model.mapped) if contexts > 1 else b""
    head = HEAD.pack(
        CODEC,
        model.size,
        model.floats,
        model.method,
        model.dropped,
        model.direct,
        model.mantissa,
        contexts,
        model.shift,
        len(model.mapped).bit_length() - 1,
        len(packed),
    )
    return head + packed + (rans.pack(model.frequencies) if contexts else b"")


def chunk(
    model: Model,
    offset: int,
    contexts: Sequence[int],
    symbols: Sequence[int],
    extra: Sequence[int],
) -> bytes:
    """CHUNK of symbols with the extra bits of each."""
    stream = rans.encode([(bytes(symbols), contexts)], model.frequencies)
    bits, size = 0, 0
    for t, r in zip(symbols, extra, strict=True):
        found = meaning(model, t)
        count = 0 if found is None else found[0]
        bits |= (r & ((1 << count) - 1)) << size
        size += count
    head = struct.pack("<QBI", offset, CODED, len(stream))
    return head + stream + bits.to_bytes((size + 7) // 8, "little")


from reference import few  # noqa: E402 which builds on this
