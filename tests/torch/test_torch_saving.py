"""Checkpoints that are written beside the training."""

import contextlib
import gc
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from densor.errors import ArgumentError, DensorError, FileError

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402
import torch.distributed.checkpoint as dcp  # noqa: E402

from densor.torch import (  # noqa: E402
    AsyncCheckpoints,
    PackedReader,
    PackedWriter,
    saving,
)
from tests.support.interrupts import interrupted  # noqa: E402


def state_at(step: int) -> dict:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(60, 64, generator=generator)
    weight.view(-1)[:: 7 + step] *= 1 + step / 100
    return {
        "model": {"w": weight.bfloat16(), "t": weight.T, "empty": torch.zeros(0, 3)},
        "optimizer": {"m": weight * 0.1, "step": step, "schedule": [step, "cosine"]},
    }


def blank() -> dict:
    def emptied(value):
        if isinstance(value, dict):
            return {key: emptied(item) for key, item in value.items()}
        return torch.zeros_like(value) if isinstance(value, torch.Tensor) else value

    return emptied(state_at(0))


def assert_state(found: dict, step: int) -> None:
    wanted = state_at(step)
    for group in wanted:
        for name, value in wanted[group].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(found[group][name], value), name
            else:
                assert found[group][name] == value, name


def test_saves_and_loads(tmp_path: Path) -> None:
    with AsyncCheckpoints(tmp_path / "c", chain=2, keep=2) as checkpoints:
        for step in range(7):
            state = state_at(step)
            checkpoints.save(state, step)
            for group in state.values():  # what comes after does not count
                for value in group.values():
                    if isinstance(value, torch.Tensor):
                        value.fill_(float("nan"))
        found = blank()
        assert checkpoints.load(found) == 6
        assert_state(found, 6)
        kept = checkpoints.steps()
        assert kept[-2:] == [5, 6] and len(kept) < 5
        for step in kept:
            assert checkpoints.load(found, step) == step
            assert_state(found, step)
    again = AsyncCheckpoints(tmp_path / "c")
    assert again.load(found) == 6
    again.save(state_at(7), 7)
    again.close()
    assert_state(found, 6)


@pytest.mark.parametrize("fresh", [False, True])
def test_going_on_from_an_earlier_step(fresh: bool, tmp_path: Path) -> None:
    """Each was based on the one before: those behind a step that is saved again are no more."""
    checkpoints = AsyncCheckpoints(tmp_path, chain=7)
    for step in range(1, 6):
        checkpoints.save(state_at(step), step)
    checkpoints.wait()
    if fresh:
        checkpoints.close()
        checkpoints = AsyncCheckpoints(tmp_path, chain=7)
    found = blank()
    checkpoints.load(found, 2)
    for step in (3, 4):
        checkpoints.save(state_at(step), step)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2, 3, 4]
    for step in checkpoints.steps():
        checkpoints.load(found, step)
        assert_state(found, step)
    checkpoints.save(state_at(3), 3)  # without loading it before
    checkpoints.close()
    assert checkpoints.steps() == [1, 2, 3]
    checkpoints.load(found, 3)
    assert_state(found, 3)


def assert_whole(checkpoints: AsyncCheckpoints, steps: list[int]) -> None:
    assert checkpoints.steps() == steps
    for step in steps:
        found = blank()
        checkpoints.load(found, step)
        assert_state(found, step)


def test_what_was_just_saved_stays_before_later_ones(tmp_path: Path) -> None:
    with AsyncCheckpoints(tmp_path, chain=0, keep=2) as checkpoints:
        for step in (5, 6):
            checkpoints.save(state_at(step), step)
    with AsyncCheckpoints(tmp_path, keep=2) as checkpoints:
        for step in (2, 3):  # the second is based on the first
            checkpoints.save(state_at(step), step)
        checkpoints.wait()
        assert_whole(checkpoints, [2, 3, 5, 6])


def test_a_checkpoint_behind_a_link_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    with AsyncCheckpoints(tmp_path / "c", chain=0, keep=1) as checkpoints:
        checkpoints.save(state_at(1), 1)
        checkpoints.wait()
        (tmp_path / "c" / "step-1").rename(elsewhere)
        (tmp_path / "c" / "step-1").symlink_to(elsewhere)
        before = sorted(path.name for path in elsewhere.iterdir())
        checkpoints.save(state_at(2), 2)
        checkpoints.wait()
    assert sorted(path.name for path in elsewhere.iterdir()) == before


def test_saving_goes_on_after_saving_again_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise FileError("disk is full")

    with AsyncCheckpoints(tmp_path) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(state_at(step), step)
        checkpoints.wait()
        with monkeypatch.context() as patched:
            patched.setattr(saving.state_dict_saver, "save", fails)
            checkpoints.save(state_at(3), 3)
            with pytest.raises(FileError, match="disk is full"):
                checkpoints.wait()
        checkpoints.save(state_at(6), 6)  # not based on 5, which needed 3
        checkpoints.wait()
        assert_whole(checkpoints, [1, 2, 6])


def test_what_was_given_up_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once another save is whole, by whichever object; nothing else is."""
    (tmp_path / "step-9").mkdir()  # not known to be a checkpoint
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / ".given-up").touch()
    with AsyncCheckpoints(tmp_path) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(state_at(step), step)
        checkpoints.wait()
        with monkeypatch.context() as patched:
            patched.setattr(saving.shutil, "rmtree", lambda path: None)  # as if it broke off
            checkpoints.save(state_at(3), 3)
            checkpoints.wait()
        assert (tmp_path / "step-5" / ".given-up").exists()
    with AsyncCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(6), 6)
        checkpoints.wait()
        assert_whole(checkpoints, [1, 2, 3, 6])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*(f"step-{n}" for n in (1, 2, 3, 6, 9)), "notes"}
    assert not (tmp_path / "step-3" / ".given-up").exists()


@pytest.mark.parametrize("moment", range(3))
def test_giving_up_breaks_off(moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 and 4 are based on 3: at each moment what is left is whole."""
    checkpoints = AsyncCheckpoints(tmp_path)
    for step in range(1, 6):
        checkpoints.save(state_at(step), step)
    checkpoints.wait()
    replace, left = Path.replace, iter(range(moment, -1, -1))

    def dies(path: Path, target: Path) -> Path:
        if path.name == ".metadata" and path.exists() and next(left) == 0:
            raise KeyboardInterrupt("killed")
        return replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dies)
        with contextlib.suppress(KeyboardInterrupt):
            checkpoints.save(state_at(3), 3)
            checkpoints.wait()
    assert_whole(checkpoints, [1, 2, 3, 4, 5][: 5 - moment])
    checkpoints.close()


def test_failures_surface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = AsyncCheckpoints(tmp_path)
    with pytest.raises(FileError):
        checkpoints.load(blank())
    checkpoints.save(state_at(1), 1)
    checkpoints.wait()

    def fails(*_: object, **__: object) -> None:
        raise FileError("disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(saving.state_dict_saver, "save", fails)
        checkpoints.save(state_at(2), 2)
        with pytest.raises(FileError, match="disk is full"):
            checkpoints.save(state_at(3), 3)
    found = blank()
    assert checkpoints.load(found) == 1
    checkpoints.save(state_at(4), 4)
    checkpoints.close()
    assert checkpoints.load(found) == 4
    assert_state(found, 4)
    with pytest.raises(ArgumentError):
        AsyncCheckpoints(tmp_path, chain=-1)


def test_a_full_disk_leaves_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    """A limit on file sizes fails like it, wherever it is met."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "step-5").mkdir()
    (tmp_path / "step-5" / "of others").touch()
    with AsyncCheckpoints(tmp_path, chain=1) as checkpoints:
        checkpoints.save(state_at(1), 1)
        checkpoints.wait()
        for step, limit in enumerate((0, 1, 500, 3000), 2):
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
                checkpoints.save(state_at(step), step)
                with pytest.raises(FileError, match="File too large"):
                    checkpoints.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-5"]
            assert_whole(checkpoints, [1])
        assert (tmp_path / "step-5" / "of others").exists()
        checkpoints.save(state_at(6), 6)
        checkpoints.wait()
        assert_whole(checkpoints, [1, 6])


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with AsyncCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(1), 1)
        checkpoints.wait()
        with monkeypatch.context() as patched:
            patched.setattr(Path, "mkdir", refused)
            checkpoints.save(state_at(2), 2)
            with pytest.raises(FileError, match="Permission denied"):
                checkpoints.wait()
        assert_whole(checkpoints, [1])
        (tmp_path / "step-1" / "__0_0.densor").write_bytes(b"")
        with pytest.raises(DensorError):  # and no CheckpointException
            checkpoints.load(blank())


@pytest.mark.filterwarnings("ignore")
def test_trainer_that_goes_on(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from densor.torch import BackgroundCheckpoints

    class Data(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, i: int) -> dict:
            x = torch.arange(4.0) * i
            return {"x": x, "labels": x.sum()}

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def forward(self, x, labels):
            return {"loss": ((self.layer(x)[:, 0] - labels) ** 2).mean()}

    def train(folder: Path, steps: int, callback) -> Model:
        torch.manual_seed(3)
        arguments = transformers.TrainingArguments(
            str(folder),
            max_steps=steps,
            per_device_train_batch_size=4,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            learning_rate=1e-2,
        )
        model = Model()
        trainer = transformers.Trainer(model, arguments, train_dataset=Data(), callbacks=[callback])
        trainer.train()
        return model

    callback = BackgroundCheckpoints(tmp_path / "c", every=2)
    trained = train(tmp_path / "t", 5, callback)
    assert callback.checkpoints.steps() == [2, 4]
    other = Model()
    optimizer = torch.optim.AdamW(other.parameters())
    assert callback.load(other, optimizer) == 4
    assert optimizer.state[other.layer.weight]["step"] == 4
    found = Model()
    callback.checkpoints.load({"model": found.state_dict()}, 4)
    assert torch.equal(found.layer.weight, other.layer.weight)
    assert not torch.equal(found.layer.weight, trained.layer.weight)


def _save_for_ever(folder: str) -> None:
    with AsyncCheckpoints(folder) as checkpoints:
        first = (checkpoints.steps() or [0])[-1]
        for step in range(first + 1, first + 1000):
            checkpoints.save(state_at(step), step)


def _kill_writers(folder: Path, moments: int) -> None:
    chance = random.Random(moments)
    for _ in range(moments):
        child = multiprocessing.get_context("fork").Process(
            target=_save_for_ever, args=(str(folder),)
        )
        child.start()
        time.sleep(chance.uniform(0.01, 0.3))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        checkpoints = AsyncCheckpoints(folder)
        steps = checkpoints.steps()
        for step in steps[-2:]:
            found = blank()
            checkpoints.load(found, step)
            assert_state(found, step)
    assert steps
    with checkpoints:  # which removes what was left half written
        checkpoints.save(state_at(steps[-1] + 1), steps[-1] + 1)
        checkpoints.wait()
        assert {path.name for path in folder.iterdir()} == {
            f"step-{n}" for n in checkpoints.steps()
        }


def test_killed_while_saving(tmp_path: Path) -> None:
    with AsyncCheckpoints(tmp_path) as checkpoints:  # all is loaded and compiled before the fork
        checkpoints.save(state_at(1), 1)
    _kill_writers(tmp_path, 5)


def test_an_interrupt_while_waiting_tears_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    save = saving.state_dict_saver.save

    def at_the_gate(*given, **named):
        gate.wait(60)
        return save(*given, **named)

    monkeypatch.setattr(saving.state_dict_saver, "save", at_the_gate)
    with AsyncCheckpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state_at(0), 0)
        with interrupted():
            checkpoints.wait()
        with interrupted():  # the memory is still that of step 0
            checkpoints.save(state_at(1), 1)
        gate.set()
        checkpoints.save(state_at(2), 2)
        found = blank()
        for step in (0, 2):
            assert checkpoints.load(found, step) == step
            assert_state(found, step)
        assert checkpoints.steps() == [0, 2]


@pytest.mark.slow
def test_killed_at_a_hundred_moments(tmp_path: Path) -> None:
    with AsyncCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(1), 1)
    _kill_writers(tmp_path, 100)


@pytest.mark.filterwarnings("ignore")
def test_async_save_of_torch(tmp_path: Path) -> None:
    state = {"w": torch.randn(40, 50).bfloat16()}
    import torch.distributed as dist

    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        before = state["w"].clone()
        first = dcp.async_save(state, storage_writer=PackedWriter(tmp_path / "one"))
        first.result()
        state["w"][::3] += 0.01
        after = state["w"].clone()
        second = dcp.async_save(
            state, storage_writer=PackedWriter(tmp_path / "two", base=tmp_path / "one")
        )
        state["w"].zero_()
        second.result()
        for name, wanted in (("one", before), ("two", after)):
            found = {"w": torch.zeros(40, 50).bfloat16()}
            dcp.load(found, storage_reader=PackedReader(tmp_path / name))
            assert torch.equal(found["w"], wanted)
    finally:
        dist.destroy_process_group()


def test_a_tensor_whose_memory_was_freed_is_refused(tmp_path: Path) -> None:
    """Copying one reads where there is no memory, which ends the process."""
    freed = torch.ones(5000)
    freed.untyped_storage().resize_(0)
    with AsyncCheckpoints(tmp_path) as checkpoints:
        with pytest.raises(ArgumentError, match="freed"):
            checkpoints.save({"x": freed}, 1)
        checkpoints.save({"x": torch.ones(5)}, 2)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first, second = AsyncCheckpoints(tmp_path), AsyncCheckpoints(tmp_path)
    first.save(state_at(1), 1)
    first.wait()
    second.save(state_at(2), 2)
    with pytest.raises(FileError, match="another writer"):
        second.wait()
    found = blank()
    assert second.steps() == [1] and second.load(found) == 1  # reading is for all
    assert_state(found, 1)
    first.close()
    second.save(state_at(2), 2)
    second.wait()
    assert second.steps() == [1, 2]
    del second  # a writer that was never closed keeps nobody out once it is gone
    gc.collect()
    with AsyncCheckpoints(tmp_path) as third:
        third.save(state_at(3), 3)
        third.wait()
        assert third.steps() == [1, 2, 3]


def test_who_is_refused_removes_nothing_of_the_other(tmp_path: Path) -> None:
    with AsyncCheckpoints(tmp_path) as first, AsyncCheckpoints(tmp_path) as second:
        first.save(state_at(1), 1)
        first.wait()
        half = tmp_path / "step-2"  # as the first one has it while it writes
        saving._mark(half)
        (half / "part").write_bytes(b"of a tensor")
        second.save(state_at(3), 3)
        with pytest.raises(FileError, match="another writer"):
            second.wait()
        assert (half / "part").exists()


def test_children_do_not_keep_the_folder(tmp_path: Path) -> None:
    """Such as workers of a DataLoader, which live on when the writer is closed or killed."""
    first = AsyncCheckpoints(tmp_path)
    first.save(state_at(1), 1)
    first.wait()
    child = os.fork()
    if not child:
        try:
            signal.pause()
        finally:
            os._exit(0)
    try:
        first.close()
        with AsyncCheckpoints(tmp_path) as second:
            second.save(state_at(2), 2)
            second.wait()
            assert second.steps() == [1, 2]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _one_rank_lacks_memory(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    group = dist.new_group(backend="gloo")
    with AsyncCheckpoints(f"{folder}/c", process_group=group) as checkpoints:
        checkpoints.save(state_at(1), 1)
        checkpoints.wait()
        copy = checkpoints._stage.copy
        if rank == 1:

            def fails(state):
                raise MemoryError("no room")

            checkpoints._stage.copy = fails  # type: ignore[method-assign]
            with pytest.raises(MemoryError, match="no room"):
                checkpoints.save(state_at(2), 2)
            checkpoints.wait()
        else:
            checkpoints.save(state_at(2), 2)
            with pytest.raises(MemoryError, match="no room"):
                checkpoints.wait()
        dist.barrier()
        assert checkpoints.steps() == [1]
        checkpoints._stage.copy = copy  # type: ignore[method-assign]
        checkpoints.save(state_at(3), 3)
        checkpoints.wait()
        dist.barrier()
        assert checkpoints.steps() == [1, 3]
        found = blank()
        assert checkpoints.load(found) == 3
        assert_state(found, 3)
    dist.destroy_process_group()


def test_a_rank_without_memory_tells_the_others(tmp_path: Path) -> None:
    with AsyncCheckpoints(tmp_path / "a") as checkpoints:  # all is loaded before the fork
        checkpoints.save(state_at(1), 1)
    context = multiprocessing.get_context("fork")
    children = [
        context.Process(target=_one_rank_lacks_memory, args=(rank, str(tmp_path)))
        for rank in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        assert child.exitcode == 0
