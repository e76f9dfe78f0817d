"""Weights made smaller with losses, as a step of its own that nothing else in the package takes.

>>> import numpy, densor.lossy
>>> weights = {"w": numpy.random.default_rng(1).normal(size=(200, 100)).astype("f4")}
>>> found = densor.lossy.quantize(weights, size=0.1)
>>> found.size <= 0.1
True
>>> densor.open(found.archive).metadata()["lossy"]
'true'
"""

from densor.lossy.layers import Choice
from densor.lossy.quantizing import Quantized, quantize

__all__ = ["Choice", "Quantized", "quantize"]
