"""Object files linked to one piece of machine code, which needs no linker to be loaded.

LLVM makes object files; its library takes 20 ms and more to load, which is most of what a small
file takes. What they hold is laid out here once, when a kernel is compiled: addresses that point
into the code itself, or to functions of the system, are entered when it is loaded.

ELF for x86-64 as LLVM writes it for code that may lie anywhere in memory: every address is
absolute and has 64 bits. Anything else is refused, and left to LLVM (System V ABI, AMD64
supplement, "Object Files").
"""

import ctypes
import functools
import mmap
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_X86_64 = 62  # kind of processor in a header
_SYMBOLS, _RELOCATIONS, _NO_BITS = 2, 4, 8  # kinds of sections
_WRITE, _ALLOC = 1, 2  # flags of sections
_UNDEFINED, _RESERVED = 0, 0xFF00  # numbers of sections
_ABSOLUTE_64 = 1  # kind of relocation
_UNWINDING = ".eh_frame"  # which nothing here uses
_MASK = (1 << 64) - 1
OWN = ""  # in place of a symbol: the code itself


class Image(NamedTuple):
    """Machine code, and what it needs to be loaded.

    `entry`: offset of the function to call. `addresses`: by symbol, or `OWN`, pairs of the offset
    of 8 bytes and of what is added to the symbol's address to be put there.
    """

    code: bytes
    entry: int
    addresses: dict[str, list[list[int]]]


class _Unsuited(Exception):
    """An object file of another kind."""


class _Section(NamedTuple):
    name: int
    kind: int
    flags: int
    address: int
    at: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class _Object:
    """An object file. `places`: where its sections are in the image, by number."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        (machine,) = struct.unpack_from("<H", data, 18)
        if data[:6] != b"\x7fELF\x02\x01" or machine != _X86_64:
            raise _Unsuited
        (at,) = struct.unpack_from("<Q", data, 0x28)
        size, count, names = struct.unpack_from("<HHH", data, 0x3A)
        numbers = range(count)
        self.sections = [
            _Section(*struct.unpack_from("<IIQQQQIIQQ", data, at + size * n)) for n in numbers
        ]
        self._names = self.sections[names].at
        self.places: dict[int, int] = {}

    def text(self, at: int) -> str:
        """The zero-terminated text at an offset."""
        return self.data[at : self.data.index(b"\0", at)].decode()

    def lay_out(self, code: bytearray) -> None:
        """Appends the sections that are in memory when the code runs."""
        for number, section in enumerate(self.sections):
            needed = section.flags & _ALLOC and section.size
            if not needed or self.text(self._names + section.name) == _UNWINDING:
                continue
            if section.flags & _WRITE or section.kind == _NO_BITS:
                raise _Unsuited
            code += bytes(-len(code) % max(1, section.alignment))
            self.places[number] = len(code)
            code += self.data[section.at : section.at + section.size]

    def symbols(self) -> list[tuple[str, int | None]]:
        """Names, and offsets in the image; None for what is in another file."""
        found = []
        for table in self.sections:
            if table.kind != _SYMBOLS:
                continue
            names = self.sections[table.link].at
            for at in range(table.at, table.at + table.size, 24):
                name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", self.data, at)
                if section >= _RESERVED:
                    place = -1  # such as the name of a source; no code may refer to it
                elif section == _UNDEFINED:
                    place = None
                else:
                    place = self.places.get(section, -1)
                    place = place + value if place >= 0 else -1
                found.append((self.text(names + name), place))
        return found

    def relocations(self) -> list[tuple[int, int, int]]:
        """Offset in the image, number of the symbol, and what is added."""
        found = []
        for table in self.sections:
            if table.kind != _RELOCATIONS or table.info not in self.places:
                continue
            for at in range(table.at, table.at + table.size, 24):
                offset, what, more = struct.unpack_from("<QQq", self.data, at)
                if what & 0xFFFFFFFF != _ABSOLUTE_64:
                    raise _Unsuited
                found.append((self.places[table.info] + offset, what >> 32, more))
        return found


def link(objects: Sequence[bytes], entry: str) -> Image | None:
    """The image of object files, called at the symbol `entry`; None where LLVM has to load them."""
    try:
        return _linked([_Object(data) for data in objects], entry)
    except (_Unsuited, struct.error, ValueError, IndexError, KeyError):
        return None


def _linked(files: Sequence[_Object], entry: str) -> Image:
    code = bytearray()
    for file in files:
        file.lay_out(code)
    symbols = [file.symbols() for file in files]
    known = {name: place for listed in symbols for name, place in listed if place is not None}
    addresses: dict[str, list[list[int]]] = {}
    for file, listed in zip(files, symbols, strict=True):
        for offset, number, more in file.relocations():
            name, place = listed[number]
            if place is None:
                place = known.get(name)
            if place is None:
                addresses.setdefault(name, []).append([offset, more])
            elif place < 0:
                raise _Unsuited
            else:
                addresses.setdefault(OWN, []).append([offset, place + more])
    return Image(bytes(code), known[entry], addresses)


def keep(thing: object) -> None:
    """Keeps an object as long as the process: a thread may run its code when Python ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def load(image: Image, symbols: Mapping[str, int]) -> int | None:
    """The address of the image's function, in memory of its own; None where that is forbidden.

    `symbols`: the address of each symbol that it needs.
    """
    size = max(1, len(image.code))
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[: len(image.code)] = image.code
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for symbol, places in image.addresses.items():
        address = base if symbol == OWN else symbols[symbol]
        for offset, more in places:
            struct.pack_into("<Q", memory, offset, (address + more) & _MASK)
    protect = _system().mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if protect(base, len(memory), mmap.PROT_READ | mmap.PROT_EXEC):
        return None
    keep(memory)
    return base + image.entry


@functools.cache
def _system() -> Any:
    return ctypes.CDLL(None)
