"""Recovery data as section 12 of container.md tells it, slow and readable, sharing no code."""

import struct

import xxhash

EXP = [1]
for _ in range(254):
    double = EXP[-1] << 1
    EXP.append(double ^ 0x11D if double & 256 else double)
LOG = {value: power for power, value in enumerate(EXP)}
POINTS = [0, *EXP]


def times(a: int, b: int) -> int:
    """The product in GF(2^8)."""
    return EXP[(LOG[a] + LOG[b]) % 255] if a and b else 0


def over(a: int, b: int) -> int:
    """The quotient in GF(2^8)."""
    return EXP[(LOG[a] - LOG[b]) % 255] if a else 0


def parity(blocks: list[bytes], number: int) -> bytes:
    """Parity block `number` of a group: the polynomial through its blocks, at one more point."""
    x = POINTS[len(blocks) + number]
    out = bytes(len(blocks[0]))
    for i, block in enumerate(blocks):
        factor = 1
        for j in range(len(blocks)):
            if j != i:
                factor = times(factor, over(x ^ POINTS[j], POINTS[i] ^ POINTS[j]))
        products = bytes(times(factor, value) for value in range(256))
        out = bytes(a ^ b for a, b in zip(out, block.translate(products), strict=True))
    return out


def check(archive: bytes) -> int:
    """Verifies all recovery frames of a sound archive; how many there are."""
    at, count = 32, 0
    while at < len(archive):
        kind, stored = struct.unpack_from("<BxxxI", archive, at)
        if kind == 128:
            check_frame(archive, at, stored)
            count += 1
        at += 28 + stored
    return count


def check_frame(archive: bytes, at: int, stored: int) -> None:
    """Verifies one recovery frame."""
    fields = struct.unpack_from("<8sQQQIIIIBBBB", archive, at + 28)
    magic, protected, index_at, frames, size, group, groups, _, data, count, number, zero = fields
    assert magic == b"RECOVER\x01" and zero == 0
    assert stored == 52 + 8 * data + size
    assert at == protected + (number * groups + group) * (28 + stored)
    end = struct.unpack("<QQ", archive[-16:])
    assert end == (index_at, frames + groups * count)
    assert protected + groups * count * (28 + stored) + 44 == len(archive)
    padded = archive[:protected] + bytes(size * groups * data - protected)
    places = [(row * groups + group) * size for row in range(data)]
    blocks = [padded[place : place + size] for place in places]
    hashes = struct.unpack_from(f"<{data}Q", archive, at + 80)
    assert hashes == tuple(xxhash.xxh3_64_intdigest(block) for block in blocks)
    begin = at + 80 + 8 * data
    assert parity(blocks, number) == archive[begin : begin + size]
