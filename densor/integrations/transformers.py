"""Any causal model of transformers as a `SymbolModel`, in floats: for the same machine only.

    model = SameMachineModel(AutoModelForCausalLM.from_pretrained(folder))
    packed = encode_symbols(model, tokens)

What has to be read elsewhere is for `densor.compress(text, llm=folder)`: it computes in integers.
"""

import inspect
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.errors import ArgumentError, UnsupportedError

try:
    import torch
except ImportError as error:
    raise UnsupportedError('needs torch and transformers: pip install "densor[hf]"') from error

_SCALE = 1 << 30  # of the frequencies of all tokens together, about


class _State:
    """What the model has read, with its keys and values, and what it says of the next token."""

    def __init__(self, start: int) -> None:
        self.tokens = [start]
        self.cache: Any = None
        self.logits: Any = None


class SameMachineModel:
    """A `densor.entropy.symbols.SymbolModel` of the tokens of a causal model. Same machine only.

    Sums of floats depend on the processor or GPU, the number of threads and the versions of torch
    and transformers: what is coded here can be decoded by the same model where all of these are
    the same, which cannot be checked. Elsewhere, other tokens come out, or a
    FormatError. Reading goes token by token in both directions, since a whole text read at once
    gives other sums.

    `model`: a causal model of transformers, such as `AutoModelForCausalLM` makes; it is set to
    evaluation. `start`: the token before the first, by default the one that texts begin or end
    with. `window`: tokens that the model sees at most, by default those it was made for; when
    they are used up, it begins anew with the latest half. ArgumentError for what cannot be.
    """

    def __init__(self, model: Any, start: int | None = None, window: int | None = None) -> None:
        config = model.config.get_text_config()
        self.alphabet: int = config.vocab_size
        self._model = model.eval()
        known = inspect.signature(model.forward).parameters
        self._cache = "cache" if "cache" in known else "past_key_values"  # by version
        self._start = _first_of(start, config.bos_token_id, config.eos_token_id, 0)
        made_for = getattr(config, "max_position_embeddings", None) or 2048
        self._window: int = made_for if window is None else window
        if not 0 <= self._start < self.alphabet or self._window < 2:
            raise ArgumentError("start must be a token, and a window has 2 tokens at least")

    def start(self) -> _State:
        """The state before the first token."""
        state = _State(self._start)
        self._read(state, state.tokens)
        return state

    def distribution(self, state: _State) -> npt.NDArray[np.int64]:
        """int64[alphabet]: 2^30 times the probability of each token, rounded down, and 1."""
        logits = state.logits.to("cpu", torch.float64)
        if not torch.isfinite(logits).all():
            raise UnsupportedError("model gives logits that are not finite")
        return (torch.softmax(logits, 0) * _SCALE).to(torch.int64).numpy() + 1

    def update(self, state: _State, symbol: int) -> _State:
        """The same state, after one more token."""
        state.tokens.append(symbol)
        if len(state.tokens) <= self._window:
            self._read(state, [symbol])
        else:
            state.tokens = [self._start, *state.tokens[-(self._window // 2) :]]
            state.cache = None
            self._read(state, state.tokens)
        return state

    def _read(self, state: _State, tokens: list[int]) -> None:
        """Takes in tokens behind those in the cache."""
        given = torch.tensor([tokens], device=self._model.device)
        with torch.inference_mode():
            said = self._model(given, use_cache=True, **{self._cache: state.cache})
        state.cache = said[self._cache]
        state.logits = said.logits[0, -1]


def _first_of(*numbers: Any) -> int:
    """The first that is a number; of a list, its first."""
    for number in numbers:
        one = number[0] if isinstance(number, list) and number else number
        if isinstance(one, int):
            return one
    return 0
