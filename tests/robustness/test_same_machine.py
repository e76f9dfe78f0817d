"""Causal models of transformers as models of symbols, on this machine."""

import math
from typing import Any

import numpy as np
import pytest
from paths import DOCS

from densor.entropy.symbols import decode_symbols, encode_symbols
from densor.errors import ArgumentError, FormatError, UnsupportedError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from densor.integrations.transformers import SameMachineModel  # noqa: E402


def tiny(seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=1,
        **more,
    )
    return transformers.LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def model() -> SameMachineModel:
    return SameMachineModel(tiny())


TOKENS = np.random.default_rng(1).integers(0, 50, 40).tolist() * 2


@pytest.mark.parametrize("count", [0, 1, 80])
def test_tokens_come_back(model: SameMachineModel, count: int) -> None:
    """Beyond the window of 64, too."""
    packed = encode_symbols(model, TOKENS[:count])
    assert decode_symbols(model, packed, count) == TOKENS[:count]


def test_the_size_is_what_the_model_says() -> None:
    network = tiny()
    model = SameMachineModel(network)
    with torch.inference_mode():
        logits = network(torch.tensor([[1, *TOKENS[:-1]]])[:, :60]).logits[0].double()
    chosen = torch.log_softmax(logits, -1)[range(60), TOKENS[:60]]
    bits = -float(chosen.sum()) / math.log(2)
    assert bits / 8 <= len(encode_symbols(model, TOKENS[:60])) <= bits / 8 + 10


def test_frequencies(model: SameMachineModel) -> None:
    found = model.distribution(model.start())
    assert found.shape == (50,) and found.dtype == np.int64 and found.min() >= 1
    assert 2**30 - 100 <= found.sum() <= 2**30 + 50


def test_a_window_begins_anew_with_its_latest_half() -> None:
    network = tiny()
    model = SameMachineModel(network, start=3, window=8)
    state = model.start()
    for token in TOKENS[:8]:
        state = model.update(state, token)
    with torch.inference_mode():
        wanted = network(torch.tensor([[3, *TOKENS[4:8]]])).logits[0, -1]
    assert torch.allclose(state.logits, wanted, atol=1e-4)
    assert decode_symbols(model, encode_symbols(model, TOKENS), len(TOKENS)) == TOKENS


def test_another_model_gives_other_tokens(model: SameMachineModel) -> None:
    packed = encode_symbols(model, TOKENS)
    try:
        found = decode_symbols(SameMachineModel(tiny(seed=1)), packed, len(TOKENS))
    except FormatError:
        return
    assert found != TOKENS


def test_the_token_that_texts_begin_with() -> None:
    assert SameMachineModel(tiny()).start().tokens == [1]
    assert SameMachineModel(tiny(), start=7).start().tokens == [7]
    network = tiny(eos_token_id=[4, 5])
    network.config.bos_token_id = None
    assert SameMachineModel(network).start().tokens == [4]


def test_what_cannot_be() -> None:
    for more in ({"start": 50}, {"start": -1}, {"window": 1}, {"window": 0}):
        with pytest.raises(ArgumentError):
            SameMachineModel(tiny(), **more)
    network = tiny()
    network.lm_head.weight.data[3] = torch.nan
    with pytest.raises(UnsupportedError, match="finite"):
        encode_symbols(SameMachineModel(network), TOKENS)


def test_it_says_what_it_is_for() -> None:
    import densor.integrations.transformers as module

    for thing in (module, SameMachineModel):
        assert "same machine only" in (thing.__doc__ or "").lower()
    page = (DOCS / "text.md").read_text()
    assert "same machine only" in page and "SameMachineModel" in page
