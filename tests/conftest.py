"""Settings for all tests: how hard hypothesis tries, and that no test depends on chance."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import model_file
from hypothesis import HealthCheck, settings

from densor.formats.container import short_form

_QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile(
    "default", max_examples=40, deadline=None, derandomize=True, suppress_health_check=_QUIET
)
settings.register_profile("thorough", max_examples=1500, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Most tests look at frames: archives are in the ordinary form unless `short_archives` is used.
_MOST = short_form.MOST
short_form.MOST = 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first: no process is still at it when the others are done."""
    items.sort(key=lambda item: item.get_closest_marker("minutes") is None)


@pytest.fixture
def short_archives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny archives are written in the short form, as they are by default outside the tests."""
    monkeypatch.setattr(short_form, "MOST", _MOST)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for CuPy, in its place; see `cupy_stand_in`."""
    from cupy_stand_in import new_module

    module: ModuleType = new_module()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    """A safetensors file."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_file())
    return path


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder as models come in: shards, texts, folders in folders, an empty one."""
    folder = tmp_path / "model"
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "model-00001-of-00002.safetensors").write_bytes(model_file())
    (folder / "model-00002-of-00002.safetensors").write_bytes(model_file()[:-7])
    (folder / "config.json").write_text('{"architectures": ["Llama"]}\n')
    (folder / "deep" / "deeper" / "größe.bin").write_bytes(bytes(range(256)) * 3)
    (folder / "deep" / "nothing.txt").write_bytes(b"")
    return folder


@pytest.fixture
def tiny_batches(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes batches and chunks small, so that small inputs have many of them."""
    from densor.codec.choose import sizes
    from densor.codec.planes import analyse

    def shrink(size: int) -> None:
        monkeypatch.setattr(sizes, "BATCH_BYTES", size)
        for element in (1, 2, 4, 8):
            monkeypatch.setitem(analyse._CHUNK_BYTES, element, max(1, size // 2))

    return shrink


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(12345)
