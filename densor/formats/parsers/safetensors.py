"""The header of a safetensors file: which tensors lie where.

Format: https://github.com/huggingface/safetensors, "Format": a u64 with the length of the
header, the header as JSON, then the data.
"""

import math

from densor.dtypes import SIZES
from densor.errors import DensorError, FormatError
from densor.formats.container import strictjson
from densor.formats.parsers.contents import Contents, Head, plain
from densor.formats.tensors import TensorInfo, is_name

LENGTH_SIZE = 8
MAX_HEADER = 100_000_000  # as the reference implementation


def find(head: Head) -> Contents | None:
    """What a safetensors file holds; None if it is none."""
    wanted = header_size(head.first(LENGTH_SIZE))
    if wanted is None or (head.size is not None and wanted > head.size):
        return None
    if head.first(LENGTH_SIZE + 1)[LENGTH_SIZE:] != b"{":
        return None
    text = head.first(wanted)
    tensors = parse_header(text) if len(text) == wanted else None
    return None if tensors is None else plain(tensors)


def header_size(first: bytes) -> int | None:
    """Bytes of length field and header, from the first 8 bytes; None if it cannot be one."""
    if len(first) < LENGTH_SIZE:
        return None
    size = int.from_bytes(first[:LENGTH_SIZE], "little")
    return LENGTH_SIZE + size if 2 <= size <= MAX_HEADER else None


def parse_header(head: bytes) -> list[TensorInfo] | None:
    """Tensors by ascending offset in the file; None if this is no well-formed header.

    `head`: length field and header. Tensors of types that densor does not know, and those whose
    names no index can hold, are left out.
    """
    if head[LENGTH_SIZE : LENGTH_SIZE + 1] != b"{":
        return None
    try:
        header = strictjson.loads(head[LENGTH_SIZE:], "safetensors header")
        header.pop("__metadata__", None)
        tensors = [_tensor(name, found, len(head)) for name, found in header.items()]
    except DensorError:
        return None
    known = sorted((t for t in tensors if t is not None), key=lambda t: (t.offset, t.size))
    end = len(head)
    for tensor in known:
        if tensor.offset < end:
            return None
        end = tensor.offset + tensor.size
    return known


def _tensor(name: str, found: object, start: int) -> TensorInfo | None:
    if not isinstance(found, dict):
        raise FormatError("tensor is not an object")
    dtype, offsets = found.get("dtype"), found.get("data_offsets")
    shape = strictjson.shape(found.get("shape"), "shape")
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise FormatError("tensor has no data_offsets")
    begin = strictjson.integer(offsets[0], "data_offsets")
    end = strictjson.integer(offsets[1], "data_offsets", least=begin)
    if not isinstance(dtype, str) or dtype not in SIZES or dtype == "VOID" or not is_name(name):
        return None
    if math.prod(shape) * SIZES[dtype] != end - begin:
        raise FormatError("size of a tensor does not match its shape")
    return TensorInfo(name, dtype, shape, start + begin, end - begin)
