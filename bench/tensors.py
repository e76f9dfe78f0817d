"""Reads and writes safetensors files as plain bytes, with numpy alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from densor.compare.codec import Item

ITEMSIZE = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""Bytes per element, by safetensors dtype name."""


def read_safetensors(path: Path) -> list[Item]:
    """All tensors of a file in the order of their data, each in memory of its own."""
    raw = np.fromfile(path, np.uint8)
    (header_len,) = struct.unpack("<Q", raw[:8].tobytes())
    body = raw[8 + header_len :]
    header = json.loads(raw[8 : 8 + header_len].tobytes())
    entries = [(name, e) for name, e in header.items() if name != "__metadata__"]
    entries.sort(key=lambda entry: entry[1]["data_offsets"])
    tensors = []
    for name, entry in entries:
        start, end = entry["data_offsets"]
        tensors.append(Item(name, entry["dtype"], tuple(entry["shape"]), body[start:end].copy()))
    return tensors


def write_safetensors(path: Path, tensors: Iterable[Item]) -> None:
    """Writes the tensors in the order given; see `safetensors_bytes`."""
    path.write_bytes(safetensors_bytes(tensors))


def safetensors_bytes(tensors: Iterable[Item]) -> bytes:
    """A file of these tensors, in the order given; the header is padded to 8 bytes with spaces."""
    tensors = list(tensors)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for t in tensors:
        offsets = [end, end + t.data.nbytes]
        header[t.name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *(t.data.data for t in tensors)])
