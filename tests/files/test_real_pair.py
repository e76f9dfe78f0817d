"""A checkpoint and the one that it was tuned from, as they were published."""

import importlib.util
from pathlib import Path

import pytest

import densor


def test_a_real_pair(tmp_path: Path) -> None:
    """PyTorch checkpoints, one tuned from the other, where they are installed."""
    spec = importlib.util.find_spec("chgnet")
    if spec is None or spec.origin is None:
        pytest.skip("chgnet is not installed")
    folder = Path(spec.origin).parent / "pretrained"
    (old,), (new,) = folder.glob("0.3.0/*.tar"), folder.glob("r2scan/*.tar")
    based = densor.compress_file(new, tmp_path / "based", base=old)
    alone = densor.compress_file(new, tmp_path / "alone")
    assert based.stored < 0.96 * alone.stored
    densor.decompress_file(tmp_path / "based", tmp_path / "back", base=old)
    assert (tmp_path / "back").read_bytes() == new.read_bytes()
