"""The door for TRL, by hand and, where it is installed, by the code of its trainer."""

import inspect
from types import SimpleNamespace

import pytest

from densor.errors import ArgumentError
from densor.integrations.trl import PackedTransfer
from densor.sync import MemoryStore, Subscriber

torch = pytest.importorskip("torch")


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.Linear(40, 5)).bfloat16()


def same(one, other) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def streamed(trained):
    """One tensor at a time, gone afterwards."""
    for name, value in trained.state_dict().items():
        yield name, value.clone()


def test_weights_reach_who_generates() -> None:
    trained, served, store, said = model(), model(), MemoryStore(), []
    subscriber = Subscriber(served, store)

    def resume(number: int) -> None:
        subscriber.wait_for(number)
        said.append(number)

    transfer = PackedTransfer(store, pause=lambda: said.append("pause"), resume=resume)
    assert transfer.number == -1
    transfer.init_weight_transfer()
    for _ in range(3):
        with torch.no_grad():
            trained[0].weight[0] += 1
        transfer.pause()
        transfer.send_weights(streamed(trained))
        transfer.resume()
        assert same(trained, served)
    assert said == ["pause", 0, "pause", 1, "pause", 2]
    assert len(store.get("change-000000000002", 1 << 20)) < 1000
    with pytest.raises(ArgumentError, match="not there any more"):
        transfer.send_weights(list(streamed(trained))[1:])
    with pytest.raises(ArgumentError, match="was not there before"):
        transfer.send_weights([*streamed(trained), ("new", torch.zeros(3))])
    with pytest.raises(ArgumentError, match="not there any more"):
        transfer.send_weights((name, value[:1]) for name, value in streamed(trained))

    def breaks():
        yield from list(streamed(trained))[:1]
        raise RuntimeError("a rank died")

    with pytest.raises(RuntimeError, match="died"):
        transfer.send_weights(breaks())
    assert transfer.number == 2 and subscriber.update() == 0
    with torch.no_grad():
        trained[1].bias[0] += 1
    transfer.send_weights(streamed(trained))
    assert subscriber.update() == 1 and same(trained, served)
    transfer.destroy()
    transfer.destroy()
    with pytest.raises(ArgumentError):
        PackedTransfer(store, wait=True)


def test_the_trainer_of_trl_sends_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    grpo = pytest.importorskip("trl.experimental.async_grpo.async_grpo_trainer")
    for name, method in vars(grpo.WeightTransferProtocol).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            own = inspect.signature(getattr(PackedTransfer, name))
            assert list(own.parameters) == list(inspect.signature(method).parameters), name
    trained, served, store = model(), model(), MemoryStore()
    subscriber = Subscriber(served, store)
    transfer = PackedTransfer(store, resume=subscriber.wait_for)
    accelerator = SimpleNamespace(
        unwrap_model=lambda found: found, is_main_process=True, wait_for_everyone=lambda: None
    )
    trainer = SimpleNamespace(
        accelerator=accelerator,
        model=trained,
        weight_transfer=transfer,
        model_version=0,
        rollout_worker=None,
        _streaming_iter=lambda: streamed(trained),
    )
    monkeypatch.setattr(grpo.logger, "info", lambda *_: None)  # needs a state of accelerate
    for version in (1, 2):
        with torch.no_grad():
            trained[1].weight[2] -= 0.5
        grpo.AsyncGRPOTrainer._sync_weight_merged(trainer, 0.0)
        assert trainer.model_version == version and same(trained, served)
    transfer.destroy()
