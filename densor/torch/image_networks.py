"""Learns the network of `densor.codec.ardm` from images, in floating point, for whole numbers.

E. Hoogeboom and others, "Autoregressive Diffusion Models" (ICLR 2022). Each step takes some samples
of some images, each as it is seen when its call comes. Unlike the paper's, the order is one for
all images, the interlaced one that they are coded in. In the last part of training weights are
rounded as they are stored, gradients passing through (Bengio and others, arXiv 1308.3432).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from densor.codec.ardm.geometry import Geometry, geometry_of
from densor.codec.ardm.model import MAX_RADIUS, ONE, VALUES, Network, Shape
from densor.codec.circuit.model import Size
from densor.errors import ArgumentError

_SAMPLES = 6272  # of images that a step is made of, of which some are left out
_PLAIN = 0.1  # of samples among equal ones, the share that is learned from
_RATE, _LAST_RATE, _WARM = 4e-3, 4e-5, 50  # of learning, and steps until it is reached
_ROUNDED = 0.6  # of all steps, from which on weights are rounded
_MOST = 127  # of a weight, in its units


@dataclass(frozen=True)
class Settings:
    """At most `calls` of the network for an image; `rounds` over all images.

    `radius` of the window that the network sees; `first`, `second`: values of its hidden layers;
    `places`: binary places of weights.
    """

    calls: int = 50
    rounds: int = 12
    radius: int = 4
    first: int = 64
    second: int = 32
    places: tuple[int, int, int] = (5, 5, 5)
    seed: int = 0

    def shape(self, size: Size) -> Shape:
        """The shape of a network for images of this size; ArgumentError where there is none."""
        if self.calls < 1 or self.rounds < 1 or not 0 <= self.radius <= MAX_RADIUS:
            raise ArgumentError("a network takes one call and one round at least")
        shape = Shape(size, min(self.calls, size.samples), self.radius, self.first, self.second)
        shape.check()
        return shape


DEFAULT = Settings()


def learn(
    images: npt.NDArray[np.uint8],
    size: Size,
    settings: Settings = DEFAULT,
    progress: Callable[[int], object] | None = None,
) -> Network:
    """A network of uint8[count, samples]; `progress`: called with samples that a step is through.

    ArgumentError without images, or for settings that cannot be.
    """
    if not len(images):
        raise ArgumentError("there are no images to learn from")
    shape = settings.shape(size)
    geometry = geometry_of(size, shape.radius, shape.calls)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        net = _Net(shape, settings.places)
        draws = _Draws(torch.from_numpy(np.ascontiguousarray(images)), geometry, size)
        net.begin_with(images)
        _train(net, draws, settings.rounds, progress)
    return net.network()


class _Net(nn.Module):
    """The network in floating point; what it gives are logarithms of base 2."""

    def __init__(self, shape: Shape, places: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape, self.places = shape, places
        self.rounded = False
        self.seen = nn.Linear(shape.inputs, shape.first, bias=False)
        self.at = nn.ParameterList(torch.zeros(count, shape.first) for count in shape.places)
        self.middle = nn.Linear(shape.first, shape.second)
        self.last = nn.Linear(shape.second, VALUES)

    @torch.no_grad()
    def begin_with(self, images: npt.NDArray[np.uint8]) -> None:
        """Starts from how often values come."""
        counts = np.bincount(images.ravel(), minlength=VALUES) + 1.0
        self.last.bias.copy_(torch.from_numpy(np.log2(counts / counts.max())))
        self.last.weight.mul_(0.1)

    def forward(self, inputs: Tensor, places: Tensor) -> Tensor:
        """Logarithms of probabilities, [n, 256], up to a constant of each row."""
        x = functional.linear(inputs, self._units(self.seen.weight, 0))
        for number, weights in enumerate(self.at):
            x = x + self._units(weights, 0)[places[:, number]]
        for layer, weights in enumerate((self.middle, self.last), 1):
            bias = self._units(weights.bias, layer, 1 << 15)
            x = functional.linear(functional.relu(x), self._units(weights.weight, layer), bias)
        return x

    def _units(self, weights: Tensor, layer: int, most: int = _MOST) -> Tensor:
        if not self.rounded:
            return weights
        step = 2.0 ** -self.places[layer]
        whole = (weights / step).round().clamp(-most, most - 1)
        return weights + (whole * step - weights).detach()

    @torch.no_grad()
    def network(self) -> Network:
        """The network in whole numbers."""

        def whole(weights: Tensor, layer: int, most: int = _MOST) -> npt.NDArray[np.float32]:
            units = (weights * 2.0 ** self.places[layer]).round().clamp(-most, most - 1)
            return units.numpy()

        def offsets(part: nn.Linear, layer: int) -> npt.NDArray[np.int16]:
            return whole(part.bias, layer, 1 << 15).astype(np.int16)

        rows, columns, channels, levels = (whole(part, 0).astype(np.int8) for part in self.at)
        return Network(
            *(self.shape, self.places, whole(self.seen.weight, 0).astype(np.int8)),
            *(rows, columns, channels, levels),
            *(whole(self.middle.weight, 1).astype(np.int8), offsets(self.middle, 1)),
            *(whole(self.last.weight, 2).astype(np.int8), offsets(self.last, 2)),
        )


class _Draws:
    """Samples of images as a network sees them."""

    def __init__(self, images: Tensor, geometry: Geometry, size: Size) -> None:
        self.images, self.size = images, size
        self.known = torch.from_numpy(geometry.seen[:, : geometry.window] >= 0)
        seen = np.where(geometry.seen < 0, size.samples, geometry.seen)
        self.seen = torch.from_numpy(seen.astype(np.int64))
        self.places = torch.from_numpy(geometry.places.astype(np.int64))
        self.together = max(1, _SAMPLES // size.samples)  # images of a step
        self.share = min(1.0, _SAMPLES / size.samples)

    def __call__(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs, places and values of some samples, and how many each of them stands for."""
        chosen = self.images[torch.randint(len(self.images), (self.together,))]
        shares = self._shares(chosen)
        image, sample = torch.nonzero(torch.rand(shares.shape) < shares, as_tuple=True)
        padded = functional.pad(chosen, (0, 1)).float()
        values = padded[image[:, None], self.seen[sample]]
        window = self.known.shape[1]
        zeros = (values[:, :window] == 0) & self.known[sample]
        inputs = torch.cat([values / ONE, zeros.float()], 1)
        weights = self.share / (shares[image, sample] * self.together * self.size.samples)
        return inputs, self.places[sample], chosen[image, sample].long(), weights

    def _shares(self, chosen: Tensor) -> Tensor:
        """How likely each sample is taken: few of those among equal ones, of 5 x 5 pixels."""
        size = self.size
        planes = chosen.view(-1, size.height, size.width, size.channels).movedim(3, 1).float()
        most = functional.max_pool2d(planes, 5, 1, 2)
        equal = (most == -functional.max_pool2d(-planes, 5, 1, 2)).movedim(1, 3).flatten(1)
        return torch.where(equal, _PLAIN, 1.0) * self.share


def _train(net: _Net, draws: _Draws, rounds: int, progress: Callable[[int], object] | None) -> None:
    steps = math.ceil(rounds * len(draws.images) / draws.together)
    optimizer = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.99), weight_decay=1e-3)
    for step in range(steps):
        done = step / steps
        net.rounded = done >= _ROUNDED
        falling = 0.5 * (1 + math.cos(math.pi * done))
        rate = (_LAST_RATE + (_RATE - _LAST_RATE) * falling) * min(1, (step + 1) / _WARM)
        for group in optimizer.param_groups:
            group["lr"] = rate
        inputs, places, values, weights = draws()
        logits = net(inputs, places) * math.log(2)
        loss = (functional.cross_entropy(logits, values, reduction="none") * weights).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if progress is not None:
            progress(draws.together * draws.size.samples)
