"""The run that a GPU is to be given, without one: its frame, and sections that are quick."""

import io
import json
from pathlib import Path

import pytest

from bench import gpu_run
from densor.gpu import emulate

if emulate.compiler() is None:
    pytest.skip("no C++ compiler", allow_module_level=True)


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_section_writes_as_it_goes(tmp_path: Path) -> None:
    assert gpu_run.main(["--emulate", "--out", str(tmp_path), "--only", "machine", "streams"]) == 0
    found = lines((tmp_path / "run.jsonl").read_text())
    assert [line["section"] for line in found] == ["machine"] * 3 + ["streams"] * 2
    assert found[3]["skipped"] == "needs a GPU"


def test_a_section_that_fails_is_told() -> None:
    for name, limit, reason in (("none", 60.0, "invalid choice"), ("products", 0.01, "too long")):
        out = io.StringIO()
        out.fileno = lambda: 1  # type: ignore[method-assign]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gpu_run.os, "fsync", lambda number: None)
            assert gpu_run.run_section(name, limit, True, out) == (0, False)
        assert reason in str(lines(out.getvalue())[0]["reason"])


def test_without_a_gpu_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpu_run.main(["--out", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("no section can run: UnsupportedError: ") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()
