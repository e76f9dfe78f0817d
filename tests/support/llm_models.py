"""Small language models as files, and what a float computation says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

WORDS = ["a", "b", "e", "t", "h", "Ġ", "he", "th", "the", "Ġthe", "Ċ", "Ã", "©"]
SPECIAL = "<|end|>"
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "vocab_size": len(WORDS) + 1,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
    "bos_token_id": len(WORDS),
}
MERGES = [["t", "h"], ["th", "e"], ["h", "e"], ["Ġ", "the"]]


def weights(config: dict[str, Any] = CONFIG, seed: int = 1) -> dict[str, Any]:
    """Random float32 tensors that a configuration needs."""
    random = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    own = config["num_attention_heads"] * config["head_dim"]
    shared = config["num_key_value_heads"] * config["head_dim"]

    def normal(*size: int) -> Any:
        return (random.standard_normal(size) * 0.2).astype(np.float16).astype(np.float32)

    found = {
        "model.embed_tokens.weight": normal(config["vocab_size"], hidden),
        "model.norm.weight": 1 + normal(hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        found |= {
            f"{at}input_layernorm.weight": 1 + normal(hidden),
            f"{at}post_attention_layernorm.weight": 1 + normal(hidden),
            f"{at}self_attn.q_proj.weight": normal(own, hidden),
            f"{at}self_attn.k_proj.weight": normal(shared, hidden),
            f"{at}self_attn.v_proj.weight": normal(shared, hidden),
            f"{at}self_attn.o_proj.weight": normal(hidden, own),
            f"{at}mlp.gate_proj.weight": normal(inner, hidden),
            f"{at}mlp.up_proj.weight": normal(inner, hidden),
            f"{at}mlp.down_proj.weight": normal(hidden, inner),
        }
    return found


def tokenizer() -> dict[str, Any]:
    """A byte-level tokenizer.json with a special token."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": len(WORDS),
                "content": SPECIAL,
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "vocab": {word: i for i, word in enumerate([*WORDS, SPECIAL])},
            "merges": MERGES,
        },
    }


def write_folder(
    folder: Path, config: dict[str, Any] = CONFIG, tensors: dict[str, Any] | None = None
) -> Path:
    """A model as HuggingFace has it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(config) if tensors is None else tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    return folder


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    path: Path,
    config: dict[str, Any] = CONFIG,
    dtype: Any = np.float32,
    blocks: str | None = None,
    change: Callable[[str, Any], Any] = lambda name, stored: stored,
) -> None:
    """The same model as llama.cpp has it; `dtype`: of its matrices; `blocks`: type of GGUF, such as
    Q8_0, that they are quantised to, after which `change` may make others of the stored bytes."""
    import gguf

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in (
        ("block_count", config["num_hidden_layers"]),
        ("embedding_length", config["hidden_size"]),
        ("feed_forward_length", config["intermediate_size"]),
        ("context_length", config["max_position_embeddings"]),
        ("attention.head_count", config["num_attention_heads"]),
        ("attention.head_count_kv", config["num_key_value_heads"]),
        ("attention.key_length", config["head_dim"]),
    ):
        writer.add_uint32(f"llama.{key}", value)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*WORDS, SPECIAL])
    writer.add_token_types([1] * len(WORDS) + [3])
    writer.add_token_merges([" ".join(pair) for pair in [["h", "e"], ["t", "h"]]])
    writer.add_bos_token_id(len(WORDS))
    for name, value in weights(config).items():
        for ours, theirs in _GGUF_NAMES.items():
            name = name.replace(ours, theirs)
        name = name.replace("model.layers", "blk")
        for part, count in heads.items():
            if part in name:  # pairs of neighbours turn together there
                half = config["head_dim"] // 2
                value = value.reshape(count, 2, half, -1).swapaxes(1, 2).reshape(value.shape)
        if blocks is not None and value.ndim > 1:
            kind = gguf.GGMLQuantizationType[blocks]
            stored = gguf.quants.quantize(np.ascontiguousarray(value, np.float32), kind)
            writer.add_tensor(name, change(name, stored), raw_dtype=kind)
            continue
        writer.add_tensor(name, np.ascontiguousarray(value, dtype if value.ndim > 1 else None))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def float_probabilities(config: dict[str, Any], get: dict[str, Any], tokens: list[int]) -> Any:
    """float64[len(tokens), vocabulary]: what a plain computation says after each token."""
    size, heads = config["head_dim"], config["num_attention_heads"]
    groups = config["num_key_value_heads"]
    x = get["model.embed_tokens.weight"].astype(np.float64)[tokens]
    angles = np.arange(len(tokens))[:, None] * config["rope_theta"] ** (
        -np.arange(0, size, 2) / size
    )
    cos, sin = np.tile(np.cos(angles), 2)[:, None], np.tile(np.sin(angles), 2)[:, None]
    mask = np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)

    def norm(x: Any, name: str) -> Any:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config["rms_norm_eps"]) * get[name]

    def turned(v: Any) -> Any:
        return v * cos + np.concatenate([-v[..., size // 2 :], v[..., : size // 2]], -1) * sin

    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        h = norm(x, f"{at}input_layernorm.weight")
        q, k, v = (
            (h @ get[f"{at}self_attn.{n}_proj.weight"].T).reshape(len(tokens), -1, size)
            for n in "qkv"
        )
        q, k = turned(q), np.repeat(turned(k), heads // groups, 1)
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(size) + mask
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", p, np.repeat(v, heads // groups, 1))
        x = x + mixed.reshape(len(tokens), -1) @ get[f"{at}self_attn.o_proj.weight"].T
        h = norm(x, f"{at}post_attention_layernorm.weight")
        g = h @ get[f"{at}mlp.gate_proj.weight"].T
        u = h @ get[f"{at}mlp.up_proj.weight"].T
        x = x + (g / (1 + np.exp(-g)) * u) @ get[f"{at}mlp.down_proj.weight"].T
    logits = norm(x, "model.norm.weight") @ get["model.embed_tokens.weight"].T
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)
