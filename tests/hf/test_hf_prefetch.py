"""Packed models that are decoded before transformers is imported and asked to load them."""

import gc
import importlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.22")

from hf_models import damaged, llama, same  # noqa: E402
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING  # noqa: E402

import densor  # noqa: E402
import densor.hf  # noqa: E402
from densor.errors import ChecksumError, FileError, TruncatedError  # noqa: E402
from densor.files import prefetching  # noqa: E402
from densor.files.ahead import Ahead  # noqa: E402
from densor.files.packed_model import METHOD  # noqa: E402
from densor.hf import loader  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plain and a packed model, and the latter in shards."""
    place = tmp_path_factory.mktemp("models")
    llama().save_pretrained(place / "plain")
    llama().save_pretrained(place / "shards", max_shard_size="100KB")
    densor.hf.pack_model(place / "plain", place / "packed")
    densor.hf.pack_model(place / "shards", place / "packed_shards")
    return place


@pytest.fixture(autouse=True)
def nothing_left() -> Any:
    yield
    left = list(prefetching._started.values())
    for started in left:
        started.close()
    assert not left


@pytest.fixture
def begun_anew(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the loader begins by itself."""
    begun: list[Any] = []

    def begin(*args: Any) -> Ahead:
        begun.append(Ahead(*args))
        return begun[-1]

    monkeypatch.setattr(loader, "Ahead", begin)
    return begun


def by_transformers(folder: Path, **options: Any) -> Any:
    return transformers.LlamaForCausalLM.from_pretrained(folder, **options)


@pytest.mark.parametrize("load", [by_transformers, densor.hf.from_pretrained])
@pytest.mark.parametrize("name", ["packed", "packed_shards"])
@pytest.mark.parametrize("options", [{}, {"dtype": torch.float16}, {"device_map": "cpu"}])
def test_what_was_begun_is_taken(
    made: Path, begun_anew: list[Any], load: Any, name: str, options: dict[str, Any]
) -> None:
    started = densor.prefetch(made / name)
    assert densor.prefetch(str(made / name)) is started
    found = load(made / name, **options)
    same(by_transformers(made / "plain", **options), found)
    assert not begun_anew
    assert not any(thread.is_alive() for thread in started.ahead._threads)
    same(by_transformers(made / "plain", **options), load(made / name, **options))
    assert len(begun_anew) == 1  # the second time
    started.close()


def test_other_content_is_not_mistaken_for_it(
    made: Path, tmp_path: Path, begun_anew: list[Any]
) -> None:
    folder = tmp_path / "packed"
    shutil.copytree(made / "packed", folder)
    started = densor.prefetch(folder)
    torch.manual_seed(1)
    other = llama()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    other.save_pretrained(tmp_path / "other_plain")
    densor.hf.pack_model(tmp_path / "other_plain", tmp_path / "other")
    os.replace(tmp_path / "other" / "model.safetensors", folder / "model.safetensors")
    same(other, densor.hf.from_pretrained(folder))
    assert len(begun_anew) == 1
    assert not any(thread.is_alive() for thread in started.ahead._threads)
    first = densor.prefetch(folder)
    os.utime(folder / "model.safetensors", (1, 1))
    second = densor.prefetch(folder)
    assert second is not first
    assert not any(thread.is_alive() for thread in first.ahead._threads)
    same(other, by_transformers(folder))
    assert len(begun_anew) == 1


@pytest.mark.parametrize("options", [{"resident": True}, {"backend": "emulate"}])
def test_what_nobody_takes_is_let_go(made: Path, options: dict[str, Any]) -> None:
    started = densor.prefetch(made / "packed")
    found = densor.hf.from_pretrained(made / "packed", **options)
    assert not started.ahead._done
    assert not any(thread.is_alive() for thread in started.ahead._threads)
    ids = torch.tensor([[3, 7, 9]])
    with torch.no_grad():
        wanted = by_transformers(made / "plain")(ids).logits
        assert torch.equal(found(ids).logits, wanted)


def test_bases(made: Path, tmp_path: Path, begun_anew: list[Any]) -> None:
    changed = llama()
    with torch.no_grad():
        changed.model.embed_tokens.weight[3] += 1
    changed.save_pretrained(tmp_path / "tuned")
    densor.hf.pack_model(tmp_path / "tuned", tmp_path / "delta", base=made / "plain")
    densor.prefetch(tmp_path / "delta", base=made / "plain")
    same(changed, densor.hf.from_pretrained(tmp_path / "delta", base=made / "plain"))
    assert not begun_anew
    densor.prefetch(tmp_path / "delta")  # whose base is not found
    same(changed, densor.hf.from_pretrained(tmp_path / "delta", base=made / "plain"))
    assert len(begun_anew) == 1
    started = densor.prefetch(tmp_path / "delta")
    for thread in started.ahead._threads:
        thread.join(60)
    shutil.copytree(made / "plain", tmp_path / "plain")  # is there now
    same(changed, by_transformers(tmp_path / "delta"))
    assert len(begun_anew) == 1


def test_faults(made: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"neither model\.safetensors nor"):
        densor.prefetch(tmp_path)
    folder = tmp_path / "packed"
    shutil.copytree(made / "packed", folder)
    weights = folder / "model.safetensors"
    damaged(weights, weights.stat().st_size // 2)
    densor.prefetch(folder)
    with pytest.raises(ChecksumError, match="tensor 'model"):
        densor.hf.from_pretrained(folder)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(TruncatedError, match=r"model\.safetensors"):
        densor.prefetch(folder)


def test_plain_models_have_nothing_to_decode(made: Path) -> None:
    with densor.prefetch(made / "plain") as started:
        assert not started.ahead._order
    same(by_transformers(made / "plain"), llama())


def test_garbage_is_collected_after_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(gc, "disable", lambda: called.append("disable"))
    monkeypatch.setattr(gc, "enable", lambda: called.append("enable"))
    importlib.reload(densor.hf)
    assert called == ["disable", "enable"]


def test_garbage_is_collected_after_loading(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[bool] = []
    quantizer = AUTO_QUANTIZER_MAPPING[METHOD]
    original = quantizer.decoded

    def decoded(*args: Any) -> Any:
        states.append(gc.isenabled())
        return original(*args)

    monkeypatch.setattr(quantizer, "decoded", decoded)
    densor.hf.from_pretrained(made / "packed")
    assert states and not any(states) and gc.isenabled()


def test_nothing_heavy_is_imported_and_a_program_may_end_before_it_loads(made: Path) -> None:
    code = (
        "import sys, densor; densor.prefetch(sys.argv[1]); "
        "assert not {'torch', 'transformers', 'numba'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code, str(made / "packed")], check=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_children_begin_anew(made: Path) -> None:
    """Threads do not live on in them."""
    started = densor.prefetch(made / "packed")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(60)
            started.close()
            again = densor.prefetch(made / "packed")
            assert again is not started
            again.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    started.close()
