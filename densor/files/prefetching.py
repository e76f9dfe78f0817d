"""Packed models that are decoded before the libraries that will load them are imported."""

import atexit
import os
from collections.abc import Iterable
from pathlib import Path

from densor.errors import FileError
from densor.files.ahead import Ahead
from densor.files.packed_model import Bases
from densor.files.shards_listed import shards_of
from densor.formats.io.urls import plain
from densor.formats.packed.reader import PackedFile
from densor.runtime.locks import Lock


class Prefetch:
    """A packed model of which weights are being decoded, until it is loaded or `close` is called.

    Also a context manager, which closes it.
    """

    def __init__(self, files: Iterable[PackedFile], folder: Path, base: str | None) -> None:
        self._of = {file.place: file.opened_as for file in files}
        self._base = base
        self._process = os.getpid()  # threads do not live on in the child of a fork
        self.ahead = Ahead(files, Bases(folder, base).need, spared=1)  # which imports meanwhile

    def is_of(self, files: Iterable[PackedFile], base: str | None) -> bool:
        """Whether these very files are decoded, unchanged since, with the same base."""
        others = {file.place: file.opened_as for file in files}
        return None not in others.values() and others == self._of and base == self._base

    def close(self) -> None:
        """Stops decoding, and lets go of what nobody has taken. May be called again."""
        with _guard:
            for path in [path for path, started in _started.items() if started is self]:
                del _started[path]
        if os.getpid() == self._process:
            self.ahead.close()

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_started: dict[str, Prefetch] = {}  # and not taken yet, by folder
_guard = Lock()
_beginning = Lock()  # so that two threads do not begin the same


def prefetch(
    folder: str | os.PathLike[str], *, base: str | os.PathLike[str] | None = None
) -> Prefetch:
    """Begins to decode a packed model, in threads, before it is loaded.

    To be called before torch and transformers are imported, which takes seconds on one core: the
    others decode meanwhile. The next time that transformers, with `densor.hf`, loads this folder to
    main memory in this process, it takes what was decoded. Up to 1 GiB of tensors wait for that;
    where it will not happen, call `close` of what is returned.

    `folder`: what `hf-pack` wrote, with model.safetensors or an index of shards. `base`: the folder
    of the model that it was packed against, if that is also given to `densor.hf.from_pretrained`.
    FileError where there are no weights, another DensorError where their headers are damaged;
    faults of the weights themselves are raised by loading.
    """
    path = Path(plain(folder))
    names = weights_of(path)
    if not names:
        raise FileError(f"{path}: has neither model.safetensors nor an index of such files")
    named = None if base is None else str(base)
    files = [file for file in map(PackedFile, names) if file.packed]
    where = os.path.abspath(path)
    with _beginning:
        with _guard:
            found = _started.get(where)
        if found is not None:
            if found.is_of(files, named):
                return found
            found.close()
        made = Prefetch(files, path, named)
        with _guard:
            _started[where] = made
        return made


def weights_of(folder: Path) -> list[Path]:
    """The files that transformers loads from a model's folder unless told otherwise."""
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else [folder / name for name in shards_of(folder)]


def take_prefetched(files: Iterable[PackedFile], base: str | None) -> Ahead | None:
    """What was begun for these files, which the caller is to close; None where nothing was.

    What was begun for other files in the same folders, or for other content, ends.
    """
    opened = [file for file in files if file.packed]
    folders = {os.path.dirname(file.place) for file in opened}
    with _guard:
        found = [_started.pop(folder) for folder in folders if folder in _started]
    taken = None
    for one in found:
        if taken is None and one.is_of(opened, base):
            taken = one.ahead
        else:
            one.close()
    return taken


def _close_all() -> None:
    for started in list(_started.values()):
        started.close()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_started.clear)
