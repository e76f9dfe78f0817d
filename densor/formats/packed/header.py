"""Headers of packed safetensors files: what they say of the file that they were made from.

`docs/huggingface-format.md` is the specification.
"""

import base64
from collections.abc import Mapping
from typing import NamedTuple

from densor.codec.zstd import zstd_compress, zstd_decompress
from densor.errors import FormatError, UnsupportedError
from densor.formats.container import strictjson
from densor.formats.parsers.safetensors import MAX_HEADER, Header, Stored, new_header, parse

VERSION = 1  # of this layout, not of the archives in it
KEY = "densor"  # of `__metadata__`
_HEADER_ZSTD = 9


class Original(NamedTuple):
    """The file that a packed one was made from."""

    header: Header
    size: int
    digest: bytes  # XXH3-128; none for a file that is not packed


def check_version(version: int) -> None:
    """UnsupportedError for a version of the layout that this densor does not know."""
    if version > VERSION:
        raise UnsupportedError(
            f"packed in layout version {version}, this densor knows up to {VERSION}; upgrade it"
        )


def parse_original(text: str) -> Original:
    """What stands under `KEY` in the metadata; FormatError if malformed."""
    found = strictjson.loads(text.encode(), f"{KEY} in the metadata")
    check_version(strictjson.integer(found.get("version"), "version", least=1))
    size = strictjson.integer(found.get("size"), "size")
    digest, packed = found.get("xxh3_128"), found.get("header")
    if not isinstance(digest, str) or not isinstance(packed, str):
        raise FormatError(f"{KEY} in the metadata is malformed")
    length = strictjson.integer(found.get("header_size"), "header_size", MAX_HEADER)
    try:
        stored = base64.b64decode(packed, validate=True)
        wanted = bytes.fromhex(digest)
    except ValueError:
        raise FormatError(f"{KEY} in the metadata is malformed") from None
    original = parse(zstd_decompress(stored, length))
    if original.end != size:
        raise FormatError("header of the original does not match its size")
    return Original(original, size, wanted)


def packed_header(
    original: Header, plain: Mapping[str, Stored], blobs: Mapping[str, int], digest: str
) -> bytes:
    """The header of a packed file with these plain tensors, then blobs of so many bytes."""
    packed = zstd_compress(original.raw, _HEADER_ZSTD)
    about = {
        "version": VERSION,
        "size": original.end,
        "xxh3_128": digest,
        "header_size": len(original.raw),
        "header": base64.b64encode(packed).decode(),
    }
    metadata = {**original.metadata, KEY: strictjson.dumps(about).decode()}
    tensors = [
        (name, kept.dtype, kept.shape, kept.end - kept.begin) for name, kept in plain.items()
    ]
    tensors += [(name, "U8", (size,), size) for name, size in blobs.items()]
    return new_header(tensors, metadata)
