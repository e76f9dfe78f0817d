"""Checkpoints one step of Adam apart: moments are kept as the gradient they follow from."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from densor.errors import DensorError

torch = pytest.importorskip("torch")
dcp = pytest.importorskip("torch.distributed.checkpoint")

from torch.distributed.checkpoint.api import CheckpointException  # noqa: E402
from torch.distributed.checkpoint.state_dict import get_state_dict  # noqa: E402
from torch_tools import bits, one_thread  # noqa: E402, F401

from densor.torch import (  # noqa: E402
    AsyncCheckpoints,
    PackedReader,
    PackedWriter,
    dcp_to_torch_save,
    pack_state,
    unpack_state,
)
from densor.torch.adam.shards import betas_in  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]


class Training:
    """A language model that learns to tell the next token, in BF16 where autocast has it so."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        self.text = torch.randint(0, 40, (64, 17), generator=generator).cumsum(1) % 101
        torch.manual_seed(2)
        self.model = torch.nn.Sequential(
            torch.nn.Embedding(101, 192),
            torch.nn.Linear(192, 192),
            torch.nn.GELU(),
            torch.nn.Linear(192, 192),
            torch.nn.LayerNorm(192),
            torch.nn.Linear(192, 101),
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.95))

    def step(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(self.text[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.text[:, 1:].ravel())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}

    def plain(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}


def copied(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return [copied(value) for value in state] if isinstance(state, list) else state


def tensors_of(state: Any, name: str = "") -> dict[str, Any]:
    if isinstance(state, torch.Tensor):
        return {name: bits(state)}
    items: Any = state.items() if isinstance(state, dict) else ()
    return {n: v for key, one in items for n, v in tensors_of(one, f"{name}.{key}").items()}


def blank(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return torch.full_like(state, 7)
    return {key: blank(one) for key, one in state.items()} if isinstance(state, dict) else state


def assert_loads(folder: Path, state: dict[str, Any]) -> None:
    found = blank(state)
    dcp.load(found, storage_reader=PackedReader(folder), no_dist=True)
    assert tensors_of(found) == tensors_of(state)


def save(state: dict[str, Any], folder: Path, base: Path | None = None, level: int = 3) -> None:
    dcp.save(state, storage_writer=PackedWriter(folder, level, base=base), no_dist=True)


def stored(folder: Path) -> dict[str, Any]:
    with (folder / ".metadata").open("rb") as file:
        storage = pickle.load(file).storage_data
    return {index.fqn: place for index, place in storage.items()}


def stepped(folder: Path) -> list[str]:
    """Names of the moments that are kept as gradients."""
    return sorted(name for name, place in stored(folder).items() if place.moment is not None)


MATRICES = ("1.weight", "3.weight")
NAMES = sorted(f"optimizer.state.{m}.{n}" for m in MATRICES for n in ("exp_avg", "exp_avg_sq"))


def test_moments_follow_from_gradients(tmp_path: Path) -> None:
    training = Training()
    states: list[dict[str, Any]] = []
    for step in range(4):
        training.step()
        states.append(copied(training.state()))
        save(states[-1], tmp_path / str(step), tmp_path / str(step - 1) if step else None)
    assert stepped(tmp_path / "0") == []
    for step in (1, 2, 3):
        assert stepped(tmp_path / str(step)) == NAMES
        for name in MATRICES:
            place = stored(tmp_path / str(step))[f"optimizer.state.{name}.exp_avg"]
            assert place.length < 0.18 * 2 * 4 * 192 * 192
        assert_loads(tmp_path / str(step), states[step])
    dcp_to_torch_save(tmp_path / "3", tmp_path / "plain.pt")
    found = torch.load(tmp_path / "plain.pt", weights_only=True)
    assert tensors_of(found) == tensors_of(states[3])
    one = {"optimizer": {"state": {"1.weight": {"exp_avg_sq": torch.zeros(192, 192)}}}}
    dcp.load(one, storage_reader=PackedReader(tmp_path / "3"), no_dist=True)
    wanted = states[3]["optimizer"]["state"]["1.weight"]["exp_avg_sq"]
    assert torch.equal(one["optimizer"]["state"]["1.weight"]["exp_avg_sq"], wanted)


def test_states_as_optimizers_give_them(tmp_path: Path) -> None:
    """Parameters are numbers there; and where PyTorch has flattened them, names with dots."""
    training = Training()
    training.step()
    save(training.plain(), tmp_path / "0")
    training.step()
    save(training.plain(), tmp_path / "1", tmp_path / "0")
    found = stepped(tmp_path / "1")
    assert len(found) == 4 and {name.split(".")[-2] for name in found} == {"1", "3"}
    assert_loads(tmp_path / "1", training.plain())
    flat = {"param_groups.1.weight.betas": (0.9, 0.95), "param_groups.1.weight.lr": 0.1}
    assert betas_in(flat) == {"state.1.weight": (0.9, 0.95)}
    nested = {"o.param_groups.0.betas": [0.8, 0.9], "o.param_groups.0.params": ["a.b", 3]}
    assert betas_in(nested) == {"o.state.a.b": (0.8, 0.9), "o.state.3": (0.8, 0.9)}
    assert betas_in({"param_groups.0.betas": 5, "other.betas": (0.1, 0.2)}) == {}


@pytest.mark.parametrize(
    "odd",
    [
        [None, 0.9],
        ("a", "b"),
        [0.9, torch.ones(2)],
        [10**400, 0.9],
        [float("nan"), 0.9],
        [1e300, 1e300],
        [0.9, 1.0],
        (0.9, 0.95, 0.99),
    ],
)
def test_odd_betas_are_none_of_adam(odd: Any) -> None:
    assert betas_in({"param_groups.0.betas": odd, "param_groups.0.params": [0]}) == {}
    state = {"state": {0: {"exp_avg": torch.ones(300, 200), "exp_avg_sq": torch.ones(300, 200)}}}
    group = {"betas": odd, "params": [0]}
    found = unpack_state(pack_state({**state, "param_groups": [group]}, state), state)
    assert torch.equal(found["state"][0]["exp_avg"], torch.ones(300, 200))


def test_what_does_not_follow_is_coded_by_itself(tmp_path: Path) -> None:
    training = Training()
    training.step()
    save(training.state(), tmp_path / "0")
    training.step()
    training.step()
    save(training.state(), tmp_path / "2", tmp_path / "0")  # two steps apart
    assert stepped(tmp_path / "2") == []
    assert_loads(tmp_path / "2", training.state())
    for parameter in training.model.parameters():  # no BF16
        parameter.grad = torch.randn(parameter.shape)
    training.optimizer.step()
    save(training.state(), tmp_path / "3", tmp_path / "2")
    assert stepped(tmp_path / "3") == []
    assert_loads(tmp_path / "3", training.state())
    training.step()
    state = training.state()
    odd = state["optimizer"]["state"]["1.weight"]["exp_avg"].view(-1).view(torch.int32)
    odd[:4] = torch.tensor([0x7FC00123, -(2**31), 0x7F800000, 1], dtype=torch.int32)
    save(state, tmp_path / "4", tmp_path / "3")
    assert stepped(tmp_path / "4") == NAMES  # but for these four
    assert_loads(tmp_path / "4", state)
    del state["optimizer"]["state"]["1.weight"]["exp_avg_sq"]
    save(state, tmp_path / "5", tmp_path / "4")
    assert stepped(tmp_path / "5") == []
    assert_loads(tmp_path / "5", state)


def test_checkpoints_that_do_not_belong_together(tmp_path: Path) -> None:
    training = Training()
    for step in range(3):
        training.step()
        save(training.state(), tmp_path / str(step), tmp_path / str(step - 1) if step else None)
    state = training.state()
    (name,) = {place.file for place in stored(tmp_path / "2").values()}
    whole = (tmp_path / "2" / name).read_bytes()
    place = stored(tmp_path / "2")["optimizer.state.1.weight.exp_avg"]
    for at in (place.offset, place.offset + place.length // 2):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        (tmp_path / "2" / name).write_bytes(damaged)
        with pytest.raises(CheckpointException, match=r"1\.weight\.exp_avg") as caught:
            assert_loads(tmp_path / "2", state)
        assert has_error(caught.value)
    (tmp_path / "2" / name).write_bytes(whole)
    assert_loads(tmp_path / "2", state)
    shutil.rmtree(tmp_path / "1")
    training.step()
    save(training.state(), tmp_path / "1")  # of another step
    with pytest.raises(CheckpointException, match="another") as caught:
        assert_loads(tmp_path / "2", state)
    assert has_error(caught.value)


def has_error(error: CheckpointException) -> bool:
    """Whether a rank met an error of Densor."""
    return any(isinstance(one[0], DensorError) for one in error.failures.values())


def test_checkpoints_beside_the_training(tmp_path: Path) -> None:
    training = Training()
    states = {}
    with AsyncCheckpoints(tmp_path, level=1, chain=2) as checkpoints:
        for step in range(5):
            training.step()
            states[step] = copied(training.state())
            checkpoints.save(training.state(), step)
        found = blank(states[0])
        for step, state in states.items():
            assert checkpoints.load(found, step) == step
            assert tensors_of(found) == tensors_of(state)
    assert [bool(stepped(tmp_path / f"step-{step}")) for step in range(5)] == [
        False,
        True,
        True,
        False,
        True,
    ]


def test_the_trainer_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from densor.torch import BackgroundCheckpoints

    class Data(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 32

        def __getitem__(self, i: int) -> dict[str, Any]:
            generator = torch.Generator().manual_seed(i)
            return {"x": torch.randn(192, generator=generator), "labels": i % 7}

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(192, 192)
            self.outer = torch.nn.Linear(192, 7)

        def forward(self, x, labels):
            with torch.autocast("cpu", torch.bfloat16):
                logits = self.outer(torch.tanh(self.inner(x)))
                return {"loss": torch.nn.functional.cross_entropy(logits, labels)}

    arguments = transformers.TrainingArguments(
        str(tmp_path / "runs"),
        max_steps=3,
        per_device_train_batch_size=8,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        max_grad_norm=0.1,
    )
    torch.manual_seed(3)
    callback = BackgroundCheckpoints(tmp_path / "c", every=1)
    model = Model()
    trainer = transformers.Trainer(model, arguments, train_dataset=Data(), callbacks=[callback])
    trainer.train()
    callback.checkpoints.close()
    assert stepped(tmp_path / "c" / "step-1") == []
    for step in (2, 3):
        names = stepped(tmp_path / "c" / f"step-{step}")
        assert [name.rpartition(".")[2] for name in names] == ["exp_avg", "exp_avg_sq"]
    again = Model()
    other = torch.optim.AdamW(again.parameters())
    assert BackgroundCheckpoints(tmp_path / "c", every=1).load(again, other) == 3
    _, trained = get_state_dict(model, trainer.optimizer.optimizer)
    _, found = get_state_dict(again, other)
    assert tensors_of(found["state"]) == tensors_of(trained["state"])
