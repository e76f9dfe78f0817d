"""What had another name in the version before: it works, and warns of it."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densor

MODULES = ["densor", "densor.torch", "densor.hf"]


@pytest.mark.parametrize("module", MODULES)
def test_former_names_lead_to_what_they_were(module: str) -> None:
    if module != "densor":
        pytest.importorskip("torch")
    if module == "densor.hf":
        pytest.importorskip("transformers")
    found = importlib.import_module(module)
    assert found._FORMER
    for name, now in found._FORMER.items():
        assert name not in found.__all__
        place, _, attribute = now.rpartition(".")
        with pytest.warns(DeprecationWarning, match=f"{module}.{name} is called {now} now"):
            old = getattr(found, name)
        assert old is getattr(importlib.import_module(place), attribute)
        assert old.__name__ == attribute


@pytest.mark.parametrize("module", MODULES)
def test_names_that_never_were(module: str) -> None:
    if module != "densor":
        pytest.importorskip("torch")
    if module == "densor.hf":
        pytest.importorskip("transformers")
    with pytest.raises(AttributeError, match="nothing"):
        importlib.import_module(module).nothing  # noqa: B018


def test_nothing_public_looks_like_a_test() -> None:
    names = [*densor.__all__, *importlib.import_module("densor.archives").__all__]
    assert not [name for name in names if name.startswith("test")]
    assert all(getattr(densor, name) is not None for name in densor.__all__)


def test_load_and_load_file_take_one_kind_each(tmp_path: Path) -> None:
    data = {"a": np.arange(9.0)}
    path = tmp_path / "x"
    densor.save_file(data, path)
    with pytest.warns(DeprecationWarning, match="use densor.load_file"):
        assert densor.load(path)["a"].tolist() == data["a"].tolist()
    with pytest.warns(DeprecationWarning, match="use densor.load"):
        assert densor.load_file(path.read_bytes())["a"].tolist() == data["a"].tolist()


def test_save_file_replaces_and_warns(tmp_path: Path) -> None:
    path = tmp_path / "x"
    densor.save_file({"a": np.zeros(3)}, path)
    with pytest.warns(DeprecationWarning, match="overwrite=True"):
        densor.save_file({"b": np.zeros(3)}, path)
    assert list(densor.load_file(path)) == ["b"]
    densor.save_file({"c": np.zeros(3)}, path, overwrite=True)
    for refused in ({"overwrite": False}, {"options": densor.WriteOptions()}):
        with pytest.raises(densor.FileError, match="already exists"):
            densor.save_file({"d": np.zeros(3)}, path, **refused)  # type: ignore[arg-type]
    assert list(densor.load_file(path)) == ["c"]


def test_torch_save_file_replaces_and_warns(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import densor.torch as ours

    path = tmp_path / "x"
    made: dict[str, Any] = {"a": torch.ones(3000)}
    for _ in range(2):
        with pytest.warns(DeprecationWarning, match="save_packed_file"):
            ours.save_file(made, path)
    with pytest.raises(densor.FileError, match="already exists"):
        ours.save_packed_file(made, path)
    assert torch.equal(ours.load_file(path)["a"], made["a"])


def test_a_module_that_has_moved() -> None:
    import importlib

    from densor.files.append import append

    former = importlib.import_module("densor.formats.append")
    with pytest.warns(DeprecationWarning, match="files.append"):
        assert former.append is append
    with pytest.raises(AttributeError):
        _ = former.nothing
