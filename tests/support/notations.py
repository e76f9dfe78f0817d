"""Elements written in other forms than their bytes, without the package."""

import base64
from typing import Any

import numpy.typing as npt

VARINTS, LATIN, BASE64, HEX = range(1, 5)


def varint(value: int) -> bytes:
    """An integer of protobuf, negative ones as those of 64 bits."""
    value &= (1 << 64) - 1
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


def written(array: npt.NDArray[Any], form: int, option: int = 0) -> bytes:
    """An array in a form; floats as varints of their bits, `option` as in the format."""
    if form == VARINTS:
        if array.dtype.kind not in "iub":
            array = array.view(f"u{array.itemsize}")
        return b"".join(map(varint, array.ravel().tolist()))
    data = array.tobytes()
    if form == LATIN:
        return data.decode("latin-1").encode()
    if form == HEX:
        return (data.hex().upper() if option else data.hex()).encode()
    return base64.b64encode(data, b"-_" if option else b"+/")


def field(number: int, data: bytes) -> bytes:
    """A field of protobuf that has a length."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def onnx_tensor(name: str, kind: int, shape: tuple[int, ...], number: int, data: bytes) -> bytes:
    """A TensorProto of ONNX whose elements are in some field."""
    dims = b"".join(b"\x08" + varint(size) for size in shape)
    return dims + b"\x10" + varint(kind) + field(number, data) + field(8, name.encode())


def onnx_model(*tensors: bytes) -> bytes:
    """A ModelProto of ONNX with these initializers."""
    return b"\x08\x08" + field(7, b"".join(field(5, tensor) for tensor in tensors))
