"""Golden chunks, good and bad, in `golden/codecs.json`: what pins down decoders branch by branch.

A case has the payloads of a MODEL and a CHUNK, the original length of the chunk, the base or the
circuit if it needs one, and the SHA-256 of what it decodes to, or the error that it ends in.
"""

import base64
import importlib
import io
import json
import zlib
from dataclasses import dataclass

import xxhash
from helpers import CHUNK, END, ENTRY, ENTRY_END, MODEL, Frame, header, put_together
from paths import GOLDEN

PATH = GOLDEN / "codecs.json"
_ZLIB, _LONG = "zlib:", 1 << 12


@dataclass(frozen=True)
class CodecCase:
    """A chunk; `sha256` or `error` says what becomes of it."""

    name: str
    model: bytes
    payload: bytes
    size: int
    base: bytes | None = None
    sha256: str | None = None
    error: str | None = None
    circuit: bytes | None = None  # that an image of codec 16 needs

    def archive(self) -> bytes:
        """An archive of this chunk alone."""
        meta: dict[str, object] = {"name": "x", "kind": "bytes", "size": self.size}
        meta["hash"] = "sha256"
        if self.base is not None:
            digest = [1, xxhash.xxh3_128_hexdigest(self.base)]
            meta["base"] = {"size": len(self.base), "digest": digest}
        end = self.size.to_bytes(8, "little") + b"\2" + bytes.fromhex(self.sha256 or "00" * 32)
        frames = [
            Frame(ENTRY, json.dumps(meta).encode()),
            Frame(MODEL, self.model),
            Frame(CHUNK, self.payload, self.size, 16),
            Frame(ENTRY_END, end),
            Frame(END, bytes(16)),
        ]
        return put_together(frames, header(0 if self.base is None else 2))

    def by_package(self) -> bytes:
        """What the package makes of it; a DensorError if it is refused."""
        densor = importlib.import_module("densor")  # here, for `reference_mutants.py` does without
        model = importlib.import_module("densor.codec.circuit.model")
        circuit = None if self.circuit is None else model.parse(self.circuit)
        out = io.BytesIO()
        archive = io.BytesIO(self.archive())
        densor.decompress_file(archive, out, 1, base=self.base, image_model=circuit)
        return out.getvalue()

    def by_reference(self) -> bytes:
        """What the slow decoder makes of it; Refused if it is."""
        codecs = importlib.import_module("reference.codecs")
        if self.circuit is not None:
            importlib.import_module("reference.circuit").know(self.circuit)
        data: bytes = codecs.parse_model(self.model).decode(self.payload, self.size, self.base)
        return data

    def to_json(self) -> dict[str, object]:
        """Its line in the file."""
        found: dict[str, object] = {"name": self.name, "model": _text(self.model)}
        found |= {"payload": _text(self.payload), "size": self.size}
        if self.base is not None:
            found["base"] = _text(self.base)
        if self.circuit is not None:
            found["circuit"] = _text(self.circuit)
        return found | ({"sha256": self.sha256} if self.error is None else {"error": self.error})


def _text(data: bytes) -> str:
    """In base64; what is long and holds little by zlib before that, behind "zlib:"."""
    packed = zlib.compress(data, 9) if len(data) > _LONG else data
    if 4 * len(packed) < len(data):
        return _ZLIB + base64.b64encode(packed).decode()
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    if text.startswith(_ZLIB):
        return zlib.decompress(base64.b64decode(text.removeprefix(_ZLIB)))
    return base64.b64decode(text)


def read_cases() -> list[CodecCase]:
    """All cases, in the order of the file."""
    if not PATH.exists():
        return []
    found = []
    for item in json.loads(PATH.read_text()):
        for key in ("model", "payload", "base", "circuit"):
            if key in item:
                item[key] = _bytes(item[key])
        found.append(CodecCase(**item))
    return found


def write_cases(cases: list[CodecCase]) -> None:
    """The file anew, a line for each case."""
    lines = ",\n".join(json.dumps(case.to_json()) for case in cases)
    PATH.write_text(f"[\n{lines}\n]\n")
