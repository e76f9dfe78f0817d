"""What the documentation shows works: docstrings of the API, code blocks of the README."""

import doctest
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from llm_models import write_folder
from paths import ROOT

import densor
from densor import api

README = ROOT / "README.md"


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(api)
    assert result.attempted
    assert not result.failed


def test_every_public_name_is_there_and_described() -> None:
    for name in densor.__all__:
        thing = getattr(densor, name)
        assert name.startswith("__") or thing.__doc__
    assert set(densor.__all__) == set(dir(densor))
    with pytest.raises(AttributeError):
        _ = densor.nothing_of_this_name  # type: ignore[attr-defined]


def python_blocks(page: Path = README) -> list[str]:
    if not page.exists():
        return []
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(not README.exists(), reason="no README yet")
def test_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks in one namespace and one empty folder, as a reader would type them."""
    blocks = python_blocks()
    if any(re.search(r"^\s*(import|from) torch", block, re.MULTILINE) for block in blocks):
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert blocks


def test_code_of_the_page_on_text_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in python_blocks(ROOT / "docs" / "text.md"):
        if "transformers" in block:
            pytest.importorskip("torch")
            transformers = pytest.importorskip("transformers")
            write_folder(tmp_path / "model")
            tokens = transformers.PreTrainedTokenizerFast(tokenizer_file="model/tokenizer.json")
            tokens.save_pretrained("model")
        exec(compile(block, "text.md", "exec"), {})
    tokens, most, bits, generated = capsys.readouterr().out.splitlines()
    assert 0 < float(tokens.split()[0]) < 8.0 and len(eval(most)) == 1
    assert float(bits.split()[0]) < 1.0
    assert len(eval(generated)) == 60


def _small_flights(folder: Path) -> None:
    lines = [
        f"{300 + i % 900},{'UA' if i % 3 else 'AA'},{'IAH' if i % 2 else 'ORD'}"
        for i in range(4000)
    ]
    (folder / "flights.csv").write_text("dep_time,carrier,dest\n" + "\n".join(lines) + "\n")
    densor.pack([folder / "flights.csv"], folder / "flights.densor")
    (folder / "survey.csv").write_text("a,b,c\n" + "yes,no,no\nno,yes,yes\n" * 300)


def _small_model(folder: Path) -> None:
    weights = {"layer.7.weight": np.linspace(-1, 1, 5000, dtype=np.float32)}
    (folder / "model").mkdir()
    densor.save_file(weights, folder / "model" / "model.densor")


def _model_for_transformers(folder: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from hf_models import llama

    llama().save_pretrained(folder / "plain")
    densor_hf = importlib.import_module("densor.hf")
    densor_hf.pack_model(folder / "plain", folder / "packed")
    torch = importlib.import_module("torch")
    layers = torch.nn.Sequential(*(torch.nn.Linear(256, 256).bfloat16() for _ in range(4)))
    (folder / "layers").mkdir()
    path = folder / "layers" / "model.safetensors"
    importlib.import_module("densor.torch").save_packed_file(layers.state_dict(), path)


def _files_behind_urls(folder: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    from safetensors.numpy import save

    _small_model(folder)
    content = save({"layer.7.weight": np.linspace(-1, 1, 5000, dtype=np.float32)})
    fsspec.filesystem("memory").pipe_file("/bucket/model.safetensors", content)


@pytest.mark.parametrize(
    ("page", "prepare"),
    [
        ("hub", None),
        ("lossy", None),
        ("modality", None),
        ("images", None),
        ("tables", _small_flights),
        ("serving", _model_for_transformers),
        ("streaming", _files_behind_urls),
    ],
)
def test_code_of_pages_runs(
    page: str,
    prepare: Callable[[Path], None] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All blocks of a page in one namespace; URLs of others stand for files in memory."""
    if prepare is not None:
        prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"densor": densor, "__name__": page}
    for block in python_blocks(ROOT / "docs" / f"{page}.md"):
        if importlib.util.find_spec("pandas") is None:
            block = block.replace('to="pandas"', 'to="numpy"')
        block = block.replace("s3://", "memory://").replace("https://host/", "memory://")
        exec(compile(block, f"{page}.md", "exec"), names)


def test_links_to_files_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_lines_outside_tables_and_code_are_short() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        long = [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]
        assert not long, f"{page}: {long[0]}"
