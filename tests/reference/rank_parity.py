"""Parity across ranks, after docs/format/rank_parity.md and nothing else."""

from reference import recovery


def members(stripe: int, ranks: int, lost: int) -> list[int]:
    """The ranks whose bytes are in a stripe."""
    return [(stripe + k) % ranks for k in range(lost, ranks)]


def pieces(stripe: int, data: list[bytes], lost: int) -> list[bytes]:
    """Those of the members of a stripe."""
    ranks = len(data)
    size = max(1, -(-max(map(len, data)) // (ranks - lost)))
    found = []
    for rank in members(stripe, ranks, lost):
        number = sum(rank in members(before, ranks, lost) for before in range(stripe))
        found.append(data[rank][number * size : (number + 1) * size].ljust(size, b"\0"))
    return found


def said(rounds: list[tuple[int, list[int], list[bytes]]], ranks: int) -> list[int]:
    """What a rank that has these rounds sends, to recover."""
    row = [len(rounds)]
    for number, lengths, digests in rounds:
        row += [number, *lengths, *(byte for digest in digests for byte in digest)]
    return row + [0] * (1 + 2 * (1 + 17 * ranks) - len(row))


def held(data: list[bytes], lost: int) -> dict[tuple[int, int], bytes]:
    """All blocks of parity, by stripe and the rank that holds them."""
    ranks = len(data)
    return {
        (stripe, (stripe + number) % ranks): recovery.parity(pieces(stripe, data, lost), number)
        for stripe in range(ranks)
        for number in range(lost)
    }
