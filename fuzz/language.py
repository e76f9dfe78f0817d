"""Language models as files, which are loaded and asked, and text that was coded under one."""

import json
import struct
import tempfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from llm_models import CONFIG, tokenizer, weights, write_gguf
from reference.language_model import with_ends_of_lines
from safetensors.numpy import save

from densor.codec import registry
from densor.codec.codecs import decoder_for
from densor.codec.language_model import lines
from densor.codec.language_model.encoder import LanguageModelEncoder
from densor.codec.language_model.session import Session
from densor.files.language_models import load
from densor.formats.container.chunk_decoders import decode_chunk
from densor.llm.network import Logits, Network
from densor.runtime.workers import Workers
from fuzz.codecs import Case, decoded_twice, mutate_case, unpack
from fuzz.mutate import mutated
from fuzz.target import Target, Wrong

_MOST_OUT = 400  # bytes that a chunk is decoded to, each of which asks the network
_NAMES = ("config.json", "tokenizer.json", "model.safetensors")
_LENGTHS = struct.Struct("<II")
_FORM = struct.Struct("<BH")
_TEXT = "the bath, the hat\n<|end|> é \0".encode() + b"\xff\xe2\x98"
_TINY = {
    **CONFIG,
    "hidden_size": 32,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


def run_chunk(data: bytes) -> None:
    """Parses a model and decodes a chunk of text under the sample network."""
    case = unpack(data)
    payload = np.frombuffer(case.payload, np.uint8)
    session = Session("sample")
    decoder = decoder_for(case.model, session)
    number = registry.FIRST_MODEL
    decoded_twice(
        lambda out: decode_chunk(number, decoder, payload, out), case.size % _MOST_OUT + 1
    )


@cache
def chunk_seeds() -> list[bytes]:
    """Text, what is none, both, and lines that end in CR and LF."""
    found = []
    ends = b"ab c\r\n" * 66  # as many as it takes to have a form
    for text in (b"def run(data):\n    return " * 9, b"\xff\0" * 99, bytes(range(256)), ends):
        data = np.frombuffer(text[: _MOST_OUT - 1], np.uint8).copy()
        coder = LanguageModelEncoder(data, Session("sample"), Workers(1))
        for _, payload, size in coder.encode().result().chunks:
            found.append(Case(coder.model(), size - 2, b"", payload.tobytes()).pack())
    return found


def run_lines(data: bytes) -> bytes:
    """Ends of lines of a text: a form, the length of the text, the text, then the marks."""
    form, length = _FORM.unpack(data[: _FORM.size].ljust(_FORM.size, b"\0"))
    form, rest = form & (lines.JOINED | lines.RETURNS), data[_FORM.size :][: 4 * _MOST_OUT]
    text, stream = rest[:length], rest[length:]
    marks = np.zeros(len(text), np.uint8)
    stored = np.frombuffer(stream, np.uint8).copy()
    as_array = np.frombuffer(text, np.uint8)
    end = lines._code(False, stored, as_array, marks) if form & lines.JOINED else 0
    found = lines.separated(as_array, marks, form).tobytes()
    if end <= len(stream) and found != with_ends_of_lines(text, form, stream[:end]):
        raise Wrong("ends of lines are not those of the specification")
    return found


@cache
def line_seeds() -> list[bytes]:
    """Wrapped prose, and short lines."""
    found = []
    for text in (b"a codec codes\nwhat the text\nwas before it\n\n" * 9, b"ab\ncd e\n" * 40):
        for form in range(4):
            plain, marks = lines.joined(np.frombuffer(text, np.uint8), form)
            head = _FORM.pack(form, plain.size)
            found.append(head + plain.tobytes() + lines._coded(plain, marks))
    return found


def _check(path: Path) -> object:
    """Loads a model and asks it."""
    model = load(path)
    words = model.vocabulary
    ranks = words.tokens(_TEXT)
    if b"".join(words.pieces[r] if r >= 0 else bytes([-1 - r]) for r in ranks) != _TEXT:
        raise Wrong("tokens do not make up the text")
    zero = np.zeros(1, np.int64)
    rows = Network(model, 1, 32).read(np.array([model.start]), zero, zero, 1)
    counts = Logits(model).counts(rows)[0]
    if counts[0] != 0 or (np.diff(counts) < 1).any():
        raise Wrong("a token that cannot be coded")
    return words.count, model.shape


def run_folder(data: bytes) -> object:
    """A folder of three files, as `Folder.pack` has them."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in zip(_NAMES, _split(data), strict=True):
            (Path(folder) / name).write_bytes(content)
        return _check(Path(folder))


def run_gguf(data: bytes) -> object:
    """A GGUF file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(data)
        return _check(path)


def _joined(parts: list[bytes]) -> bytes:
    return _LENGTHS.pack(len(parts[0]), len(parts[1])) + b"".join(parts)


def _split(data: bytes) -> list[bytes]:
    first, second = _LENGTHS.unpack(data[: _LENGTHS.size].ljust(_LENGTHS.size, b"\0"))
    rest = data[_LENGTHS.size :]
    return [rest[:first], rest[first : first + second], rest[first + second :]]


def mutate_folder(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes one of the files; those of others fit in its place."""
    parts = _split(data)
    which = rng.randrange(len(parts))
    other = _split(rng.choice(others))[which] if others else parts[which]
    parts[which] = other if rng.random() < 0.05 else mutated(parts[which], rng, [other])
    return _joined(parts)


@cache
def folder_seeds() -> list[bytes]:
    """Byte-level tokenisers and one like SentencePiece's, with and without biases."""
    tensors = {name: value.astype(np.float16) for name, value in weights(_TINY).items()}
    plain = tokenizer()
    pieces = json.loads(json.dumps(plain).replace("ByteLevel", "Metaspace"))
    pieces |= {"pre_tokenizer": None, "decoder": None}
    biased = {**tensors, "model.layers.0.self_attn.q_proj.bias": np.ones(32, np.float16)}
    models = [(plain, tensors), (pieces, tensors), (plain, biased)]
    return [
        _joined([json.dumps(_TINY).encode(), json.dumps(words).encode(), save(made)])
        for words, made in models
    ]


@cache
def gguf_seeds() -> list[bytes]:
    """One file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_gguf(path, _TINY, np.float16)
        return [path.read_bytes()]


TARGETS = (
    Target("llm", run_chunk, chunk_seeds, mutate_case, most_memory=1 << 27),
    Target("llm lines", run_lines, line_seeds, most_memory=1 << 27),
    Target("llm folder", run_folder, folder_seeds, mutate_folder, most_memory=1 << 28),
    Target("llm gguf", run_gguf, gguf_seeds, most_memory=1 << 28),
)
