"""The backend of vLLM's weight transfer, with what it needs of vLLM stood in for.

`tests/engines/check_vllm.py` runs it with the real engine.
"""

import importlib
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

from densor.errors import ArgumentError, DensorError
from densor.integrations import vllm as plugin
from densor.sync import Publisher

torch = pytest.importorskip("torch")

A, B = TypeVar("A"), TypeVar("B")


@dataclass
class Nothing:
    """What the infos of vLLM are made from."""


class Engine(Generic[A, B]):
    """The base class, as vLLM 0.32 has it."""

    init_info_cls: Any
    update_info_cls: Any

    def __init__(self, model: Any) -> None:
        self.model, self.model_config = model, "config"
        self.parallel_config = types.SimpleNamespace(world_size_across_dp=1)

    def parse_update_info(self, given: dict[str, Any]) -> Any:
        return self.update_info_cls(**given)


class Model:
    """Notes what it is told to load."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def load_weights(self, tensors: list[tuple[str, Any]]) -> None:
        self.calls.append({name: tensor.clone() for name, tensor in tensors})


class Factory:
    """Refuses a name that it has."""

    names: dict[str, tuple[str, str]]

    @classmethod
    def register_engine(cls, name: str, module: str, class_name: str) -> None:
        if name in cls.names:
            raise ValueError(name)
        cls.names[name] = module, class_name


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the backend."""
    reload = {
        "initialize_layerwise_reload": lambda model: model.calls.append("begin"),
        "finalize_layerwise_reload": lambda model, config: model.calls.append(f"end {config}"),
    }
    Factory.names = {}
    contents: dict[str, dict[str, Any]] = {
        "vllm": {},
        "vllm.distributed": {},
        "vllm.distributed.weight_transfer": {"WeightTransferEngineFactory": Factory},
        "vllm.distributed.weight_transfer.base": {
            "WeightTransferEngine": Engine,
            "WeightTransferInitInfo": Nothing,
            "WeightTransferUpdateInfo": Nothing,
        },
        "vllm.model_executor": {},
        "vllm.model_executor.model_loader": {},
        "vllm.model_executor.model_loader.reload": reload,
    }
    for name, names in contents.items():
        module = types.ModuleType(name)
        module.__dict__.update(names)
        monkeypatch.setitem(sys.modules, name, module)
    plugin._register_transfer()
    plugin._register_transfer()
    module_name, class_name = Factory.names["densor"]
    monkeypatch.delitem(sys.modules, module_name, raising=False)
    yield getattr(importlib.import_module(module_name), class_name)
    sys.modules.pop(module_name, None)


def assert_loaded(calls: list[Any], weights: dict[str, Any]) -> None:
    begin, loaded, end = calls
    assert (begin, end) == ("begin", "end config")
    assert loaded.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(loaded[name], tensor)


def test_all_weights_are_loaded_after_each_message(made: Any, tmp_path: Path) -> None:
    weights = {"a": torch.randn(300, 40).bfloat16(), "b": torch.arange(9.0)}
    model = Model()
    engine = made(model)
    with pytest.raises(ArgumentError, match="init_weight_transfer_engine"):
        engine.update_weights({})
    engine.init_transfer_engine(made.init_info_cls(store=str(tmp_path), threads=1))
    with pytest.raises(DensorError):
        engine.update_weights({"number": 0, "timeout": 0.0})
    with pytest.raises(DensorError):
        engine.update_weights({"timeout": 0.0})  # without a number, the latest
    for odd in ({"number": "0"}, {"number": 1.5}, {"number": 0, "timeout": None}):
        with pytest.raises(ArgumentError, match="no number and timeout"):
            engine.update_weights(odd)
    assert model.calls == []
    with Publisher(weights, tmp_path, wait=True) as publisher:
        for step in range(3):
            weights["a"][step] += 1  # b never changes
            publisher.publish(step)
            publisher.wait()
            engine.start_weight_update()
            engine.update_weights({"number": publisher.number if step else None})
            engine.finish_weight_update()
            assert_loaded(model.calls, weights)
            model.calls.clear()
    engine.shutdown()
    with pytest.raises(ArgumentError):
        engine.update_weights({})


def test_workers_load_the_same_message(made: Any, tmp_path: Path) -> None:
    weights = {"a": torch.arange(9.0)}
    engines = [made(Model()) for _ in range(2)]
    for engine in engines:
        engine.parallel_config.world_size_across_dp = 2
        engine.init_transfer_engine(made.init_info_cls(store=str(tmp_path), threads=1))
    with Publisher(weights, tmp_path, wait=True) as publisher:
        for step, engine in enumerate(engines):  # the training goes on between them
            publisher.publish(step)
            publisher.wait()
            engine.update_weights({"number": 0})
            assert_loaded(engine.model.calls, {"a": torch.arange(9.0)})
            weights["a"] += 1
    with pytest.raises(ArgumentError, match="several workers"):
        engines[0].update_weights({})
