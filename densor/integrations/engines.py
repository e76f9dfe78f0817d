"""What the loaders of serving engines have in common, given what is particular to each.

Importing this loads nothing heavy, as for `densor.integrations.checkpoint`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from densor.entropy.deferred import compiled_apart
from densor.errors import ArgumentError
from densor.files import shards_listed
from densor.integrations import checkpoint
from densor.runtime.gc_pause import collection_paused

_BACKENDS = (checkpoint.CPU, "cuda", "emulate")


class Chosen(NamedTuple):
    """What a user may choose in an engine's `model_loader_extra_config`.

    `threads` that decode, 0 for all processors; `base`: the folder, or name on the Hub, of the
    model that weights were packed against; `backend`: "cpu", or one of `densor.gpu` that decodes.
    """

    threads: int = 0
    base: str | None = None
    backend: str = checkpoint.CPU


def chosen(extra: Any) -> tuple[Chosen, Any]:
    """What concerns Densor in an engine's configuration, and the rest of that.

    ArgumentError for values that are impossible.
    """
    if not isinstance(extra, dict):
        return Chosen(), extra
    given = Chosen(**{key: value for key, value in extra.items() if key in Chosen._fields})
    threads, base, backend = given
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
        raise ArgumentError(f"threads must be a number from 0 on, not {threads!r}")
    if not isinstance(base, str | None):
        raise ArgumentError("base must be a folder or the name of a model")
    if backend not in _BACKENDS:
        raise ArgumentError(f"backend must be one of {', '.join(_BACKENDS)}")
    return given, {key: value for key, value in extra.items() if key not in Chosen._fields}


def archives_of(folder: str) -> list[str]:
    """The archives of weights that a folder holds instead of safetensors files.

    A packed folder, or such a one, that lacks a file of its index ends in a FileError: otherwise an
    engine would find the fault, and name less.
    """
    archives = checkpoint.archives_in(folder)
    if archives or checkpoint.is_packed_folder(folder):
        shards_listed.check_shards(folder, ".densor" if archives else "")
    return [str(path) for path in archives]


def are_packed(folder: str, files: Sequence[str]) -> bool:
    """Whether the files of weights in a folder, safetensors or archives, are for Densor to read."""
    if any(path.endswith(checkpoint.ARCHIVE) for path in files):
        return True
    return checkpoint.is_packed_folder(folder) or any(map(checkpoint.is_packed, files))


def weights(
    folder: str,
    files: Sequence[str],
    given: Chosen,
    skip: Callable[[str], bool] | None = None,
    placing: Any = None,
) -> Iterator[tuple[str, Any]]:
    """Names and tensors of packed weights; `skip` and `placing` as for `checkpoint.weights`.

    FileError if a file is missing.
    """
    archives = any(path.endswith(checkpoint.ARCHIVE) for path in files)
    shards_listed.check_shards(folder, ".densor" if archives else "")
    found = checkpoint.weights(files, **given._asdict(), skip=skip, placing=placing)
    with _fewer_threads(), compiled_apart():  # vLLM trips over llvmlite when it starts once more
        yield from found


def placing(given: Chosen) -> AbstractContextManager[Any]:
    """A context in which packed weights are decoded where they are copied to, if the CPU does it;
    gives what `weights` is to know of that."""
    if given.backend != checkpoint.CPU:
        return contextlib.nullcontext()
    with collection_paused():  # looks at all that the engine has imported
        from densor.torch import placed

    return placed.placing(given.threads)


def at_once(given: Chosen) -> Any:
    """What `weights` is to know where packed weights are decoded, if the CPU does it, whenever they
    are copied, as none of `placing` is around those who copy."""
    if given.backend != checkpoint.CPU:
        return None
    with collection_paused():
        from densor.torch.undecoded import AtOnce

    return AtOnce()


@contextlib.contextmanager
def _fewer_threads() -> Iterator[None]:
    """Copies on a quarter of torch's threads: the others decode, and torch's would spin for them.

    On two processors copying 1 GB took .25 s of processor time more with both.
    """
    import torch

    before = torch.get_num_threads()
    fewer = max(1, before // 4)
    if fewer == before:  # vLLM warns whoever sets it later on
        yield
        return
    torch.set_num_threads(fewer)
    try:
        yield
    finally:
        torch.set_num_threads(before)
