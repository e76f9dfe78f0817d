"""Densor writes the bytes, and its commands print the texts, that are on record."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "support" / "written_bytes.py"


def check(*options: str) -> None:
    """Runs the check in a process of its own."""
    argv = [sys.executable, str(SCRIPT), "--check", *options]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_quickly() -> None:
    check("--quick")


@pytest.mark.slow
def test_all() -> None:
    check()
