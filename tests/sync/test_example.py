"""The example of two processes runs."""

import subprocess
import sys

import pytest
from paths import ROOT


def test_example_of_two_processes() -> None:
    pytest.importorskip("torch")
    command = [sys.executable, str(ROOT / "examples" / "follow_weights.py"), "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("the other process has the same weights\n")
    assert "change-000000000004" in done.stdout
