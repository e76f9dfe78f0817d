"""Blocks of LZ4, after docs/format/pages.md (6) and nothing else."""


def _further(count: int) -> bytes:
    return bytes([255] * (count // 255) + [count % 255])


def _element(literals: bytes, match: tuple[int, int] | None) -> bytes:
    """Bytes as they are, and the length and the distance of a match behind them."""
    head = min(len(literals), 15) << 4 | (min(match[0] - 4, 15) if match else 0)
    out = bytes([head]) + (_further(len(literals) - 15) if len(literals) >= 15 else b"") + literals
    if match:
        length, back = match
        out += back.to_bytes(2, "little") + (_further(length - 19) if length >= 19 else b"")
    return out


def lz4(data: bytes) -> bytes:
    """A block."""
    size = len(data)
    small = size < 65547
    places: dict[int, int] = {}

    def slot(at: int) -> int:
        if small:
            return int.from_bytes(data[at : at + 4], "little") * 2654435761 % 2**32 >> 19
        return (int.from_bytes(data[at : at + 5], "little") << 24) * 889523592379 % 2**64 >> 52

    def moved(at: int) -> int:
        """What stands at the place of `at`, which is put there."""
        found = places.get(slot(at), 0)
        places[slot(at)] = at
        return found

    def agree(found: int, at: int) -> bool:
        return data[found : found + 4] == data[at : at + 4] and (small or at - found <= 65535)

    out, done, at, limit = b"", 0, 1, size - 11
    while size >= 13:
        skip, step = 64, 1
        while at + step <= limit:
            found = moved(at)
            if agree(found, at):
                break
            at += step
            step = skip >> 6
            skip += 1
        else:
            break
        while at > done and found > 0 and data[at - 1] == data[found - 1]:
            at, found = at - 1, found - 1
        while True:
            length = 4
            while at + length < size - 5 and data[at + length] == data[found + length]:
                length += 1
            out += _element(data[done:at], (length, at - found))
            at = done = at + length
            if at >= limit:
                return out + _element(data[done:], None)
            places[slot(at - 2)] = at - 2
            found = moved(at)
            if not agree(found, at):
                at += 1
                break
    return out + _element(data[done:], None)
