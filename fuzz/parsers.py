"""Parsers of file formats, as files about to be packed go through them."""

import contextlib
import copy
import io
import json
import pickle
import struct
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import parquet_files
from arrow_files import file as arrow_file
from arrow_files import flights, stream
from flac_files import flac_file, flac_frames
from helpers import msgpack_bytes, safetensors_bytes, weights
from notations import VARINTS, onnx_model, onnx_tensor, written
from record_arrays import records
from tables import RECORDS

from densor.arrays import viewed
from densor.errors import DensorError, LimitError
from densor.formats.container import strictjson
from densor.formats.container.entry import list_tensors, parse_tensors
from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.parsers.contents import Contents, Head
from densor.formats.parsers.plan import FORMATS, plan_file
from densor.formats.parsers.torch_pickle import scan
from densor.formats.tensors import TensorInfo, is_listable
from fuzz.mutate import mutated
from fuzz.target import Target, Wrong

_FIND = dict(FORMATS)


def planned(data: bytes) -> object:
    """Any file gets a plan, which covers it exactly; nothing is ever raised.

    Files are planned as those on disk are, and as those on a pipe.
    """
    try:
        _check_plan(data, None, None)
        return _check_plan(data, MemoryRandomSource(data), len(data))
    except DensorError as error:
        raise Wrong("a file cannot be planned") from error


def _check_plan(data: bytes, random: MemoryRandomSource | None, size: int | None) -> object:
    plan = plan_file(MemorySource(data), size, random=random, name="name")
    at = 0
    for number, segment in enumerate(plan.segments):
        last = number + 1 == len(plan.segments)
        if (segment.size is None) != last or (segment.size or 1) < 1:
            raise Wrong("a plan has a segment of no size, or does not end with an open one")
        at += segment.size or 0
        if segment.kind.unit < 1:
            raise Wrong("a kind of empty elements")
    if size is not None and at > size:
        raise Wrong("a plan is longer than the file")
    for tensor in plan.tensors:
        if not is_listable(tensor) or (size is not None and tensor.offset + tensor.size > size):
            raise Wrong("a tensor lies outside of its file")
    if len({tensor.name for tensor in plan.tensors}) != len(plan.tensors):
        raise Wrong("two tensors of the same name")
    _check_others(plan.tensors, plan.others, len(data))
    if plan.source.take(len(data) + 1).tobytes() != data:
        raise Wrong("looking at a file changed it")
    return plan.format, len(plan.segments), len(plan.tensors)


def _check_others(tensors: list[TensorInfo], others: list[TensorInfo], size: int) -> None:
    """Whatever is listed can be read from an index again, and views can be followed."""
    known = tensors + others
    read = parse_tensors(json.loads(strictjson.dumps(list_tensors(known, size))), size)
    inside = [repr(t) for t in known if t.offset + t.size <= size]
    if len(read) != len(known) or not set(inside) <= set(map(repr, read)):
        raise Wrong("an index does not list what it was given")
    for tensor in others:
        if tensor.view is not None and tensor.size < 1 << 16:
            with contextlib.suppress(LimitError):
                viewed(tensor, np.zeros(tensor.size, np.uint8))


def _parser(name: str) -> Callable[[bytes], object]:
    """The parser alone, which may raise a DensorError; then the plan."""
    find = _FIND[name]

    def run(data: bytes) -> object:
        outcome = planned(data)
        head = Head(MemorySource(data), len(data), MemoryRandomSource(data), "name")
        found: Contents | None = find(head)
        if found is not None and any(stretch.size < 0 for stretch in found.stretches):
            raise Wrong("a stretch of negative size")
        return outcome

    return run


# Seeds: small files of every format, by hand


def safetensors_seeds() -> list[bytes]:
    """Files of several types, with and without metadata."""
    bf16 = weights("bf16", 4, 40).tobytes()
    return [
        safetensors_bytes({"a": ("BF16", (4, 40), bf16), "b": ("F32", (80,), bf16)}, padding=5),
        safetensors_bytes({"x": ("F64", (0, 3), b""), "y": ("BOOL", (), b"\1")}, {"format": "pt"}),
        safetensors_bytes({"big": ("U8", (3000,), bytes(3000)), "u": ("F4", (2,), b"x")}),
        safetensors_bytes({}),
    ]


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_seeds() -> list[bytes]:
    """Values of every type, tensors of plain and quantised types."""
    nested = struct.pack("<IIQIQ", 9, 9, 1, 9, 1) + struct.pack("<IQ", 8, 1) + _text("deep")
    pairs = [
        ("general.alignment", struct.pack("<II", 4, 32)),
        ("u8", struct.pack("<IB", 0, 1)),
        ("f64", struct.pack("<Id", 12, 1.5)),
        ("text", struct.pack("<I", 8) + _text("a text")),
        ("list", struct.pack("<IIQ", 9, 4, 3) + struct.pack("<III", 1, 2, 3)),
        ("texts", struct.pack("<IIQ", 9, 8, 2) + _text("one") + _text("two")),
        ("nested", nested),
    ]
    tensors: list[tuple[str, tuple[int, ...], int, int]] = [
        ("f16", (64, 4), 1, 512),
        ("q8", (64, 8), 8, 544),
        ("q4", (256, 2), 12, 288),
        ("odd", (32,), 99, 32),
    ]
    files = []
    for version in (2, 3):
        head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
        head += b"".join(_text(key) + value for key, value in pairs)
        at = 0
        for name, shape, kind, size in tensors:
            head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at)
            at += size
        files.append(head + bytes(-len(head) % 32) + bytes(range(256)) * (at // 256 + 1))
    return files


def npy_seeds() -> list[bytes]:
    """Arrays of several types, orders and versions."""
    arrays: list[Any] = [
        np.arange(300, dtype="<f4").reshape(20, 15),
        np.asfortranarray(np.arange(300, dtype=">i2").reshape(3, 100)),
        np.zeros((2, 2), [("a", "<i4"), ("b", "S3")]),
        records(40),
        np.array(7 + 1j),
        np.zeros((0, 5)),
    ]
    files = []
    for version in ((1, 0), (2, 0), (3, 0)):
        for array in arrays:
            file = io.BytesIO()
            np.lib.format.write_array(file, array, version)
            files.append(file.getvalue())
    return files


def arrow_seeds() -> list[bytes]:
    """Files and streams of Arrow, of one batch and several."""
    return [stream(*flights(40)), stream(*flights(30, 3)), arrow_file(*flights(20))]


def parquet_seeds() -> list[bytes]:
    """Files of one group of rows and several, in pages of both versions."""
    one, several = parquet_files.flights(70), parquet_files.flights(801)
    return [
        parquet_files.file(one, codec=0, group_rows=70, version=1),
        parquet_files.file(several[::4], codec=1, page_rows=400, group_rows=401, version=2),
    ]


def _zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


def npz_seeds() -> list[bytes]:
    """Stored and deflated members, and one that is no array."""
    first, second, *_ = npy_seeds()
    members = {"a.npy": first, "b.npy": second, "notes.txt": b"text"}
    return [_zipped(members), _zipped(members, zipfile.ZIP_DEFLATED), _zipped({"x.npy": second})]


def pickle_seeds() -> list[bytes]:
    """Pickles as torch.save writes them, and one of a text protocol."""
    import torch

    found = []
    for data in _torch_files(torch):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if name.endswith("data.pkl")]
            found += [archive.read(name) for name in names]
    return [*found, pickle.dumps({"a": [1, 2.5, {"b": None}], "c": (1, 2, 3)}, 0)]


def _torch_files(torch: Any) -> list[bytes]:
    weight = torch.arange(64, dtype=torch.float32).reshape(8, 8)
    things = [
        {"model": {"w": weight, "t": weight.T, "row": weight[2]}, "step": 3, "lr": [0.1, (1, "x")]},
        torch.nn.Linear(3, 2).state_dict(),
        [torch.nn.Parameter(weight.to(torch.bfloat16)), weight.to(torch.float8_e4m3fn)],
    ]
    files = []
    for thing in things:
        file = io.BytesIO()
        torch.save(thing, file)
        files.append(file.getvalue())
    return files


def torch_seeds() -> list[bytes]:
    """Files as torch.save writes them."""
    import torch

    return _torch_files(torch)


def legacy_seeds() -> list[bytes]:
    """Files as torch.save wrote them before it used zip files, views of all kinds in them."""
    import torch

    found = []
    plain = torch.arange(12.0).reshape(3, 4)
    views = {"t": plain.T, "c": torch.complex(plain, plain).conj(), "e": plain[:1, :1].expand(9, 9)}
    for state in ({"w": torch.ones(5).bfloat16(), "s": plain.to_sparse()}, views):
        file = io.BytesIO()
        torch.save(state, file, _use_new_zipfile_serialization=False)
        found.append(file.getvalue())
    return found


def _field(number: int, wire: int, value: bytes | int) -> bytes:
    """A protobuf field."""
    if isinstance(value, int):
        return _varint(number << 3 | wire) + _varint(value)
    return _varint(number << 3 | wire) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def onnx_seeds() -> list[bytes]:
    """Initializers with packed and unpacked dimensions, tensors in attributes and subgraphs."""

    def tensor(name: bytes, dims: bytes, kind: int, data: bytes) -> bytes:
        return dims + _field(2, 0, kind) + _field(8, 2, name) + _field(9, 2, data)

    packed = tensor(b"w", _field(1, 2, b"\x08\x10"), 1, bytes(512))
    plain = tensor(b"b", _field(1, 0, 16) + _field(1, 0, 2), 10, bytes(range(64)))
    constant = _field(5, 2, _field(1, 2, b"value") + _field(5, 2, plain))
    inner = _field(6, 2, _field(5, 2, packed) + _field(1, 2, constant))
    node = _field(1, 2, _field(4, 2, b"If") + _field(5, 2, inner))
    graph = _field(2, 2, b"graph") + _field(5, 2, packed) + node + _field(1, 2, constant)
    model = _field(1, 0, 8) + _field(2, 2, b"maker") + _field(7, 2, graph) + b"\x41" + bytes(8)
    tagged = _field(5, 2, _field(1, 2, b"value_floats") + (b"\x3d" + bytes(4)) * 70)
    packed_floats = _field(1, 0, 4) + _field(2, 0, 1) + _field(4, 2, bytes(16))
    place = _field(1, 2, b"location") + _field(2, 2, b"x.data")
    outside = _field(1, 0, 4) + _field(2, 0, 1) + _field(13, 2, place) + _field(14, 0, 1)
    sparse = _field(15, 2, _field(1, 2, plain) + _field(2, 2, packed))
    other = _field(1, 2, tagged) + _field(5, 2, packed_floats) + _field(5, 2, outside) + sparse
    others = _field(1, 0, 7) + _field(7, 2, other)
    integers = written(np.arange(-900, 900), VARINTS)
    tensors = (onnx_tensor("i", 7, (1800,), 7, integers), onnx_tensor("h", 10, (60,), 5, integers))
    plains = _field(1, 0, 7) + _field(7, 2, _field(5, 2, plain))
    return [model, plains, _field(1, 0, 9), others, onnx_model(*tensors)]


def base64_seeds() -> list[bytes]:
    """A buffer of glTF, and one that is too short."""
    data = np.arange(1200, dtype=np.float32).tobytes()
    buffers = [{"uri": f"data:x;base64,{b64encode(part).decode()}"} for part in (data, data[:900])]
    return [json.dumps({"asset": {"version": "2.0"}, "buffers": buffers}).encode()]


def msgpack_seeds() -> list[bytes]:
    """Arrays of several types in nested maps, beside values of other kinds."""
    array = np.arange(600, dtype=np.float32).reshape(20, 30)
    tree = {"params": {"w": array, "b": array[0].astype("f2")}, "n": 3, "x": {"ids": np.int64(1)}}
    others = b"\x83\xa1a\x93\xc0\xca\0\0\0\0\xc4\x02ab\xa1b\xd4\x02x\xa1c" + msgpack_bytes(array)
    return [msgpack_bytes(tree), others]


def numpy_pickle_seeds() -> list[bytes]:
    """Arrays of several types and orders, of all protocols whose instructions are bytes."""
    array = np.arange(600, dtype=np.float32).reshape(20, 30)
    words = np.arange(9000, dtype=np.uint16)[::2]
    tree = {"w": array, "t": array.T, "o": array.astype(">f4"), "x": {"b": words, "n": (3, "y")}}
    return [pickle.dumps(tree, protocol) for protocol in (1, 2, 3, 4, 5)]


def ctranslate2_seeds() -> list[bytes]:
    """Variables of every type."""

    def text(value: bytes) -> bytes:
        return struct.pack("<H", len(value) + 1) + value + b"\0"

    def variable(name: bytes, shape: tuple[int, ...], kind: int, data: bytes) -> bytes:
        head = struct.pack(f"<B{len(shape)}IBI", len(shape), *shape, kind, len(data))
        return text(name) + head + data

    head = struct.pack("<I", 6) + text(b"TransformerSpec") + struct.pack("<II", 7, 3)
    body = variable(b"w", (8, 16), 0, bytes(512)) + variable(b"i", (300,), 1, bytes(300))
    return [head + body + variable(b"s", (), 5, b"ab") + struct.pack("<I", 0)]


# Mutators that keep what would otherwise hide the parser behind a check


def netpbm_seeds() -> list[bytes]:
    """PGM, PPM and PAM of both sizes of samples."""
    rows = bytes(range(256)) * 8
    pam = b"P7\nWIDTH 16\nHEIGHT 16\nDEPTH 2\nMAXVAL 255\nTUPLTYPE GRAYSCALE_ALPHA\nENDHDR\n"
    heads = (b"P5 16 16 255\n", b"P6\n# x\n10 9\n255\n", b"P5 8 9 65535\n", pam)
    return [head + rows for head in heads]


def csv_seeds() -> list[bytes]:
    """With several separators, quotes and line ends."""
    return [text for text in RECORDS.values() if len(text) > 1 << 10]


def bmp_seeds() -> list[bytes]:
    """Of 8, 24 and 32 bits a pixel, with and without padding, in both directions."""
    return [
        struct.pack("<2sIIIIiiHHI", b"BM", 0, 0, 54, 40, width, height, 1, bits, 0).ljust(54, b"\0")
        + bytes(range(256)) * 8
        for width, height, bits in ((16, 16, 8), (17, -9, 24), (10, 20, 32))
    ]


def tiff_seeds() -> list[bytes]:
    """Of both byte orders, of one strip and of two."""
    files = []
    for order, magic in (("<", b"II*\0"), (">", b"MM\0*")):
        for strips in (1, 2):
            numbers = [(256, 3, 1, 40), (257, 3, 1, 50), (258, 3, 1, 8), (259, 3, 1, 1)]
            at = 8 + 2000 + 2 + 12 * 6
            numbers.append((273, 4, strips, 8 if strips == 1 else at))
            numbers.append((279, 4, strips, 2000 if strips == 1 else at + 8))
            entries = b""
            for tag, kind, count, value in numbers:
                data = struct.pack(order + ("H" if kind == 3 else "I"), value).ljust(4, b"\0")
                entries += struct.pack(order + "HHI", tag, kind, count) + data
            head = magic + struct.pack(order + "I", 2008) + bytes(range(250)) * 8
            behind = struct.pack(order + "4I", 8, 1008, 1000, 1000)
            files.append(head + struct.pack(order + "H", len(numbers)) + entries + behind)
    return files


def idx_seeds() -> list[bytes]:
    """Of two to four dimensions."""
    rows = bytes(range(256)) * 8
    shapes = ((40, 50), (9, 10, 20), (2, 10, 12, 3))
    return [
        b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + rows
        for shape in shapes
    ]


def png_seeds() -> list[bytes]:
    """Of several depths and colours, in one chunk and in several, interlaced."""
    files = []
    for depth, colour, interlaced, piece in (
        (8, 2, 0, 50),
        (1, 0, 0, 9),
        (16, 6, 0, 400),
        (8, 3, 1, 30),
    ):
        stream = zlib.compress(bytes(range(200)) * 3)
        head = struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, interlaced)
        pieces = [stream[at : at + piece] for at in range(0, len(stream), piece)]
        chunks = [(b"IHDR", head), *((b"IDAT", part) for part in pieces), (b"IEND", b"")]
        parts = [
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        ]
        files.append(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return files


def gzip_seeds() -> list[bytes]:
    """With all parts that a header may have."""
    deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
    stream = deflater.compress(bytes(range(200)) * 3) + deflater.flush()
    parts = {
        0: b"",
        2: b"ab",
        4: b"\3\0xyz",
        8: b"name\0",
        16: b"comment\0",
        24: b"name\0comment\0",
    }
    return [
        struct.pack("<2sBBIBB", b"\x1f\x8b", 8, flags, 0, 0, 3) + part + stream + bytes(8)
        for flags, part in parts.items()
    ]


def flac_seeds() -> list[bytes]:
    """Of one channel or two, of several bits."""
    files = []
    for channels, depth in ((1, 8), (2, 16), (2, 24)):
        frames = flac_frames(Random(f"seed {depth}"), channels, depth, 1)
        files.append(flac_file(frames, channels, depth))
    return files


def zip_seeds() -> list[bytes]:
    """Members that are deflated, stored, empty; with a comment."""
    files = []
    for comment in (b"", b"a comment"):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.comment = comment
            archive.writestr("a", bytes(range(256)) * 3)
            archive.writestr("b", b"")
            archive.writestr("c", bytes(range(90)), zipfile.ZIP_STORED)
            archive.writestr("d", bytes(range(255, -1, -1)) * 2)
        files.append(file.getvalue())
    return files


def wav_seeds() -> list[bytes]:
    """PCM, floats and extensible; a size that is not known; RF64."""
    rows = bytes(range(256)) * 8
    files = []
    for kind, channels, size in ((1, 2, 2), (3, 1, 4), (0xFFFE, 2, 3)):
        head = struct.pack("<HHIIHH", kind, channels, 8000, 0, channels * size, 8 * size)
        if kind == 0xFFFE:
            guid = bytes.fromhex("0100000000001000800000aa00389b71")
            head += struct.pack("<HHI", 22, 24, 3) + guid
        body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + b"data"
        files.append(b"RIFF" + bytes(4) + body + struct.pack("<I", len(rows)) + rows)
        files.append(b"RIFF" + bytes(4) + body + b"\xff" * 4 + rows)
        long = b"ds64" + struct.pack("<IQQQI", 28, 0, len(rows), 0, 0)
        files.append(b"RF64" + bytes(4) + b"WAVE" + long + body[4:] + b"\xff" * 4 + rows)
    return files


def aiff_seeds() -> list[bytes]:
    """Of both kinds."""
    rows = bytes(range(256)) * 8
    rate = struct.pack(">HQ", 16383 + 12, 8000 << 51)
    files = []
    for kind, bits, packing in (
        (b"AIFF", 16, b""),
        (b"AIFC", 24, b"NONE\0\0"),
        (b"AIFC", 16, b"sowt\0\0"),
    ):
        common = struct.pack(">HIH", 2, 200, bits) + rate + packing
        body = kind + b"COMM" + struct.pack(">I", len(common)) + common
        body += b"SSND" + struct.pack(">III", len(rows) + 8, 0, 0) + rows
        files.append(b"FORM" + struct.pack(">I", len(body)) + body)
    return files


def au_seeds() -> list[bytes]:
    """Of several encodings, and of a size that is not known."""
    rows = bytes(range(256)) * 8
    return [
        struct.pack(">4s6I", b".snd", 28, size, kind, 8000, channels, 0) + rows
        for kind, channels, size in ((2, 1, 2048), (3, 2, 2048), (6, 1, 0xFFFFFFFF))
    ]


def mutate_header(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes a safetensors file; mostly the length field is made right again."""
    if rng.random() < 0.3 or len(data) < 8:
        return mutated(data, rng, others)
    end = 8 + int.from_bytes(data[:8], "little")
    text = mutated(data[8:end], rng, [other[8:] for other in others])
    if rng.random() < 0.3:
        text = _other_json(data[8:end], rng)
    return struct.pack("<Q", len(text)) + text + data[end:]


_JSON: tuple[Any, ...] = (
    None,
    True,
    0,
    1,
    -1,
    2**31,
    2**62,
    2**63,
    2**64,
    "",
    "F32",
    "BF16",
    [],
    [0],
    [2**40] * 3,
)


def _other_json(text: bytes, rng: Random) -> bytes:
    """A header of which some values are others, and still JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    for _ in range(rng.randrange(1, 4)):
        holder: Any = value
        while isinstance(holder, dict | list) and holder:
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            key = rng.choice(keys)
            if rng.random() < 0.4 or not isinstance(holder[key], dict | list):
                holder[key] = copy.deepcopy(rng.choice(_JSON))
                break
            holder = holder[key]
    return json.dumps(value).encode()


def _repacked_zip(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes a zip file, or the content of a member of it."""
    if rng.random() < 0.6:
        return mutated(data, rng, others)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # whatever the library does with a broken file
        return mutated(data, rng, others)
    if not members:
        return data
    wanted = rng.choice(list(members))
    name = wanted if rng.random() < 0.8 else mutated(wanted.encode(), rng).decode("latin-1")
    changed = {key: value for key, value in members.items() if key != wanted}
    changed[name] = mutated(members[wanted], rng)
    try:
        return _zipped(changed)
    except Exception:  # names that cannot be
        return data


def _json_run(data: bytes) -> None:
    strictjson.loads(data, "text")


def json_seeds() -> list[bytes]:
    """Texts with everything that JSON has."""
    return [
        b'{"a": [1, -2, null, true, false, "\\u00e9\\ud83d\\ude00"], "b": {"c": {}}}',
        b'{"entries": [{"name": "x", "kind": "bytes", "size": 3}], "kinds": [1, 3, 5]}',
        b"{" + b'"k": [' * 50 + b"]" * 50 + b"}",
    ]


def _magic_kept(count: int) -> Callable[[bytes, Random, Any], bytes]:
    """Mutates what follows the first bytes, by which a format is known; mostly."""

    def mutate(data: bytes, rng: Random, others: Any) -> bytes:
        if rng.random() < 0.05:
            return mutated(data, rng, others)
        return data[:count] + mutated(data[count:], rng, [other[count:] for other in others])

    return mutate


def _scan(data: bytes) -> None:
    scan(data)


TARGETS = (
    Target("safetensors", _parser("safetensors"), safetensors_seeds, mutate_header),
    Target("gguf", _parser("gguf"), gguf_seeds, _magic_kept(8)),
    Target("npy", _parser("npy"), npy_seeds, _magic_kept(8)),
    Target("arrow", _parser("arrow"), arrow_seeds, _magic_kept(8)),
    Target("parquet", _parser("parquet"), parquet_seeds, _magic_kept(4)),
    Target("npz", _parser("npz"), npz_seeds, _repacked_zip),
    Target("torch", _parser("torch"), torch_seeds, _repacked_zip),
    Target("torch-legacy", _parser("torch-legacy"), legacy_seeds, _magic_kept(13)),
    Target("pickle", _scan, pickle_seeds, per_byte=1024),
    Target("ctranslate2", _parser("ctranslate2"), ctranslate2_seeds, _magic_kept(6)),
    Target("msgpack", _parser("msgpack"), msgpack_seeds, _magic_kept(1)),
    Target("numpy-pickle", _parser("pickle"), numpy_pickle_seeds, _magic_kept(2), per_byte=1024),
    Target("onnx", _parser("onnx"), onnx_seeds, _magic_kept(2)),
    Target("netpbm", _parser("netpbm"), netpbm_seeds, _magic_kept(2)),
    Target("csv", _parser("csv"), csv_seeds),
    Target("bmp", _parser("bmp"), bmp_seeds, _magic_kept(2)),
    Target("idx", _parser("idx"), idx_seeds, _magic_kept(4)),
    Target("tiff", _parser("tiff"), tiff_seeds, _magic_kept(4)),
    Target("png", _parser("png"), png_seeds, _magic_kept(8)),
    Target("gzip", _parser("gzip"), gzip_seeds, _magic_kept(3)),
    Target("zip", _parser("zip"), zip_seeds, _magic_kept(4)),
    Target("wav", _parser("wav"), wav_seeds, _magic_kept(4)),
    Target("aiff", _parser("aiff"), aiff_seeds, _magic_kept(4)),
    Target("flac", _parser("flac"), flac_seeds, _magic_kept(4)),
    Target("au", _parser("au"), au_seeds, _magic_kept(4)),
    Target("base64", _parser("base64"), base64_seeds, _magic_kept(1)),
    Target("json", _json_run, json_seeds, per_byte=128),
)
