"""Numbers of few bytes where they are small (LEB128, as DWARF and WebAssembly have it)."""


def append_varint(out: bytearray, value: int) -> None:
    """Appends a number of 0 or more: seven bits a byte, the lowest first; 128 says "and more"."""
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
