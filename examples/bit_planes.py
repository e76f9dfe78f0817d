"""Small images and sound as networks that give every bit, and what such networks take.

    python examples/bit_planes.py [IMAGE] [--side 24] [--steps 1500] [--width 64]

After W. K. Han et al., "Towards Lossless Implicit Neural Representation via Bit Plane
Decomposition" (arXiv 2502.21001): a network of sines learns the bits of a picture, each from its
place and the number of its plane, until all are right; the picture then is the network. Here its
weights are rounded to FP16 and packed, next to the bits that are still wrong (their places), for a
picture of 8 and 16 bits and a piece of sound of 8 and 16 bits. Beside it: what Densor's own codecs
take, and 16 bits cut into two planes of 8. Without IMAGE, something like a photograph is made.
"""

import argparse
import io
import math
import sys
import wave
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import densor


class Sines(nn.Module):
    """A network of sines (SIREN, Sitzmann et al. 2020) from coordinates to the logit of a bit."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        sizes = [(inputs, width), (width, width), (width, width), (width, 1)]
        self.layers = nn.ModuleList(nn.Linear(*size) for size in sizes)
        for i, layer in enumerate(self.layers):
            bound = 1 / inputs if i == 0 else math.sqrt(6 / width) / 30
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in list(self.layers)[:-1]:
            x = torch.sin(30 * layer(x))
        return 30 * self.layers[-1](x)[:, 0]


def bits_of(samples: np.ndarray, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates from -1 to 1, those of the place and of the plane, and the bits there."""
    planes = (samples[..., None] >> np.arange(depth)) & 1
    axes = [np.linspace(-1, 1, size) for size in planes.shape]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, planes.ndim)
    return torch.from_numpy(places).float(), torch.from_numpy(planes.reshape(-1)).float()


def learned(samples: np.ndarray, depth: int, width: int, steps: int) -> tuple[int, int, int]:
    """Bytes of the packed network, bytes of what is still wrong, and how many bits that are."""
    torch.manual_seed(1)
    places, bits = bits_of(samples, depth)
    net = Sines(places.shape[1], width)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(net(places), bits)
        loss.backward()
        optimizer.step()
        schedule.step()
    state = {name: value.half() for name, value in net.state_dict().items()}
    net.load_state_dict({name: value.float() for name, value in state.items()})
    with torch.no_grad():
        wrong = ((net(places) > 0) != (bits > 0)).numpy()
    packed = densor.save({name: value.numpy() for name, value in state.items()}, level=9)
    return len(packed), len(densor.compress(np.packbits(wrong), 9)), int(wrong.sum())


def picture(path: str | None, side: int) -> np.ndarray:
    """A square of 16 bits: the mean of three channels of 8 bits, weighted, has about as many."""
    if path is not None:
        from PIL import Image

        rgb = np.asarray(Image.open(path).convert("RGB")).astype(np.float64)
        top, left = rgb.shape[0] // 2, rgb.shape[1] // 2
        grey = rgb[top : top + side, left : left + side] @ [0.299, 0.587, 0.114]
    else:
        rows, columns = np.mgrid[:side, :side] / side
        grey = 120 + 60 * np.sin(5 * rows + 3 * columns**2) + 40 * (columns > 0.3 + 0.4 * rows)
        grey += np.random.default_rng(1).normal(0, 2, grey.shape)
    return np.clip(grey * 256, 0, 65535).astype(np.uint16)


def sound(count: int) -> np.ndarray:
    """A falling tone with overtones and some noise, 16 bits from 0 on."""
    time = np.arange(count) / 16000
    tone = sum(np.sin(2 * np.pi * k * (220 - 300 * time) * time) / k for k in (1, 2, 3, 5))
    noise = np.random.default_rng(2).normal(0, 0.01, count)
    return np.clip(32768 + 12000 * (tone + noise), 0, 65535).astype(np.uint16)


def by_image_codec(image: np.ndarray) -> int:
    """Bytes under Densor's codec of images."""
    return len(densor.compress(image, 9))


def by_sound_codec(samples: np.ndarray) -> int:
    """Bytes under Densor's codec of sound."""
    wide = samples.dtype == np.uint16
    data = (samples.astype(np.int32) - 32768).astype("<i2") if wide else samples
    file, out = io.BytesIO(), io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setparams((1, samples.itemsize, 16000, 0, "NONE", ""))
        target.writeframes(data.tobytes())
    densor.compress_file(io.BytesIO(file.getvalue()), out, 9)
    return len(out.getvalue())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("image", nargs="?")
    parser.add_argument("--side", type=int, default=24)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--width", type=int, default=64)
    args = parser.parse_args()
    image, tone = picture(args.image, args.side), sound(args.side**2)
    kinds: list[tuple[str, np.ndarray, Callable[[np.ndarray], int]]] = [
        ("image", image, by_image_codec),
        ("sound", tone, by_sound_codec),
    ]
    for name, wide, codec in kinds:
        narrow = (wide >> 8).astype(np.uint8)
        for samples in (narrow, wide):
            depth = 8 * samples.itemsize
            net, rest, wrong = learned(samples.astype(np.int64), depth, args.width, args.steps)
            raw = samples.nbytes
            print(
                f"{name}, {depth:2} bits: raw {raw} bytes; network {net} bytes"
                f" ({net / raw:.1f} times as much), and {wrong} of {8 * raw} bits wrong, {rest}"
                f" bytes; codec {codec(samples)} bytes"
            )
        low = (wide & 255).astype(np.uint8)
        print(f"{name}, two planes of 8 bits by the codec: {codec(narrow)} + {codec(low)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
