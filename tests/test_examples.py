"""The short scripts in `examples` run; they are checked by mypy as a user's scripts are."""

import os
import subprocess
import sys

import pytest
from paths import ROOT


@pytest.mark.parametrize("name", ["tensors", "checkpoints", "chunk_store"])
def test_an_example_runs(name: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bytes" in done.stdout
