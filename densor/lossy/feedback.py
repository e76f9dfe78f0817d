"""Errors of weights measured at the outputs of a layer, and made good by the weights after them.

E. Frantar et al., "GPTQ" (arXiv 2210.17323), after "Optimal Brain Surgeon": with H the second
moments of the inputs of a layer, weights of one input after the other are replaced, and those of
all later inputs move so that the outputs change least. Here what replaces a weight also counts
bits.
"""

from functools import cached_property

import numpy as np
import numpy.typing as npt

from densor.lossy.scalar import Codebook, Doubles, Floats

_DAMPING = 0.01  # of the mean diagonal, added to it
_BLOCK = 64  # inputs after which the others are corrected


class Inputs:
    """Second moments of the inputs of a layer, float64[k, k], added up over `count` of them."""

    def __init__(self, size: int) -> None:
        self.moments = np.zeros((size, size))
        self.count = 0

    def add(self, rows: npt.NDArray[np.floating[npt.NBitBase]]) -> None:
        """More inputs, [n, k]."""
        wide = rows.astype(np.float64)
        self.moments += wide.T @ wide
        self.count += len(wide)

    @property
    def usable(self) -> bool:
        """Whether there were any, and all of them finite."""
        return bool(self.count and np.isfinite(self.moments).all() and self.moments.any())

    @cached_property
    def _damped(self) -> Doubles:
        size = len(self.moments)
        mean = float(np.trace(self.moments)) / size
        found: Doubles = self.moments + _DAMPING * mean * np.eye(size)
        return found

    @cached_property
    def _root(self) -> Doubles:
        """The upper factor U of the inverse: inverse of H = U^T U."""
        found: Doubles = np.linalg.cholesky(np.linalg.inv(self._damped)).T
        return found

    @cached_property
    def mean(self) -> float:
        """What a squared error of a weight costs, on average, when later ones make good for it."""
        return float((1 / np.diag(self._root) ** 2).mean())

    def power(self, weights: Floats) -> float:
        """The squares of all outputs of weights, [outputs, ...], added up."""
        flat = weights.reshape(len(weights), -1).astype(np.float64)
        return float(((flat @ self._damped) * flat).sum())

    def replaced(self, weights: Floats, book: Codebook) -> Floats:
        """Values of a codebook for weights, [outputs, ...]."""
        left = np.ascontiguousarray(weights.reshape(len(weights), -1).T, np.float64)
        out = np.empty_like(left, np.float32)
        root = self._root
        for begin in range(0, len(left), _BLOCK):
            end = min(begin + _BLOCK, len(left))
            errors = np.empty((end - begin, left.shape[1]))
            for i in range(begin, end):
                out[i] = book.replaced(left[i].astype(np.float32))
                errors[i - begin] = (left[i] - out[i]) / root[i, i]
                left[i + 1 : end] -= np.outer(root[i, i + 1 : end], errors[i - begin])
            left[end:] -= root[begin:end, end:].T @ errors
        return np.ascontiguousarray(out.T).reshape(weights.shape)
