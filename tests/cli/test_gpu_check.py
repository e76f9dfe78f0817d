"""`densor gpu-check`, emulated: all kernels are right, and what is wrong is said."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Ran


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_emulated_kernels_are_right(
    cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    from densor.cli import gpu_check

    cases = [case for case in gpu_check.CASES if case.dtype == "BF16"]
    monkeypatch.setattr(gpu_check, "CASES", cases)
    monkeypatch.setattr(gpu_check, "EDGES", (1, 257, 8192))
    monkeypatch.setattr(gpu_check, "check_models", lambda *_: iter(()))
    arguments = ("gpu-check", "--emulate", "--elements", "100000")
    ran = cli(*arguments, "--json", "found.json", "--markdown", "table.md")
    assert ran.code == 0 and "| yes |" in ran.text and "NO" not in ran.text
    found = json.loads(Path("found.json").read_text())
    assert found["machine"]["backend"] == "emulate"
    assert all(row["right"] for row in found["results"]) and len(found["results"]) > 10
    assert Path("table.md").read_text().strip() == ran.text.strip()

    def wrong(*_: Any) -> Any:
        yield gpu_check.Result("made up", "BF16", 1, False)

    monkeypatch.setattr(gpu_check, "run", wrong)
    ran = cli(*arguments)
    assert ran.code == 1 and "WRONG" in ran.err and "1 of 1 checks failed" in ran.err


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="there may be a GPU")
def test_without_a_gpu(cli: Callable[..., Ran]) -> None:
    ran = cli("gpu-check")
    assert ran.code == 1 and "needs CuPy" in ran.err
