"""Files of PyTorch as it wrote them before version 1.6: pickles, then the storages.

Format: `_legacy_save` in `torch/serialization.py`: pickles of a magic number, the protocol, the
machine, what was saved, and the keys of the storages; then per key u64 elements and the elements.
"""

from typing import Any

from densor.dtypes import SIZES
from densor.errors import FormatError
from densor.formats.parsers import torch_pickle
from densor.formats.parsers.contents import Contents, Head
from densor.formats.parsers.numpy_pickle import with_arrays
from densor.formats.parsers.torch_pickle import Found, PickleFile
from densor.formats.parsers.torch_storages import contents_of
from densor.formats.parsers.zip_members import Member

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAGIC_BYTES = _MAGIC.to_bytes(10, "little")


def find(head: Head) -> Contents | None:
    """What such a file holds; None if it is none, or on a pipe."""
    if head.random is None or _MAGIC_BYTES not in head.first(32):
        return None
    file = PickleFile(head.random, 0, head.random.size)
    if torch_pickle.values(file) != _MAGIC or torch_pickle.values(file) != _PROTOCOL:
        return None
    machine = torch_pickle.values(file)
    little = not isinstance(machine, list) or ("little_endian", False) not in machine
    begin = file.at
    found = torch_pickle.scan(file)
    end = file.at
    keys = torch_pickle.values(file)
    if not isinstance(keys, list):
        raise FormatError("file of PyTorch has no list of storages")
    storages = _storages(file, keys, found, "little" if little else "big")
    return with_arrays(contents_of(storages, found, little), head.random, begin, end)


def _storages(
    file: PickleFile, keys: list[tuple[str, Any]], found: Found, order: Any
) -> dict[str, Member]:
    """Where the storages are, as far as the types of those before are known."""
    storages: dict[str, Member] = {}
    for _, key in keys:
        count = file.read(8)
        dtype = found.storages.get(key, "U8") or "U8"  # an untyped one is told in bytes
        if len(count) < 8:
            raise FormatError("file of PyTorch ends before its storages")
        size = int.from_bytes(count, order) * SIZES[dtype]
        storages[key] = Member(key, file.at, size)
        file.seek(file.at + size)
    return storages
