"""Folders of a diffusers pipeline: model_index.json, and a folder for each model and what else."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

from densor.errors import ArgumentError, FileError
from densor.files.model_folder import (
    CONFIG,
    ORIGINALS,
    Packed,
    check_sizes,
    copy_others,
    new_folder,
    pack_model,
    unpack_model,
)
from densor.files.packed_model import weight_files
from densor.formats.io.outputs import Sizes
from densor.formats.io.urls import plain
from densor.options import (
    ReadKeywords,
    ReadOptions,
    WriteKeywords,
    WriteOptions,
    read_options,
    write_options,
)

INDEX = "model_index.json"


def is_pipeline(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one of a pipeline, packed or not."""
    return (Path(folder) / INDEX).is_file() and not (Path(folder) / CONFIG).exists()


def models_of(folder: str | os.PathLike[str]) -> list[Path]:
    """The folders of a pipeline's models, by name."""
    children = sorted(child for child in Path(folder).iterdir() if child.is_dir())
    return [child for child in children if (child / CONFIG).is_file() and weight_files(child)]


def all_weight_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files of weights of a model or of all models of a pipeline."""
    folders = models_of(folder) if is_pipeline(folder) else [Path(folder)]
    return [path for model in folders for path in weight_files(model)]


def pack_pipeline(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    level: int | None = None,
    threads: int | None = None,
    *,
    options: WriteOptions | None = None,
    **keywords: Unpack[WriteKeywords],
) -> Packed:
    """Writes a copy of a pipeline's folder whose models are packed, each as by `pack_model`.

    Options are those, but for `base`, which a pipeline does not take: its models can be packed
    against others one by one. The copy appears whole or not at all. Raises a DensorError.
    """
    chosen = write_options(options, level=level, threads=threads, **keywords)
    if chosen.base is not None:
        raise ArgumentError("a pipeline takes no base; its models do, one by one")
    source, target = Path(plain(source)), Path(plain(target))
    models = models_of(source) if is_pipeline(source) else []
    if not models:
        raise FileError(f"{source}: holds no {INDEX} with models beside it")
    packed: list[tuple[str, Packed]] = []
    with new_folder(target, chosen.overwrite, source) as new:
        copy_others(source, new, {model.name for model in models})
        for model in models:
            packed.append((model.name, pack_model(model, new / model.name, options=chosen)))
    sizes = [done.sizes for _, done in packed]
    return Packed(
        [f"{name}/{file}" for name, done in packed for file in done.files], _sum_of(sizes)
    )


def unpack_pipeline(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    threads: int | None = None,
    *,
    overwrite: bool = False,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> Sizes:
    """Restores the folder that `pack_pipeline` was given, every file byte for byte.

    As `unpack_model` does with a model. LimitError where all models together have more than
    `max_output_size` bytes.
    """
    chosen = read_options(options, threads=threads, **keywords)
    source, target = Path(plain(source)), Path(plain(target))
    models = list(_packed_models(source)) if is_pipeline(source) else []
    if not models:
        raise FileError(f"{source}: holds no {INDEX} with packed models beside it")
    with new_folder(target, overwrite, source) as new:
        check_sizes(
            [path for model in models for path in weight_files(model)], chosen.max_output_size
        )
        copy_others(source, new, {model.name for model in models})
        return _sum_of([unpack_model(model, new / model.name, options=chosen) for model in models])


def _packed_models(folder: Path) -> Iterator[Path]:
    return (model for model in models_of(folder) if (model / ORIGINALS).is_file())


def _sum_of(sizes: list[Sizes]) -> Sizes:
    return Sizes(sum(one.original for one in sizes), sum(one.stored for one in sizes))
