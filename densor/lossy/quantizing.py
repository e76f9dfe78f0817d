"""`quantize`: one Lagrange multiplier for all layers, found by bisection."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from densor.api import save
from densor.errors import ArgumentError, DensorError
from densor.files.opened import PathOrFile
from densor.formats.parsers.safetensors import LOSSY
from densor.lossy import models
from densor.lossy.layers import Choice, chosen

DEFAULT_LEVEL = 6
_NEAR = 0.995  # of the size wanted, from which on a size is near enough
_BEGIN, _FACTOR = 0.03, 8.0  # multiplier, and between two until one is on either side
_MIN, _MAX = 1e-15, 1e15  # multipliers that are tried
_SIZE_RATIO, _ACCURACY_RATIO = 1.01, 1.1  # between multipliers, from which on that is enough

Calibrate = Callable[[Any], float]


@dataclass(frozen=True)
class Quantized:
    """What `quantize` made of a model.

    `archive`: the bytes of an ordinary archive of a safetensors file whose metadata have
    `lossy: true`; `tensors`: what it holds, of the types that were given; `layers`: how each layer
    was replaced; `original`: bytes of all tensors that were given, which sizes are shares of;
    `accuracy`: what `calibrate` returned for the result, None without one; `multiplier`: squared
    error that a bit was worth, in units of a weight's mean share of the power of its layer.
    """

    archive: bytes
    tensors: dict[str, Any]
    layers: list[Choice]
    original: int
    accuracy: float | None
    multiplier: float

    @property
    def size(self) -> float:
        """The archive's share of the original bytes."""
        return len(self.archive) / self.original

    def save(self, path: PathOrFile, *, overwrite: bool = False) -> None:
        """Writes the archive; FileError where there is a file and `overwrite` is not given."""
        from densor.files.opened import open_output
        from densor.formats.io.outputs import write_all

        with open_output(path, overwrite, lambda: None, False) as out:
            write_all(out, self.archive)


def quantize(
    model: Any,
    *,
    size: float | None = None,
    accuracy: float | None = None,
    multiplier: float | None = None,
    calibrate: Calibrate | None = None,
    keep: Collection[str] = (),
    level: int = DEFAULT_LEVEL,
    threads: int | None = None,
) -> Quantized:
    """Replaces weights by few values that take few bits: **lossy**, and never done by itself.

    `model`: a torch module or tensors by name (numpy or torch). Exactly one of the goals: `size`,
    the most that the archive may take, as a share of the bytes of all tensors as they are given
    (of a model in FP32: of its FP32 size); `accuracy`, the least that `calibrate` may return; or
    `multiplier`, what a bit is worth (see `Quantized`), which needs no search: about .02 to .3.
    `calibrate` is called with the module, or with tensors by name, that have the old or new
    weights, and returns a number of which more is better (a loss with its sign changed); with
    `size` it is called once before and once for the result. Of a module, the inputs of linear
    layers and convolutions are watched the first time: errors are then those of outputs, and later
    weights make good for earlier ones (`densor.lossy.feedback`; not always better, see
    `docs/lossy.md`). `keep`: names of tensors that stay as they are, as all do that are no floats
    of two or more dimensions or have less than 256 elements.

    Layers get steps or clusters of their own, such that the sum of squared errors, as shares of
    each layer's power, and of real coded bits times one multiplier is least (rate-distortion by
    Lagrange, as for images). The aim is that of Shi et al., "Lossy and Lossless (L2) Post-training
    Model Size Compression", arXiv 2308.04269, which tunes by gradients instead. ArgumentError for
    weights that are infinite or no numbers, a goal that cannot be reached, or where `calibrate`
    fails.
    """
    _check_goals(size, accuracy, multiplier, calibrate)
    search = _Search(model, keep, calibrate, {"level": level, "threads": threads})
    if size is not None:
        multiplier = search.for_size(size)
    elif accuracy is not None:
        multiplier = search.for_accuracy(accuracy)
    assert multiplier is not None
    state, layers = search.at(multiplier)
    reached = None if calibrate is None else search.accuracy(multiplier)
    return Quantized(search.archive(state), state, layers, search.original, reached, multiplier)


def _check_goals(
    size: float | None,
    accuracy: float | None,
    multiplier: float | None,
    calibrate: Calibrate | None,
) -> None:
    goals = [goal for goal in (size, accuracy, multiplier) if goal is not None]
    if len(goals) != 1:
        raise ArgumentError("give one goal: size, accuracy or multiplier")
    if not isinstance(goals[0], Real):
        raise ArgumentError(f"a goal is a number, not {goals[0]!r:.80}")
    if multiplier is not None and not _MIN < multiplier < _MAX:
        raise ArgumentError(f"a multiplier is between {_MIN:g} and {_MAX:g}")
    if accuracy is not None and calibrate is None:
        raise ArgumentError("an accuracy needs a function that measures it: calibrate")
    if size is not None and not 0 < size < 1:
        raise ArgumentError("size is a share of the original between 0 and 1")
    if accuracy is not None and not math.isfinite(accuracy):
        raise ArgumentError("accuracy must be a finite number")


class _Search:
    """What a model becomes at a multiplier."""

    def __init__(
        self,
        model: Any,
        keep: Collection[str],
        calibrate: Calibrate | None,
        options: dict[str, Any],
    ) -> None:
        self._model, self._calibrate, self._options = model, calibrate, options
        self._state = models.state_of(model)
        unknown = sorted(set(keep) - set(self._state))
        if unknown:
            raise ArgumentError(f"there is no tensor {unknown[0]!r} to be kept")
        self.original = models.bytes_of(self._state)
        models.layers_of(self._state, set(keep).__contains__, {})  # refuses before it measures
        with models.watched(model) as inputs:
            self.given = None if calibrate is None else _measured(calibrate, model, self._state)
        self._layers = models.layers_of(self._state, set(keep).__contains__, inputs)
        if not self._layers:
            raise ArgumentError("there are no weights that could be replaced")
        said = {LOSSY: "true", "lossy.original_bytes": str(self.original)}
        self._metadata = models.metadata_of(model, self._state) | said
        self._kept = [layer.as_it_is(self._coded) for layer in self._layers]
        self._known: dict[float, list[Choice]] = {}

    def at(self, multiplier: float) -> tuple[dict[str, Any], list[Choice]]:
        """All tensors, and how layers were replaced."""
        if multiplier not in self._known:
            pairs = zip(self._layers, self._kept, strict=True)
            found = [chosen(layer, multiplier, self._coded, kept) for layer, kept in pairs]
            self._known = {multiplier: found}  # the latest alone, which may be large
        choices = self._known[multiplier]
        pairs = zip(self._layers, choices, strict=True)
        new = {name: choice.tensor for layer, choice in pairs for name in layer.names}
        return self._state | new, choices

    def _coded(self, tensor: Any) -> int:
        return len(save({"weights": tensor}, **self._options))

    def archive(self, state: Mapping[str, Any]) -> bytes:
        """The archive of these tensors, with the mark."""
        return save(state, self._metadata, **self._options)

    def for_size(self, size: float) -> float:
        """The least multiplier, nearly, at which the archive is small enough."""
        most = size * self.original
        if len(self.archive(self._state)) <= most:  # nothing has to be lost for that
            return 2 * _MIN

        def share(multiplier: float) -> float:
            state, layers = self.at(multiplier)
            found = len(self.archive(state))
            if found > most and _is_empty(layers):
                least = found / self.original
                raise ArgumentError(f"without any weights it takes {least:.4f} of its size")
            return found / most

        return _boundary(share, _SIZE_RATIO)[1]

    def for_accuracy(self, accuracy: float) -> float:
        """The greatest multiplier, nearly, at which the model is good enough."""
        assert self.given is not None
        if self.given < accuracy:
            raise ArgumentError(f"the model itself has {self.given:g}, less than {accuracy:g}")
        if not any(layer.power for layer in self._layers):
            return 2 * _MIN

        def good(multiplier: float) -> float:
            empty = _is_empty(self.at(multiplier)[1])
            return 2.0 if self.accuracy(multiplier) >= accuracy and not empty else 0.0

        return _boundary(good, _ACCURACY_RATIO)[0]

    def accuracy(self, multiplier: float) -> float:
        """What `calibrate` says of the model at a multiplier."""
        assert self._calibrate is not None
        return _measured(self._calibrate, self._model, self.at(multiplier)[0])


def _is_empty(layers: list[Choice]) -> bool:
    return all(layer.levels == 1 for layer in layers)


def _boundary(value: Callable[[float], float], ratio: float) -> tuple[float, float]:
    """Multipliers, the first above 1 and the second at most 1, at most `ratio` apart.

    `value` falls, nearly; the search ends early where it is just below 1.
    """
    low = high = _BEGIN
    found = value(_BEGIN)
    factor = _FACTOR if found > 1 else 1 / _FACTOR
    while (found > 1) == (factor > 1):
        low, high = (high, high * factor) if factor > 1 else (low * factor, low)
        if not _MIN < low <= high < _MAX:
            raise ArgumentError("there is no step at which the goal is reached")
        found = value(high if factor > 1 else low)
    while high / low > ratio:
        middle = math.sqrt(low * high)
        found = value(middle)
        low, high = (middle, high) if found > 1 else (low, middle)
        if _NEAR <= found <= 1:
            break
    return low, high


def _measured(calibrate: Calibrate, model: Any, state: Mapping[str, Any]) -> float:
    """What `calibrate` returns; ArgumentError where it raises, or returns no number."""
    with models.replaced(model, state) as given:
        try:
            found = float(calibrate(given))
        except DensorError:
            raise
        except Exception as error:
            raise ArgumentError(f"calibrate failed: {type(error).__name__}: {error}") from error
    if math.isnan(found):
        raise ArgumentError("calibrate returned no number")
    return found
