"""Folders of a HuggingFace model: packed so that transformers loads them, and unpacked again."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from densor.errors import ArgumentError, DensorError, FileError, FormatError, LimitError
from densor.files.folder import extract, pack
from densor.files.packed_model import (
    BASE_VARIABLE,
    METHOD,
    Bases,
    check_blobs,
    weight_files,
)
from densor.formats.container import strictjson
from densor.formats.io.outputs import Sizes, copy_times_and_mode, errors_of, sync_below
from densor.formats.io.urls import plain
from densor.formats.packed import header, writer
from densor.formats.packed.base_folder import BaseFolder
from densor.formats.packed.reader import PackedFile
from densor.options import (
    DEFAULT_LEVEL,
    ReadKeywords,
    ReadOptions,
    WriteKeywords,
    WriteOptions,
    read_options,
    write_options,
)

CONFIG = "config.json"
CARD = "README.md"
ORIGINALS = "originals.densor"  # the archive of files that are not what they were
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Packed(NamedTuple):
    """What `pack_model` has done; sizes in bytes of the weight files.

    `method`: the quantization method of the model, which serving engines still apply.
    """

    files: list[str]
    sizes: Sizes
    method: str | None = None


_KEPT_BY_TOOLS = (".git", ".cache")


def pack_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    level: int | None = None,
    threads: int | None = None,
    *,
    options: WriteOptions | None = None,
    **keywords: Unpack[WriteKeywords],
) -> Packed:
    """Writes a packed copy of a model's folder, which appears whole or not at all.

    `source`: a folder with config.json and model*.safetensors. Options are those of
    `densor.compress_file`, but `base`: the folder of a model that this one was made from; tensors
    are coded against those of the same name, type and shape there where that is smaller, and
    whoever loads or unpacks the copy needs that folder too. `text` and `llm` are for config.json
    and the model card. There is no recovery data in such folders. The configuration of a model that
    is quantised stays as it is, since engines take one method at a time. What was written is
    unpacked and compared before the folder appears, unless `verify` is False. Raises a DensorError.
    """
    chosen = write_options(options, level=level, threads=threads, **keywords)
    if chosen.recovery is not None or chosen.dtype is not None:
        raise ArgumentError("a model's folder takes neither recovery data nor another dtype")
    source, target = Path(plain(source)), Path(plain(target))
    weights = weight_files(source)
    if not weights:
        raise FileError(f"{source}: holds no model*.safetensors")
    files = [PackedFile(path) for path in weights]
    config = _config_of(source / CONFIG)
    bases = None if chosen.base is None else _base_folder(chosen)
    with new_folder(target, chosen.overwrite, source) as new:
        copy_others(source, new, {path.name for path in weights} | {CONFIG, CARD})
        _keep_originals(source, new, chosen)
        written = [_pack_weights(file, new / file.path.name, chosen, bases) for file in files]
        sizes = Sizes(sum(file.size for file in files), sum(file.stored_size for file in written))
        name = bases.path.name if bases is not None and _need_base(written) else None
        method = quantization_method(config)
        if method is None:
            _write_config(config, new / CONFIG, files[0], name)
        else:
            shutil.copy2(source / CONFIG, new / CONFIG)
        _write_card(source / CARD, new / CARD, card_section(target.name, name, sizes, method))
    return Packed([file.path.name for file in files], sizes, method)


def _base_folder(options: WriteOptions) -> BaseFolder:
    """The base of a model; LimitError where its files unpack to more than the options allow."""
    base = BaseFolder(options.base, options.threads)
    check_sizes(sorted(base.path.glob("*.safetensors")), options.max_output_size)
    return base


def check_sizes(paths: list[Path], most: int | None) -> None:
    """LimitError where the files, once unpacked, have more than `most` bytes in all."""
    if most is not None and sum(PackedFile(path).size for path in paths) > most:
        raise LimitError(f"files hold more than {most} bytes")


def _need_base(files: list[PackedFile]) -> bool:
    return any(file.describe(name).base is not None for file in files for name in file)


def _pack_weights(
    file: PackedFile, path: Path, options: WriteOptions, bases: BaseFolder | None
) -> PackedFile:
    find = None if bases is None else bases.find
    with errors_of(path), path.open("wb") as out:
        writer.pack_file(file, out, options, find)
    file.check_unchanged()
    copy_times_and_mode(file.path, path)
    written = PackedFile(path)
    need = None if bases is None else bases.need
    if options.verify is False:
        return written
    try:
        with open(os.devnull, "wb") as nowhere:
            written.unpack(nowhere, options.threads, need)
    except DensorError as error:
        raise FileError(f"verification of what was written failed: {error}") from error
    return written


def unpack_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    threads: int | None = None,
    *,
    overwrite: bool = False,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> Sizes:
    """Restores the folder that `pack_model` was given, every file byte for byte.

    Options are those of `densor.decompress_file`, but `base`: the folder that the model was packed
    against; otherwise it is found as `Bases` says. LimitError where the weights, and so the other
    files that were packed, have more than `max_output_size` bytes. The new folder appears whole or
    not at all. Raises a DensorError.
    """
    chosen = read_options(options, threads=threads, **keywords)
    source, target = Path(plain(source)), Path(plain(target))
    originals = source / ORIGINALS
    if not originals.is_file():
        raise FileError(f"{source}: is no packed model, since {ORIGINALS} is missing")
    bases = Bases(source, chosen.base, chosen.threads)
    original = stored = 0
    with new_folder(target, overwrite, source) as new:
        check_sizes(weight_files(source), chosen.max_output_size)
        weights = [check_blobs(PackedFile(path)) for path in weight_files(source)]
        names = {file.path.name for file in weights}
        copy_others(source, new, names | {CONFIG, CARD, ORIGINALS})
        extract(originals, new, options=replace(chosen, base=None, progress=None))
        for file in weights:
            path = new / file.path.name
            with errors_of(path), path.open("wb") as out:
                file.unpack(out, chosen.threads, bases.need, chosen.progress)
            copy_times_and_mode(file.path, path)
            original, stored = original + file.size, stored + file.stored_size
    return Sizes(original, stored)


@contextlib.contextmanager
def new_folder(target: Path, overwrite: bool, source: Path) -> Iterator[Path]:
    """A temporary folder beside `target`, renamed to it at the end; removed on any exception."""
    there = os.path.lexists(target)
    if there and not overwrite:
        raise FileError(f"{target}: already exists; use -f (overwrite=True) to replace it")
    with errors_of(target):
        inner, outer = target.resolve(), source.resolve()
        if inner == outer or outer in inner.parents or inner in outer.parents:
            raise FileError(f"{target}: lies in {source}, or the other way round")
        if there and (target.is_symlink() or not target.is_dir()):
            raise FileError(f"{target}: is no folder")
    new = _temporary_folder(target)
    try:
        with errors_of(target):
            content = new / "new"
            content.mkdir()
            yield content
            if there:  # which is gone for good then
                sync_below(content)
                target.rename(new / "old")
            try:
                content.rename(target)
            except OSError as error:  # of another process, which was faster
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                raise FileError(f"{target}: already exists") from None
    finally:
        _put_back(new / "old", target)
        shutil.rmtree(new, ignore_errors=True)


def _temporary_folder(target: Path) -> Path:
    """A new folder beside `target`."""
    try:
        name = tempfile.mkdtemp(prefix=f".{target.name[:32]}.", suffix=".tmp", dir=target.parent)
    except OSError as error:  # its file name is of no interest
        raise FileError(f"{target}: {error.strerror or error}") from error
    return Path(name)


def _put_back(old: Path, target: Path) -> None:
    """Gives a folder its name again, where an error or an interrupt kept the new one from it."""
    if os.path.lexists(old) and not os.path.lexists(target):
        old.rename(target)


def copy_others(source: Path, target: Path, but: set[str]) -> None:
    """Copies what the folder holds, symbolic links as what they point to.

    What git and the download tools of a hub keep for themselves is left out: it holds the weights
    once more.
    """
    for child in sorted(source.iterdir()):
        if child.name in but or child.name in _KEPT_BY_TOOLS:
            continue
        if child.is_dir():
            _copy_folder(child, target / child.name)
        else:
            _copy_file(child, target / child.name)


def _copy_folder(source: Path, target: Path) -> None:
    """Copies a folder and those below; FileError where a link leads back to one that it is in."""
    waiting: list[tuple[Path, Path, tuple[str, ...]]] = [(source, target, ())]
    made = []
    while waiting:
        folder, copy, above = waiting.pop()
        real = os.path.realpath(folder)
        if real in above:
            raise FileError(f"{folder}: a link to a folder that it lies in")
        copy.mkdir()
        made.append((folder, copy))
        for child in sorted(folder.iterdir()):
            if child.name in _KEPT_BY_TOOLS:
                continue
            if child.is_dir():
                waiting.append((child, copy / child.name, (*above, real)))
            else:
                _copy_file(child, copy / child.name)
    for folder, copy in reversed(made):  # since what is put into one changes its time
        shutil.copystat(folder, copy)


def _copy_file(source: Path, target: Path) -> None:
    if not source.is_file():
        raise FileError(f"{source}: neither a file nor a folder")
    shutil.copy2(source, target)


def _keep_originals(source: Path, target: Path, options: WriteOptions) -> None:
    """Packs what the copy has other contents of, at the default level, which is enough for it."""
    names = [source / name for name in (CONFIG, CARD) if (source / name).is_file()]
    small = replace(options, level=DEFAULT_LEVEL, base=None, gpu_index=False, progress=None)
    pack(names, target / ORIGINALS, options=small)


def _config_of(path: Path) -> dict[str, Any]:
    """config.json of a model that can be packed."""
    with errors_of(path):
        text = path.read_bytes()
    try:
        config: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise FormatError(f"{path}: is not a JSON object")
    if quantization_method(config) == METHOD:
        raise ArgumentError(f"{path}: the model is packed already")
    return config


def quantization_method(config: dict[str, Any]) -> str | None:
    """The quantization method that a model's configuration names; None for a plain model."""
    found = config.get("quantization_config")
    if found is None:
        return None
    return str(found.get("quant_method", "unknown") if isinstance(found, dict) else found)


def _write_config(config: dict[str, Any], path: Path, first: PackedFile, base: str | None) -> None:
    """config.json with a `quantization_config` that makes transformers use densor."""
    about: dict[str, Any] = {"quant_method": METHOD, "version": header.VERSION}
    dtype = _float_type(first)
    if dtype is not None:
        about["dtype"] = dtype
    if base is not None:
        about["base"] = base
    text = json.dumps({**config, "quantization_config": about}, indent=2, ensure_ascii=False)
    path.write_bytes(strictjson.encoded(text + "\n"))


def _float_type(file: PackedFile) -> str | None:
    """The first type of floats in a file: what transformers takes a model's type from."""
    types = (_FLOATS.get(file.info(name).dtype) for name in file)
    return next((dtype for dtype in types if dtype is not None), None)


def _write_card(source: Path, target: Path, section: str) -> None:
    """The card as it is, in whatever encoding, and a section of our own."""
    with errors_of(source):
        text = source.read_bytes() if os.path.lexists(source) else b""
    if text and not text.endswith(b"\n"):
        text += b"\n"
    target.write_bytes(text + section.encode(errors="backslashreplace"))


def card_section(name: str, base: str | None, sizes: Sizes, method: str | None = None) -> str:
    """What a model card says about a packed model; `method`: that it is quantised with."""
    percent = f"{sizes.stored / sizes.original:.1%}" if sizes.original else "100%"
    needs = ""
    if base is not None:
        needs = (
            f"\nThe weights are stored as changes to those of `{base}`. Keep that "
            f"model's folder beside this one, or name it in the environment variable "
            f"`{BASE_VARIABLE}`.\n"
        )
    return f"""
## Packed weights

The weights in this folder are packed without loss by Densor: {percent} of their size.
Parameters come out bit for bit as they were. To load them:

{_loading(name) if method is None else _SERVING.format(name=name, method=method)}{needs}
`densor hf-unpack {name} OUT_DIR` restores the original files byte for byte.
"""


_SERVING = """\
```
pip install densor  # beside vLLM
vllm serve {name}
```

They are quantised with {method}, which vLLM applies as it does to the original. transformers
loads the original only: see below.
"""


def _loading(name: str) -> str:
    """How transformers loads a packed model."""
    return f"""\
```
pip install "densor[hf]"
```

```python
import densor.hf  # before from_pretrained
from transformers import AutoModel

model = AutoModel.from_pretrained("{name}")
```

**Without `import densor.hf` the model does not load**: transformers warns of an unknown
quantization type and then refuses tensors of the wrong shape. Do not pass
`ignore_mismatched_sizes=True`, with which it would go on with random weights.
"""
