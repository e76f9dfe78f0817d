"""Headers of safetensors files, read and written: which tensors lie where.

Format: https://github.com/huggingface/safetensors, "Format": a u64 with the length of the
header, the header as JSON, then the data.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from densor.dtypes import is_known, nbytes
from densor.errors import ArgumentError, DensorError, FormatError, LimitError
from densor.formats.container import strictjson
from densor.formats.io.sources import RandomSource
from densor.formats.parsers import header_scan
from densor.formats.parsers.contents import Contents, Head, plain
from densor.formats.tensor_table import TensorTable, table_of
from densor.formats.tensors import TensorInfo, are_names, is_name

LENGTH_SIZE = 8
MAX_HEADER = 100_000_000  # as the reference implementation
ALIGNMENT = 8  # of the data in the file
_WHAT = "safetensors header"
_METADATA = "__metadata__"
LOSSY = "lossy"  # in the metadata, "true" where the file only approximates another


class Stored(NamedTuple):
    """A tensor of a safetensors file; `begin` and `end` are offsets in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """The header of a safetensors file: its bytes, metadata, and tensors by ascending offset."""

    raw: bytes
    metadata: dict[str, str]
    tensors: dict[str, Stored]

    @property
    def end(self) -> int:
        """The size of the file that this is the header of."""
        return max((stored.end for stored in self.tensors.values()), default=len(self.raw))


def find(head: Head) -> Contents | None:
    """What a safetensors file holds; None if it is none."""
    wanted = header_size(head.first(LENGTH_SIZE))
    if wanted is None or (head.size is not None and wanted > head.size):
        return None
    if head.first(LENGTH_SIZE + 1)[LENGTH_SIZE:] != b"{":
        return None
    text = head.first(wanted)
    scanned = _scanned(text, head.size) if len(text) == wanted >= header_scan.LEAST else None
    if scanned is not None:
        return scanned
    found = _parse(text) if len(text) == wanted else None
    if found is None:
        return None
    known = [tensor for tensor in found if tensor.plain]
    whole = len(known) == len(found)
    others = [] if whole else [tensor for tensor in found if not tensor.plain]
    lossy = LOSSY.encode() in text and says_lossy(loads(text[LENGTH_SIZE:]).get(_METADATA))
    return plain(known)._replace(others=others, lossy=lossy)


def _scanned(text: bytes, size: int | None) -> Contents | None:
    """What a large header tells, if it is written as usual; of a file of so many bytes."""
    found = header_scan.scan(text, size)
    if found is None:
        return None
    try:
        return contents_of(found.table, loads(found.metadata) if found.metadata else None)
    except FormatError:
        return None


def contents_of(table: TensorTable, metadata: Mapping[str, str] | None) -> Contents:
    """What `find` finds in a file with these tensors."""
    return Contents([], [], lossy=says_lossy(metadata), table=table)


def says_lossy(metadata: object) -> bool:
    """Whether the metadata of a file say that it only approximates another."""
    return isinstance(metadata, Mapping) and metadata.get(LOSSY) == "true"


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
    known: _Sizes = {}
    for name, found in header.items():
        try:
            tensor = _like_one(name, found, len(head), known)
            if tensor is None:
                tensor = _tensor(name, found, len(head))
                if is_known(tensor.dtype):
                    known[tensor.dtype, *tensor.shape] = tensor.shape, tensor.size
            tensors.append(tensor)
            sound += 1
        except DensorError:
            tensors.append(TensorInfo(name, "malformed", (), 0, 0))
    return tensors if sound or not tensors else None


_Sizes = dict[tuple[object, ...], tuple[tuple[int, ...], int]]


def _like_one(name: str, found: Any, start: int, known: _Sizes) -> TensorInfo | None:
    """A tensor of a type and shape that were checked before, as most are where there are many;
    None where all has to be looked at. `known`: by type and shape, the shape and its bytes."""
    try:
        dtype, shape, (begin, end) = found["dtype"], found["shape"], found["data_offsets"]
        like = known.get((dtype, *shape))
        whole = {int}.issuperset(map(type, (begin, end, *shape)))
    except (TypeError, ValueError, KeyError):
        return None
    if like is None or not whole or not 0 <= begin <= end < 1 << 63 or end - begin != like[1]:
        return None
    return TensorInfo(name, dtype, like[0], start + begin, like[1])


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


def parse(raw: bytes) -> Header:
    """The header of a safetensors file, from its length field on; FormatError if malformed.

    Types may be unknown; tensors lie one behind the other without gaps.
    """
    metadata, tensors = _items(raw)
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError("safetensors header has malformed metadata")
    _check_text([*metadata, *metadata.values(), *tensors])
    at = len(raw)
    for name, stored in tensors.items():
        if stored.begin != at:
            raise FormatError(f"{name!r:.200}: tensors of the file overlap or leave a gap")
        at = stored.end
    return Header(raw, metadata, tensors)


def _items(raw: bytes) -> tuple[Any, dict[str, Stored]]:
    """Metadata, unchecked, and tensors by ascending offset; FormatError if malformed."""
    if raw[LENGTH_SIZE : LENGTH_SIZE + 1] != b"{":
        raise FormatError("is no safetensors file")
    found = strictjson.loads(raw[LENGTH_SIZE:], _WHAT)
    metadata = found.pop(_METADATA, {})
    tensors = [(name, _stored(name, item, len(raw))) for name, item in found.items()]
    return metadata, dict(sorted(tensors, key=lambda item: item[1][2:]))


def metadata_of(source: RandomSource, name: str) -> dict[str, Any] | None:
    """The metadata of a safetensors file of this name, None if it has none."""
    length = source.read_at(0, min(LENGTH_SIZE, source.size)).tobytes()
    size = int.from_bytes(length, "little")
    if size > min(source.size - LENGTH_SIZE, MAX_HEADER):
        raise FormatError(f"{name}: is no safetensors file")
    found = loads(source.read_at(LENGTH_SIZE, size).tobytes()).get(_METADATA)
    return found if isinstance(found, dict) else None


def _check_text(texts: list[str]) -> None:
    """FormatError for what JSON can hold but UTF-8 cannot: halves of surrogate pairs."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise FormatError("safetensors header holds a text that is not valid Unicode") from None


def _stored(name: str, item: object, start: int) -> Stored:
    if not isinstance(item, dict) or not isinstance(item.get("dtype"), str):
        raise FormatError(f"{name!r:.200}: malformed tensor in the safetensors header")
    shape = strictjson.shape(item.get("shape"), "shape")
    offsets = item.get("data_offsets")
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise FormatError(f"{name!r:.200}: has no data_offsets")
    begin = strictjson.integer(offsets[0], "data_offsets")
    end = strictjson.integer(offsets[1], "data_offsets", least=begin)
    dtype = item["dtype"]
    if is_known(dtype) and nbytes(dtype, math.prod(shape)) != end - begin:
        raise FormatError(f"{name!r:.200}: size of the tensor does not match its shape")
    return Stored(item["dtype"], shape, start + begin, start + end)


def check_new(names: Iterable[object], metadata: Mapping[str, str] | None) -> None:
    """ArgumentError for what no header may hold, or no index of an archive."""
    given = metadata or {}
    if not isinstance(given, Mapping) or not all(
        type(text) is str for item in given.items() for text in item
    ):
        raise ArgumentError("metadata must be texts by name")
    names = list(names)
    if are_names(names) and _METADATA not in names:
        return
    for name in names:
        if not isinstance(name, str) or name == _METADATA or not is_name(name):
            raise ArgumentError(f"a tensor cannot be named {name!r:.80}")


def new_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...], int]], metadata: Mapping[str, str] | None
) -> bytes:
    """Length field and header for tensors in order: name, dtype, shape and bytes of each."""
    return header_of(table_of(tensors), metadata)


def header_of(table: TensorTable, metadata: Mapping[str, str] | None) -> bytes:
    """Likewise; of tensors that lie one behind the other from 0 on."""
    items = [strictjson.text({_METADATA: dict(metadata)})[1:-1]] if metadata else []
    forms = [
        strictjson.text({"dtype": dtype, "shape": shape, "data_offsets": []})[:-2]
        for dtype, shape, _ in table.forms
    ]
    ends = (table.offsets + table.sizes).tolist()
    names = strictjson.strings(table.names)
    starts = map(forms.__getitem__, table.form_of.tolist())
    rows = zip(names, starts, table.offsets.tolist(), ends, strict=True)
    items += [f"{name}:{start}{begin},{end}]}}" for name, start, begin, end in rows]
    text = strictjson.encoded("{" + ",".join(items) + "}")
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise LimitError("header is larger than safetensors allows")
    return len(text).to_bytes(LENGTH_SIZE, "little") + text
