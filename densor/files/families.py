"""Families among models: which were made from which, what packing them so saves, and doing it.

Models whose tensors have the same names, types and shapes are compared by the bits of samples; what
coding one against another takes is found by coding these samples. Each model is then its own, or is
coded against one that is (facility location, chosen greedily), so that a model needs one other.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.dtypes import SIZES
from densor.errors import ArgumentError
from densor.files.model_folder import CONFIG, Packed, pack_model
from densor.files.packed_model import weight_files
from densor.formats.container.base import GivenBase
from densor.formats.container.tensor_blob import Tensor, encode
from densor.formats.io.outputs import errors_of
from densor.formats.io.sources import MemoryRandomSource
from densor.formats.packed.reader import PackedFile
from densor.options import DEFAULT_WRITE, WriteOptions

Bytes = npt.NDArray[np.uint8]
Key = tuple[str, str, tuple[int, ...]]  # name, type and shape of a tensor
_WINDOW = 1 << 14  # bytes of a sample
_APART, _MOST_WINDOWS = 1 << 22, 4  # one for so many bytes of a tensor, and how many
_UNRELATED = 0.3  # of all bits that differ; weights that have nothing in common: about .4
_LEAST_COMMON = 0.5  # of a model's bytes, in tensors that another one has too
_GAIN = 0.9  # of what a model takes alone; a base must save more
_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


class Model:
    """A folder with weights, and samples of its tensors.

    `size`: bytes of its tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[Key, PackedFile] = {}
        for weights in weight_files(path):
            file = PackedFile(weights)
            if file.packed:
                raise ArgumentError(f"{path}: is packed already")
            for name in file:
                info = file.info(name)
                self._files[name, info.dtype, info.shape] = file
        self.sizes = {key: file.info(key[0]).size for key, file in self._files.items()}
        self.size = sum(self.sizes.values())

    @cached_property
    def samples(self) -> dict[Key, Bytes]:
        """Some windows of each tensor, at places that its size tells."""
        found = {}
        for key, file in self._files.items():
            data = file.stored(key[0])
            windows = min(max(data.size // _APART, 1), _MOST_WINDOWS)
            step = max(data.size - _WINDOW, 0) // windows & ~15
            pieces = [data[k * step : k * step + _WINDOW] for k in range(windows)]
            found[key] = np.concatenate(pieces)
        return found


class Member(NamedTuple):
    """A model of a family; sizes in bytes, those of packed weights are estimates."""

    model: Model
    alone: float
    packed: float


@dataclass(frozen=True)
class Family:
    """Models that are coded against the first of them."""

    members: list[Member]

    @property
    def base(self) -> Model:
        """The model that the others are coded against."""
        return self.members[0].model


def find_models(paths: Iterable[str | os.PathLike[str]]) -> list[Model]:
    """The folders with config.json and weights in and below `paths`, in order of their names."""
    found: dict[Path, Model] = {}
    for path in paths:
        with errors_of(path):
            os.listdir(path)
        for name, folders, files in os.walk(path):
            folders.sort()
            folder = Path(name).resolve()
            if CONFIG in files and folder not in found and weight_files(folder):
                found[folder] = Model(folder)
    return list(found.values())


def find_families(
    models: Sequence[Model],
    options: WriteOptions = DEFAULT_WRITE,
    done: Callable[[], None] = lambda: None,
) -> list[Family]:
    """The families of `models`; one without relatives is a family by itself.

    `done` is called for each model that was compared with the others.
    """
    quick = replace(options, base=None, verify=False, recovery=None, progress=None)
    alone = [_estimate(model, None, quick) for model in models]
    against: list[dict[int, float]] = []
    for i, model in enumerate(models):
        costs = {}
        for j, other in enumerate(models):
            if i != j and _related(model, other):
                cost = _estimate(model, other, quick)
                if cost < _GAIN * alone[i]:
                    costs[j] = cost
        against.append(costs)
        done()
    base_of = _bases(alone, against)
    families = []
    for base in sorted(set(base_of)):
        others = [i for i, chosen in enumerate(base_of) if chosen == base and i != base]
        members = [Member(models[base], alone[base], alone[base])]
        members += [Member(models[i], alone[i], against[i][base]) for i in others]
        families.append(Family(members))
    return families


def pack_families(
    families: Sequence[Family], folder: str | os.PathLike[str], options: WriteOptions
) -> list[tuple[Path, Packed]]:
    """Packs all models into folders below `folder`, bases first; what became of each.

    Raises ArgumentError, before anything is written, where two models have one name.
    """
    names = [member.model.path.name for family in families for member in family.members]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(f"two models are called {name!r:.200}: pack them by themselves")
    with errors_of(folder):
        os.makedirs(folder, exist_ok=True)
    packed = []
    for family in families:
        base = None
        for member in family.members:
            target = Path(folder) / member.model.path.name
            chosen = replace(options, base=base)
            packed.append((target, pack_model(member.model.path, target, options=chosen)))
            base = base or family.base.path
    return packed


def _common(model: Model, other: Model) -> list[Key]:
    return [key for key in model.sizes if key in other.sizes]


def _related(model: Model, other: Model) -> bool:
    """Whether two models share most tensors, and many of their bits."""
    common = _common(model, other)
    if sum(model.sizes[key] for key in common) < _LEAST_COMMON * model.size:
        return False
    different = total = 0.0
    for key in common:
        a, b = model.samples[key], other.samples[key]
        weight = model.sizes[key] / max(a.size, 1)
        different += weight * int(_ONES[a ^ b].sum())
        total += weight * 8 * a.size
    return different < _UNRELATED * total


def _estimate(model: Model, base: Model | None, options: WriteOptions) -> float:
    """Bytes that a model takes, coded by itself or against another one, as its samples tell."""
    common = set(_common(model, base)) if base is not None else set()
    groups: dict[tuple[str, bool], list[Key]] = defaultdict(list)
    for key in model.sizes:
        groups[key[1], key in common].append(key)
    total = 0.0
    for (dtype, shared), keys in groups.items():
        data = np.concatenate([model.samples[key] for key in keys])
        given = None
        if shared and base is not None:
            old = np.concatenate([base.samples[key] for key in keys])
            given = GivenBase(MemoryRandomSource(old), "samples")
        total += sum(model.sizes[key] for key in keys) * _share(dtype, data, given, options)
    return total


def _share(dtype: str, data: Bytes, base: GivenBase | None, options: WriteOptions) -> float:
    if not data.size:
        return 1.0
    size = SIZES.get(dtype, 0)
    if not size or data.size % size:
        dtype, size = "U8", 1
    tensor = Tensor("samples", dtype, (data.size // size,), data.size, None)
    return min(len(encode(tensor, data, options, base)) / data.size, 1.0)


def _bases(alone: Sequence[float], against: Sequence[dict[int, float]]) -> list[int]:
    """For each model the one that it is coded against, itself where it is a base.

    Greedily: the base that saves most comes next, as long as one saves anything.
    """
    chosen = list(range(len(alone)))
    cost = list(alone)
    fixed: set[int] = set()  # bases that others need
    while True:
        best, gain = -1, 0.0
        for base in range(len(alone)):
            if base in fixed:
                continue
            saved = cost[base] - alone[base]  # not above 0: it may be coded against another now
            saved += sum(
                max(0.0, cost[i] - costs[base])
                for i, costs in enumerate(against)
                if base in costs and i not in fixed and i != base
            )
            if saved > gain:
                best, gain = base, saved
        if best < 0:
            return chosen
        fixed.add(best)
        chosen[best], cost[best] = best, alone[best]
        for i, costs in enumerate(against):
            if i not in fixed and costs.get(best, cost[i]) < cost[i]:
                chosen[i], cost[i] = best, costs[best]
