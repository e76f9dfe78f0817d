"""Packed checkpoints: saved by several ranks, against one another, by a trainer; and continued."""

import errno
import io
import json
import os
import pickle
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import densor

torch = pytest.importorskip("torch")
dcp = pytest.importorskip("torch.distributed.checkpoint")

from torch.distributed.checkpoint.api import CheckpointException  # noqa: E402
from torch_tools import bits, one_thread  # noqa: E402, F401

from densor.torch import PackedReader, PackedWriter, dcp_to_torch_save, pack_tensors, unpack_tensors  # noqa: E402
from densor.torch.checkpoint import based_on  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]


def state_of(seed: int = 0, change: float = 0.0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(200, 300, generator=generator) * 0.02 + change
    return {
        "model": {
            "weight": weight.bfloat16(),
            "odd": weight[:, 1::2],
            "nan": torch.full((3,), float("nan")),
            "scalar": torch.tensor(2.5),
            "none": torch.empty(0, 7),
        },
        "ids": torch.arange(999),
        "step": 17,
        "note": {"why": ["a", 1, None]},
    }


def blank(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return torch.zeros(state.shape, dtype=state.dtype)
    return {key: blank(value) for key, value in state.items()} if isinstance(state, dict) else None


def assert_same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, torch.Tensor):
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        assert bits(found) == bits(wanted)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key in wanted:
            assert_same(found[key], wanted[key])
    else:
        assert found == wanted


def save(state: Any, path: Path, **options: Any) -> None:
    dcp.save(state, storage_writer=PackedWriter(path, **options), no_dist=True)


def load(like: Any, path: Path) -> Any:
    found = blank(like)
    dcp.load(found, storage_reader=PackedReader(path), no_dist=True)
    return found


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.densor"))


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    state = state_of()
    save(state, tmp_path / "a", level=6)
    assert_same(load(state, tmp_path / "a"), state)
    save(state_of(1), tmp_path / "a")  # overwrites
    assert_same(load(state, tmp_path / "a"), state_of(1))


def test_against_the_one_before(tmp_path: Path) -> None:
    states = [state_of(change=i * 1e-5) for i in range(3)]
    states[2]["model"]["weight"] = states[2]["model"]["weight"].float()  # another type: no base
    save(states[0], tmp_path / "0")
    save(states[1], tmp_path / "1", base=tmp_path / "0")
    save(states[2], tmp_path / "2", base=tmp_path / "1")
    assert size_of(tmp_path / "1") < 0.7 * size_of(tmp_path / "0")
    for i, state in enumerate(states):
        assert_same(load(state, tmp_path / str(i)), state)
    assert list(based_on(tmp_path / "2")) == [tmp_path / "1", tmp_path / "0"]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in "012":
        (tmp_path / name).rename(moved / name)
    assert_same(load(states[2], moved / "2"), states[2])


def test_a_checkpoint_as_one_plain_file(tmp_path: Path) -> None:
    def state(first: float) -> dict[str, Any]:
        weight = torch.arange(1200.0).reshape(30, 40).bfloat16()
        weight[0] = first
        lists = [torch.ones(2), {"x": torch.zeros(0, 3)}]
        return {"m": {"w": weight, "t": weight.T}, "step": 5, "list": lists}

    dcp.save(state(1), storage_writer=PackedWriter(tmp_path / "a"))
    dcp.save(state(2), storage_writer=PackedWriter(tmp_path / "b", base=tmp_path / "a"))
    target = tmp_path / "x.pt"
    target.write_bytes(b"before")
    dcp_to_torch_save(tmp_path / "b", target)
    found, wanted = torch.load(target), state(2)
    assert found["step"] == 5 and found.keys() == wanted.keys()
    for name in ("w", "t"):
        assert bits(found["m"][name]) == bits(wanted["m"][name])
    assert found["list"][1]["x"].shape == (0, 3)
    shutil.rmtree(tmp_path / "a")
    with pytest.raises((densor.DensorError, CheckpointException)):
        dcp_to_torch_save(tmp_path / "b", tmp_path / "y.pt")
    assert not (tmp_path / "y.pt").exists()


def test_faults_are_named(tmp_path: Path) -> None:
    state, changed = state_of(), state_of(change=1e-5)
    save(state, tmp_path / "0")
    save(changed, tmp_path / "1", base=tmp_path / "0")
    (file,) = (tmp_path / "1").glob("*.densor")
    whole = file.read_bytes()

    def fault(match: str) -> None:
        with pytest.raises((densor.DensorError, CheckpointException), match=match):
            load(state, tmp_path / "1")

    file.write_bytes(whole[: len(whole) // 2])
    fault("densor")
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    file.write_bytes(damaged)
    fault("__0_0.densor")
    file.write_bytes(whole)
    shutil.rmtree(tmp_path / "0")
    fault("no such checkpoint")
    save(state_of(5), tmp_path / "0")
    fault("base")
    with pytest.raises((densor.ArgumentError, CheckpointException), match="itself"):
        save(state, tmp_path / "1", base=tmp_path / "1")
    with pytest.raises((densor.FileError, CheckpointException), match="no such checkpoint"):
        save(state, tmp_path / "2", base=tmp_path / "nothing")
    dcp.save(state, storage_writer=dcp.FileSystemWriter(tmp_path / "plain"), no_dist=True)
    with pytest.raises((densor.FileError, CheckpointException), match="not written by densor"):
        load(state, tmp_path / "plain")


class FillsUp(PackedWriter):
    """Writes one item; then there is no space left."""

    written = 0

    def _pack(self, *given: Any) -> Any:
        self.written += 1
        if self.written > 1:
            raise OSError(errno.ENOSPC, "no space left")
        return super()._pack(*given)


def test_a_failed_save_leaves_no_checkpoint(tmp_path: Path) -> None:
    """Over another one: its data are gone in part, and must not be read as if they were whole."""
    state = state_of()
    save(state, tmp_path)
    with pytest.raises((densor.FileError, CheckpointException), match="itself"):
        save(state_of(5), tmp_path, base=tmp_path)
    with pytest.raises((densor.FileError, CheckpointException), match="no such checkpoint"):
        save(state_of(5), tmp_path, base=tmp_path / "nothing")
    assert_same(load(state, tmp_path), state)  # as nothing was written
    with pytest.raises((densor.FileError, CheckpointException), match="no space left"):
        dcp.save(state_of(5), storage_writer=FillsUp(tmp_path), no_dist=True)
    assert not (tmp_path / ".metadata").exists()
    save(state_of(5), tmp_path)
    assert_same(load(state, tmp_path), state_of(5))


def files_in(folder: Path) -> list[str]:
    """Files in a folder that this process has open."""
    descriptors = Path("/proc/self/fd").iterdir()
    names = [os.readlink(one) for one in descriptors if one.is_symlink()]
    return [name for name in names if name.startswith(str(folder))]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_files_are_closed_after_failures(tmp_path: Path) -> None:
    state = state_of()
    save(state, tmp_path / "0")
    with pytest.raises((densor.FileError, CheckpointException), match="no space left") as saved:
        writer = FillsUp(tmp_path / "1", base=tmp_path / "0")
        dcp.save(state_of(change=1e-5), storage_writer=writer, no_dist=True)
    assert files_in(tmp_path) == [], saved  # which would keep a file alive
    save(state_of(change=1e-5), tmp_path / "1", base=tmp_path / "0")
    (file,) = (tmp_path / "1").glob("*.densor")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises((densor.DensorError, CheckpointException)) as loaded:
        load(state, tmp_path / "1")
    assert files_in(tmp_path) == [], loaded


# Two ranks.


def train(rank: int, folder: str, continued: bool) -> None:
    """Trains a sharded model; is killed while it saves for the second time, unless `continued`."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    here = Path(folder)
    meeting = f"file://{here}/meeting{continued}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(40, 101), torch.nn.GELU(), torch.nn.Linear(101, 40))
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def states() -> dict[str, Any]:
        of_model, of_optimizer = get_state_dict(model, optimizer)
        return {"model": of_model, "optimizer": of_optimizer}

    begin = 0
    if continued:
        state = states()
        dcp.load(state, storage_reader=PackedReader(here / "step3"))
        set_state_dict(
            model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )
        begin = 3
    for step in range(begin, 6):
        x = torch.randn(8, 40, generator=torch.Generator().manual_seed(10 * step + rank))
        (model(x) - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (1, 2) and not continued:
            base = here / "step2" if step == 2 else None
            dcp.save(states(), storage_writer=PackedWriter(here / f"step{step + 1}", base=base))
    shards = [bits(p.to_local()) for p in model.parameters()]
    (here / f"end-{rank}-{continued}").write_bytes(pickle.dumps(shards))
    if not continued:

        class Dies(PackedWriter):
            def write_data(self, plan: Any, planner: Any) -> Any:
                super().write_data(plan, planner)
                os.kill(os.getpid(), signal.SIGKILL)

        dcp.save(states(), storage_writer=Dies(here / "step6", base=here / "step3"))
    dist.destroy_process_group()


def run_ranks(folder: Path, continued: bool) -> list[int | None]:
    import multiprocessing

    context = multiprocessing.get_context("forkserver")  # imports once for all four
    context.set_forkserver_preload(
        [
            "torch.distributed.fsdp",
            "torch.distributed.checkpoint.state_dict",
            "densor.torch.checkpoint",
        ]
    )
    ranks = [context.Process(target=train, args=(r, str(folder), continued)) for r in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
        rank.kill()
    return [rank.exitcode for rank in ranks]


@pytest.mark.skipif(sys.platform != "linux", reason="needs SIGKILL and a fork server")
def test_two_ranks_are_killed_and_continue(tmp_path: Path) -> None:
    assert run_ranks(tmp_path, False) == [-signal.SIGKILL, -signal.SIGKILL]
    assert not (tmp_path / "step6" / ".metadata").exists()
    assert len(list((tmp_path / "step3").glob("*.densor"))) == 2
    assert run_ranks(tmp_path, True) == [0, 0]
    for rank in range(2):
        whole = (tmp_path / f"end-{rank}-False").read_bytes()
        assert (tmp_path / f"end-{rank}-True").read_bytes() == whole


# The trainer of transformers.


def trainer(folder: Path, callback: Any, steps: int, **options: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=16, n_embd=32, n_layer=1, n_head=2, bos_token_id=0
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=steps,
        save_steps=2,
        per_device_train_batch_size=2,
        report_to=[],
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    data = [{"input_ids": torch.arange(8) + i, "labels": torch.arange(8) + i} for i in range(16)]
    return transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback])


def test_a_trainer_packs_its_checkpoints(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from densor.torch import PackCheckpoints

    trainer(tmp_path, PackCheckpoints(), 6).train()
    names = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    archives = [f"checkpoint-{step}.densor" for step in (2, 4, 6)]
    assert names == sorted([*archives, "checkpoint-6"])
    original = {p.name: p.read_bytes() for p in (tmp_path / "checkpoint-6").iterdir()}
    densor.extract(tmp_path / "checkpoint-6.densor", tmp_path / "again")
    assert {p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()} == original

    # Continuing from a packed checkpoint ends where the whole run ended.
    densor.extract(tmp_path / "checkpoint-4.densor", tmp_path / "checkpoint-4")
    shutil.rmtree(tmp_path / "checkpoint-6")
    again = trainer(tmp_path, PackCheckpoints(keep=None), 6)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert (tmp_path / "checkpoint-4").is_dir()
    path = tmp_path / "checkpoint-6" / "model.safetensors"
    assert path.read_bytes() == original["model.safetensors"]


def test_failures_of_the_background_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    from densor.torch import PackCheckpoints

    def fail(*_: Any, **__: Any) -> None:
        raise densor.ChecksumError("as told")

    monkeypatch.setattr(densor, "verify_file", fail)
    with pytest.raises(densor.ChecksumError, match=r"checkpoint-2 could not be packed: as told"):
        trainer(tmp_path, PackCheckpoints(keep=0), 6).train()
    assert (tmp_path / "checkpoint-2" / "model.safetensors").exists()


# Key-value caches and the like.


def test_tensors_in_any_structure() -> None:
    past = tuple(
        (torch.randn(1, 2, 50, 64).bfloat16(), torch.randn(1, 2, 50, 64).bfloat16())
        for _ in range(3)
    )
    wanted = {"past": past, "length": 50, "more": [torch.tensor(7), None, "x"]}
    packed = pack_tensors(wanted)
    stored = len(pickle.dumps(packed))
    assert stored < 0.85 * sum(t.nbytes for pair in past for t in pair)
    found = unpack_tensors(pickle.loads(pickle.dumps(packed)))
    assert found["length"] == 50 and found["more"][1:] == [None, "x"]
    assert_same(found["more"][0], torch.tensor(7))
    for pair, other in zip(found["past"], past, strict=True):
        for one, two in zip(pair, other, strict=True):
            assert_same(one, two)
    packed["past"][0][0].blob = packed["past"][0][0].blob[:-9]
    with pytest.raises(densor.DensorError):
        unpack_tensors(packed)


def test_metadata_is_what_it_says(tmp_path: Path) -> None:
    """Other readers find their way in a packed checkpoint: names, shapes, sizes."""
    save(state_of(), tmp_path / "a")
    metadata = dcp.FileSystemReader(tmp_path / "a").read_metadata()
    assert metadata.state_dict_metadata["model.weight"].size == (200, 300)
    stored = {index.fqn: item for index, item in metadata.storage_data.items()}
    blob = (tmp_path / "a" / stored["model.weight"].file).read_bytes()
    place = stored["model.weight"]
    found = densor.decompress(blob[place.offset : place.offset + place.length])
    assert_same(found, state_of()["model"]["weight"])
    assert json.dumps(place.base) == "null"
    assert io.BytesIO(blob).read(4) == b"\x89DNS"
