"""A model and its quantisations in one archive: `densor pack --derive`.

    python -m bench.repository MODEL.safetensors [--level 3] [--rounds 3] [--folder DIR]

MODEL, of F32, F16 or BF16, becomes BF16. Beside it go GGUF files as repositories have them, written
by the package `gguf`: their tensors are what llama.cpp's quantisers make of the model, by
`densor/codec/quantise`, which the tests hold against those. Prints what three sets of files take
with `--derive` and without, and the speed at which one quantisation comes out, file to file.
Columns that are no multiple of 256 have no K types: such a tensor takes Q8_0 there.
"""

from __future__ import annotations

import argparse
import filecmp
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np

import densor
from bench.machine import describe
from bench.report import markdown_table
from bench.tensors import read_safetensors, write_safetensors
from densor.codec.quantise.rows import converted, row_bytes
from densor.compare.codec import Item


class Mix(NamedTuple):
    """Types of a file's matrices, about as llama.cpp's presets have them."""

    most: str
    values: str  # of attention
    down: str  # second of the feed-forward network, in half of the layers
    embeddings: str


def plain(form: str) -> Mix:
    """One type for all."""
    return Mix(form, form, form, form)


QUANTISERS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
MIXES = {
    **{form: plain(form) for form in ("BF16", "F16", *QUANTISERS)},
    "Q2_K-mix": Mix("Q2_K", "Q3_K", "Q3_K", "Q6_K"),
    "Q3_K_S": Mix("Q3_K", "Q3_K", "Q3_K", "Q6_K"),
    "Q3_K_M": Mix("Q3_K", "Q5_K", "Q4_K", "Q6_K"),
    "Q3_K_L": Mix("Q3_K", "Q5_K", "Q5_K", "Q6_K"),
    "Q4_K_S": Mix("Q4_K", "Q5_K", "Q5_K", "Q6_K"),
    "Q4_K_M": Mix("Q4_K", "Q6_K", "Q6_K", "Q6_K"),
    "Q5_K_S": Mix("Q5_K", "Q5_K", "Q5_K", "Q6_K"),
    "Q5_K_M": Mix("Q5_K", "Q6_K", "Q6_K", "Q6_K"),
}
SETS = {
    "ten quantisers": QUANTISERS,
    "ten quantisers, F16, BF16": ("BF16", "F16", *QUANTISERS),
    "F16 and 14 presets": (
        *("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S"),
        *("Q4_1", "Q4_0", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K-mix"),
    ),
}


def as_bf16(items: Iterable[Item]) -> list[Item]:
    """Floating-point tensors rounded to BF16."""
    kinds = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
    return [
        Item(t.name, "BF16", t.shape, converted(t.data, kinds[t.dtype], "BF16", t.shape[-1]))
        for t in items
        if t.dtype in kinds and t.data.nbytes and t.shape
    ]


def form_of(mix: Mix, number: int, item: Item) -> str:
    """The type that a matrix has in a file; `number` is its place among those of its name."""
    form = mix.most
    if "embed" in item.name:
        form = mix.embeddings
    elif ".v." in item.name or "v_proj" in item.name or "value" in item.name:
        form = mix.values
    elif item.shape[1] > item.shape[0] and number % 2:
        form = mix.down
    return "Q8_0" if row_bytes(form, item.shape[1]) is None else form


def write_gguf(path: Path, model: Iterable[Item], mix: Mix) -> None:
    """A GGUF file of the model; vectors and what has odd columns are F32."""
    writer = gguf.GGUFWriter(path, "bert")
    for number, item in enumerate(model):
        columns = item.shape[-1]
        matrix = len(item.shape) == 2 and columns % 32 == 0
        form = form_of(mix, number, item) if matrix else "F32"
        data = converted(item.data, "BF16", form, columns)
        rows = data.reshape(*item.shape[:-1], -1)
        kind = getattr(gguf.GGMLQuantizationType, form)
        if form == "F32":
            writer.add_tensor(item.name, rows.view(np.float32))
        else:
            writer.add_tensor(item.name, rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(model: Path, folder: Path, names: Sequence[str]) -> list[Path]:
    """The model in BF16 and its quantisations; those that are there already are kept."""
    folder.mkdir(exist_ok=True)
    items = as_bf16(read_safetensors(model))
    files = [folder / "model.safetensors", *(folder / f"model-{name}.gguf" for name in names)]
    if not files[0].exists():
        write_safetensors(files[0], items)
    for name, path in zip(names, files[1:], strict=True):
        if not path.exists():
            write_gguf(path, items, MIXES[name])
    return files


def restored_speed(archive: Path, files: Iterable[Path], rounds: int) -> list[tuple[str, float]]:
    """For each quantisation, MB/s of its own bytes at which `extract` gives it alone."""
    speeds = []
    with tempfile.TemporaryDirectory(dir=archive.parent) as out:
        for path in files:
            seconds = []
            for number in range(rounds):
                target = Path(out) / f"{path.name}-{number}"
                began = time.perf_counter()
                densor.extract(archive, target, names=[path.name])
                seconds.append(time.perf_counter() - began)
                if not filecmp.cmp(path, next(target.rglob(path.name)), shallow=False):
                    raise SystemExit(f"{path.name} came back as something else")
            speeds.append((path.name, path.stat().st_size / 1e6 / statistics.median(seconds)))
    return speeds


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.repository")
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where files are made and kept")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        kept = args.folder or Path(temporary)
        lines = []
        for title, names in SETS.items():
            files = make(args.model, kept / "files", names)
            size = sum(path.stat().st_size for path in files)
            archive, single = Path(temporary) / "a.densor", Path(temporary) / "b.densor"
            densor.pack(files, archive, derive=True, level=args.level, overwrite=True)
            densor.pack(files, single, level=args.level, overwrite=True)
            packed, alone = archive.stat().st_size, single.stat().st_size
            shares = [f"{packed / size:.4f}", f"{alone / size:.4f}"]
            lines.append([title, f"{size / 1e6:.1f}", f"{packed / 1e6:.1f}", *shares])
        about = {"model": args.model.name, "level": str(args.level), **describe()}
        print("\n".join(f"- {name}: {value}" for name, value in about.items()), end="\n\n")
        header = ["beside the BF16 model", "MB", "MB packed", "share", "without `--derive`"]
        print(markdown_table(header, lines), end="\n\n")
        speeds = restored_speed(archive, files[1:], args.rounds)
        print(markdown_table(["one alone", "MB/s"], [[n, f"{s:.0f}"] for n, s in speeds]))


if __name__ == "__main__":
    main()
