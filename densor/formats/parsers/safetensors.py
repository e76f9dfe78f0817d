"""The header of a safetensors file: which tensors lie where.

Format: https://github.com/huggingface/safetensors, "Format": a u64 with the length of the
header, the header as JSON, then the data.
"""

import json
import math
from typing import Any

from densor.dtypes import is_known, nbytes
from densor.errors import DensorError, FormatError
from densor.formats.container import strictjson
from densor.formats.parsers.contents import Contents, Head, plain
from densor.formats.tensors import TensorInfo

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
    found = _parse(text) if len(text) == wanted else None
    if found is None:
        return None
    known = [tensor for tensor in found if tensor.plain]
    return plain(known)._replace(others=[tensor for tensor in found if not tensor.plain])


def header_size(first: bytes) -> int | None:
    """Bytes of length field and header, from the first 8 bytes; None if it cannot be one."""
    if len(first) < LENGTH_SIZE:
        return None
    size = int.from_bytes(first[:LENGTH_SIZE], "little")
    return LENGTH_SIZE + size if 2 <= size <= MAX_HEADER else None


def loads(text: bytes) -> dict[str, Any]:
    """The JSON object of a header as other readers take it: the last of a key's values counts.

    FormatError for what is no JSON object.
    """
    try:
        found = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"safetensors header is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise FormatError("safetensors header is not a JSON object")
    return found


def parse_header(head: bytes) -> list[TensorInfo] | None:
    """Tensors by ascending offset in the file; None if this is no well-formed header.

    `head`: length field and header. Tensors of types that densor does not know are left out.
    """
    found = _parse(head)
    if found is None:
        return None
    known = sorted((t for t in found if t.plain), key=lambda t: (t.offset, t.size))
    end = len(head)
    for tensor in known:
        if tensor.offset < end:
            return None
        end = tensor.offset + tensor.size
    return known


def _parse(head: bytes) -> list[TensorInfo] | None:
    """All tensors of a header, those that are malformed without a type that is known.

    None if there is none that is well-formed among several.
    """
    if head[LENGTH_SIZE : LENGTH_SIZE + 1] != b"{":
        return None
    try:
        header = loads(head[LENGTH_SIZE:])
    except FormatError:
        return None
    header.pop("__metadata__", None)
    tensors = []
    sound = 0
    for name, found in header.items():
        try:
            tensors.append(_tensor(name, found, len(head)))
            sound += 1
        except DensorError:
            tensors.append(TensorInfo(name, "malformed", (), 0, 0))
    return tensors if sound or not tensors else None


def _tensor(name: str, found: object, start: int) -> TensorInfo:
    if not isinstance(found, dict):
        raise FormatError("tensor is not an object")
    dtype, offsets = found.get("dtype"), found.get("data_offsets")
    shape = strictjson.shape(found.get("shape"), "shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not isinstance(dtype, str):
        raise FormatError("tensor has no dtype and data_offsets")
    begin = strictjson.integer(offsets[0], "data_offsets")
    end = strictjson.integer(offsets[1], "data_offsets", least=begin)
    if is_known(dtype) and nbytes(dtype, math.prod(shape)) != end - begin:
        raise FormatError("size of a tensor does not match its shape")
    return TensorInfo(name, dtype, shape, start + begin, end - begin)
