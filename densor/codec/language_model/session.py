"""The models of a call: where they come from, how far it has come, whether to go on."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from densor.errors import ArgumentError, LimitError, UnsupportedError
from densor.llm.loading import NAMES, load
from densor.runtime.workers import thread_count

if TYPE_CHECKING:  # imported when there is a model
    from densor.codec.circuit.coding import ImageTables
    from densor.codec.language_model.params import Parameters
    from densor.llm.helpers import Team
    from densor.llm.model import Model as Weights
    from densor.llm.network import Network

_MAX_MEMORY = 1 << 33  # bytes that a chunk may take
_MAX_THREADS = 8  # beyond, steps of a network are too short to be shared
_KEPT = 16  # digits of a digest that are shown


log = logging.getLogger("densor")


class Session:
    """The models of one call of the package; safe to use from several threads.

    `given`: a model, or its name or path; None to find what an archive names. `progress` is called
    with numbers of original bytes, as they are coded. `check`: whether a coder decodes what it has
    coded, which counts half. `image_model`: the circuit of images, or its path. `threads`: that
    all networks at work share; 0 for all processors.
    """

    def __init__(
        self,
        given: Any = None,
        progress: Callable[[int], object] | None = None,
        check: bool = False,
        image_model: Any = None,
        threads: int = 1,
    ) -> None:
        self.check = check
        self._threads = min(thread_count(threads), _MAX_THREADS)
        self._working: list[Team] = []
        self._given = given
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()
        self._weights = _loaded(given)
        self._idle: dict[tuple[int, int, int], list[Network]] = {}
        self._stopped = threading.Event()
        self._image_model = image_model
        self._circuit: ImageTables | None = None

    @property
    def name(self) -> str:
        """What the model is called in an archive: a name of the package, never a path."""
        return str(self._given) if self._given in NAMES else ""

    def weights(self, name: str | None = None) -> "Weights":
        """The model that was given, else that of this name; loaded once."""
        with self._lock:
            if self._weights is None:
                log.info("loading the language model ...")
                wanted = name if self._given is None else self._given
                assert wanted is not None
                self._weights = load(wanted)
            return self._weights

    def weights_for(self, model: "Parameters") -> "Weights":
        """The model that a chunk was coded with; a DensorError if it is not at hand."""
        from densor.codec.language_model.params import HASH

        wanted = f"{model.name or 'language model'} ({model.network.hex()[:_KEPT]})"
        if self._given is None and model.name not in NAMES:
            text = f"text was coded with a {wanted}: give its folder with --llm (llm=)"
            raise UnsupportedError(text)
        weights = self.weights(model.name)
        if model.network != weights.digest[:HASH]:
            has = weights.digest.hex()[:_KEPT]
            raise ArgumentError(f"text was coded with {wanted}, and this model is another: {has}")
        if model.vocabulary != weights.vocabulary.digest[:HASH]:
            raise ArgumentError(f"text was coded with {wanted}, whose tokens were others")
        if model.positions > max(weights.positions, 32):
            raise LimitError(f"chunk asks for {model.positions} positions of {weights.positions}")
        return weights

    @contextmanager
    def network(
        self, weights: "Weights", slots: int, positions: int, numerics: int
    ) -> Iterator["Network"]:
        """A network for one thread; memory is kept for the next."""
        from densor.llm.head import head_bytes
        from densor.llm.helpers import Team
        from densor.llm.network import Network, cache_bytes
        from densor.llm.selftest import check

        need = cache_bytes(weights, slots, positions, numerics) + head_bytes(weights)
        if need > _MAX_MEMORY:
            raise LimitError(f"language model would take {need >> 20} MiB for {slots} segments")
        check(numerics)
        with self._lock:
            idle = self._idle.setdefault((slots, positions, numerics), [])
            network = idle.pop() if idle else None
        if network is None:
            log.info("language model: %d MiB for %d texts at a time", need >> 20, slots)
            try:
                network = Network(weights, slots, positions, numerics, Team(self._threads))
            except MemoryError:
                text = f"not enough memory: language model takes {need >> 20} MiB"
                raise LimitError(text) from None
        self._share(network.team, True)
        try:
            yield network
        finally:
            self._share(network.team, False)
        with self._lock:
            idle.append(network)

    def _share(self, team: "Team", begins: bool) -> None:
        """Shares the threads out anew, since a network begins or ends its work."""
        with self._lock:
            (self._working.append if begins else self._working.remove)(team)
            for other in self._working:
                other.limit = max(1, self._threads // len(self._working))

    def circuit(self, digest: bytes) -> "ImageTables":
        """The circuit, or network, of this name; a DensorError if it is not at hand."""
        from densor.codec.circuit.loading import load

        wanted = f"image model {digest.hex()}"
        if self._image_model is None:
            text = f"images were coded under {wanted}: give it with --image-model (image_model=)"
            raise UnsupportedError(text)
        with self._lock:
            if self._circuit is None:
                self._circuit = load(self._image_model)
        has = self._circuit.digest
        if has != digest:
            raise ArgumentError(
                f"images were coded under {wanted}, and this is another: {has.hex()}"
            )
        return self._circuit

    def moved(self, count: int) -> None:
        """So many bytes are done; raises CancelledError where the call has ended."""
        if self._stopped.is_set():
            raise CancelledError
        if self._progress is None:
            return
        with self._lock:
            passes = 1 + self.check
            before = self._done // passes
            self._done += count
            if self._done // passes > before:
                self._progress(self._done // passes - before)

    def stop(self) -> None:
        """Ends what is still at work in other threads."""
        self._stopped.set()


def _loaded(given: Any) -> "Weights | None":
    """A model, unless it is but the name or path of one."""
    if given is None or isinstance(given, str | os.PathLike):
        return None
    from densor.llm.model import Model

    return given if isinstance(given, Model) else None
