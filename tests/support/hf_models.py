"""Small models of HuggingFace transformers, random weights, for tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch_tools import bits

_TEXT = {
    "vocab_size": 160,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def llama(tied: bool = False, dtype: torch.dtype = torch.bfloat16) -> Any:
    config = transformers.LlamaConfig(**_TEXT, tie_word_embeddings=tied)
    return _made(transformers.LlamaForCausalLM, config, dtype)


def mixtral() -> Any:
    config = transformers.MixtralConfig(**_TEXT, num_local_experts=4, num_experts_per_tok=2)
    return _made(transformers.MixtralForCausalLM, config, torch.bfloat16)


def qwen_moe() -> Any:
    config = transformers.Qwen3MoeConfig(
        **_TEXT, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48, head_dim=12
    )
    return _made(transformers.Qwen3MoeForCausalLM, config, torch.float32)


def bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=160,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    return _made(transformers.BertModel, config, torch.float32)


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
    )
    return _made(transformers.ViTForImageClassification, config, torch.float32)


def whisper() -> Any:
    config = transformers.WhisperConfig(
        vocab_size=160,
        num_mel_bins=80,
        d_model=48,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=32,
        max_target_positions=32,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        decoder_start_token_id=1,
    )
    return _made(transformers.WhisperForConditionalGeneration, config, torch.float16)


def wav2vec2() -> Any:
    config = transformers.Wav2Vec2Config(
        vocab_size=32,
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(32, 32),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    return _made(transformers.Wav2Vec2ForCTC, config, torch.float32)


MODELS: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "llama-tied": lambda: llama(tied=True),
    "mixtral": mixtral,
    "qwen-moe": qwen_moe,
    "bert": bert,
    "vit": vit,
    "whisper": whisper,
    "wav2vec2": wav2vec2,
}


def _made(model_class: Any, config: Any, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    return model_class(config).to(dtype).eval()


def same(one: Any, other: Any) -> None:
    """Asserts that two models, or dictionaries of tensors, are equal bit by bit."""
    first = one if isinstance(one, dict) else one.state_dict()
    second = other if isinstance(other, dict) else other.state_dict()
    assert list(first) == list(second)
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert tensor.shape == second[name].shape, name
        assert bits(tensor) == bits(second[name]), name


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def damaged(path: Path, offset: int) -> None:
    """Flips a bit of a file."""
    data = np.fromfile(path, np.uint8)
    data[offset] ^= 16
    data.tofile(path)
