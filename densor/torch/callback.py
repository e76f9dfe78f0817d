"""Callbacks for the trainer of transformers: checkpoints packed, or saved, in the background."""

import shutil
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

import densor
from densor.errors import ArgumentError, DensorError, FileError
from densor.runtime.arguments import need_whole
from densor.runtime.beside import Beside
from densor.torch.checkpoint import PathLike
from densor.torch.saving import AsyncCheckpoints


class PackCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Packs each folder `checkpoint-N` that the trainer saves into `checkpoint-N.densor`.

    This happens in another thread while training goes on, one checkpoint at a time. The archive
    is decoded and compared with its hashes; only then, and only when a later checkpoint has been
    packed, is a folder removed: the latest stays, so that `resume_from_checkpoint=True` works.
    `densor.extract("checkpoint-N.densor", "checkpoint-N")` restores another one byte for byte.

    The first process packs what it finds in the folder right after saving: with several processes,
    all must have written by then.

    What fails is raised in the training loop, before the next checkpoint is saved or at the end.

    `keep`: how many of the latest folders stay; None: all. `threads`: of which training is
    deprived while packing.
    """

    def __init__(self, level: int = 3, threads: int = 1, *, keep: int | None = 1) -> None:
        self._level = level
        self._threads = threads
        self._keep = keep
        self._beside = Beside("densor-checkpoints")
        self._packed: list[Path] = []

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Starts packing what the trainer has just saved."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        self._beside.submit(self._work, folder, best)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Waits before the next saving, which may remove folders."""
        if control.should_save:
            self.wait()
        else:
            self._beside.raise_failure()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Waits for all that was begun."""
        self.wait()

    def wait(self) -> None:
        """Until all checkpoints are packed; raises what failed."""
        self._beside.wait()

    def _work(self, folder: Path, best: str | None) -> None:
        archive = folder.with_name(folder.name + ".densor")
        try:
            densor.pack([folder], archive, self._level, self._threads, overwrite=True)
            densor.verify_file(archive, self._threads)
        except DensorError as error:
            raise type(error)(f"{folder} could not be packed: {error}") from error
        self._packed.append(folder)
        self._remove_old(best)

    def _remove_old(self, best: str | None) -> None:
        if self._keep is None:
            return
        last = len(self._packed) - self._keep
        old = [folder for folder in self._packed[:last] if str(folder) != best]
        self._packed = [folder for folder in self._packed if folder not in old]
        for folder in old:
            if folder.exists():
                try:
                    shutil.rmtree(folder)
                except OSError as error:
                    raise FileError(f"{folder}: could not be removed: {error}") from error


class BackgroundCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Saves model and optimizer every so many steps, in place of the trainer's own saving.

    The training waits for a copy of both only; see `AsyncCheckpoints`, which has the options. Use
    with `save_strategy="no"`. `load` brings model and optimizer back; schedulers and the order of
    the data are the trainer's own affair.
    """

    def __init__(self, folder: PathLike, every: int, **options: Any) -> None:
        need_whole(every=every)
        if every < 1:
            raise ArgumentError("every must be 1 or more")
        self.checkpoints = AsyncCheckpoints(folder, **options)
        self._every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Copies what is to be saved where that is due."""
        if state.global_step % self._every == 0:
            model, optimizer = get_state_dict(parts["model"], _plain(parts["optimizer"]))
            self.checkpoints.save({"model": model, "optimizer": optimizer}, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Waits for what was begun; raises what failed."""
        self.checkpoints.wait()

    def load(self, model: Any, optimizer: Any, step: int | None = None) -> int:
        """Fills model and optimizer from a checkpoint, the latest by default; its step."""
        own, its = get_state_dict(model, _plain(optimizer))
        found = self.checkpoints.load({"model": own, "optimizer": its}, step)
        set_state_dict(model, _plain(optimizer), model_state_dict=own, optim_state_dict=its)
        return found


def _plain(optimizer: Any) -> Any:
    """The optimizer within that of accelerate."""
    return getattr(optimizer, "optimizer", optimizer)
