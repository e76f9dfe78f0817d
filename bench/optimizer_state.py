"""Adam's state after a step: what it takes by itself, and as what the step made of the one before.

    python -m bench.optimizer_state DIR STEP [--files]

DIR: what `bench.training_data` wrote. Shares are of m and v in FP32; the gradient is derived from
them, or given in FP32 as it was after clipping. With `--files`, files of torch.save with weights in
FP32 and the state, packed against the one before, instead.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import densor
from bench.tensors import read_safetensors

RATE = 5e-6  # by which the weights were moved


def moments(folder: Path, step: int) -> dict[str, Any]:
    """A state of m and v as an optimizer has it."""
    import torch

    slots: dict[str, Any] = {}
    for which, name in (("m", "exp_avg"), ("v", "exp_avg_sq")):
        for tensor in read_safetensors(folder / f"{which}-{step}.safetensors"):
            value = torch.from_numpy(tensor.data.view(np.float32).reshape(tensor.shape).copy())
            slots.setdefault(tensor.name, {})[name] = value
    return {"state": slots, "param_groups": [{"params": list(slots), "betas": (0.9, 0.999)}]}


def saved(folder: Path, step: int, path: Path) -> None:
    """Writes a file of weights and state as a training script does."""
    import torch

    weights = {
        tensor.name: torch.from_numpy(tensor.data.view(np.float32).reshape(tensor.shape).copy())
        for tensor in read_safetensors(folder / f"w32-{step}.safetensors")
    }
    slots = moments(folder, step)["state"]
    adam = torch.optim.AdamW([torch.nn.Parameter(w) for w in weights.values()], lr=RATE)
    state = adam.state_dict()
    state["state"] = {
        i: {"step": torch.tensor(float(step)), **slots[name]} for i, name in enumerate(weights)
    }
    torch.save({"model": weights, "optimizer": state}, path)


def pack_files(folder: Path, step: int) -> None:
    """Prints a row for each level: size as a share of the file, seconds of the processor."""
    with tempfile.TemporaryDirectory() as name:
        before, after = (Path(name) / f"step{i}.pt" for i in (step - 1, step))
        for path, number in ((before, step - 1), (after, step)):
            saved(folder, number, path)
        packed, out = Path(name) / "packed.densor", Path(name) / "out"
        for level in (3, 6):
            begin = time.process_time()
            sizes = densor.compress_file(
                after, packed, level, base=before, threads=1, overwrite=True
            )
            middle = time.process_time()
            densor.decompress_file(packed, out, base=before, threads=1, overwrite=True)
            end = time.process_time()
            assert out.read_bytes() == after.read_bytes()
            print(
                f"| {level} | {sizes.original} | {sizes.stored / sizes.original:.4f} | "
                f"{middle - begin:.2f} | {end - middle:.2f} |",
                flush=True,
            )


def matrices(state: dict[str, Any]) -> dict[str, Any]:
    """The state of matrices alone, without embeddings."""
    slots = {
        name: slot
        for name, slot in state["state"].items()
        if slot["exp_avg"].ndim == 2 and "embed" not in name
    }
    group = {**state["param_groups"][0], "params": list(slots)}
    return {"state": slots, "param_groups": [group]}


def pack_and_compare(name: str, after: Any, old: Any, given: Any) -> None:
    """Prints a row: share of m and v, MB/s in and out, and in which ways they are coded."""
    import torch

    from densor.torch import pack_state, unpack_state
    from densor.torch.adam.layout import table_of

    size = sum(2 * slot["exp_avg"].nbytes for slot in after["state"].values())
    begin = time.process_time()
    packed = pack_state(after, old, given)
    middle = time.process_time()
    found = unpack_state(packed, old)
    end = time.process_time()
    for key, slot in after["state"].items():
        for which, value in slot.items():
            same = torch.equal(
                found["state"][key][which].view(torch.int32), value.view(torch.int32)
            )
            assert same, key
    ways = [entry["way"] for entry in table_of(packed)["groups"]]
    print(
        f"| {name} | {len(packed) / size:.4f} | {size / (middle - begin) / 1e6:.0f} | "
        f"{size / (end - middle) / 1e6:.0f} | { {way: ways.count(way) for way in ways} } |",
        flush=True,
    )


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("step", type=int)
    parser.add_argument("--files", action="store_true")
    arguments = parser.parse_args()
    if arguments.files:
        pack_files(arguments.folder, arguments.step)
        return
    import safetensors
    import torch

    before, after = (moments(arguments.folder, arguments.step - i) for i in (1, 0))
    path = arguments.folder / f"g-{arguments.step}.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        factor = torch.tensor(float(file.metadata()["factor"]))
        gradients = {name: file.get_tensor(name).float() * factor for name in list(file.keys())}
    clipped = np.concatenate([g.numpy().ravel() for g in gradients.values()])
    for level in (1, 6):
        packed = densor.compress(clipped, level, threads=1)
        print(f"clipped gradients in FP32, level {level}: {len(packed) / clipped.nbytes:.4f}")
    ways = (
        ("by itself", None, None),
        ("derived gradient", before, None),
        ("given gradient", before, gradients),
    )
    for name, old, given in ways:
        pack_and_compare(name, after, old, given)
    for name, old, given in ways[:2]:
        least = None if old is None else matrices(old)
        pack_and_compare(f"{name}, matrices without embeddings", matrices(after), least, given)


if __name__ == "__main__":
    main()
