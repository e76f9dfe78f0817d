"""The same bits under every instruction set, each in a process of its own."""

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from densor.products import entry_kernels as entry
from densor.products.kernels import Layout
from densor.products.matrix import Matrix

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="names x86 processors"
)

SETTINGS = {
    "generic": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"},
    "ssse3": {"NUMBA_CPU_NAME": "core2", "NUMBA_CPU_FEATURES": "+ssse3"},
    "avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+avx,+fma,+f16c,+popcnt"},
    "avx512": {"NUMBA_CPU_NAME": "skylake-avx512", "NUMBA_CPU_FEATURES": "+avx512f,+avx512bw,+fma"},
}
FULL = tuple(layout for layout in (entry.BF16_3, entry.BF16_4, entry.FP16_3))
SOME = (entry.BF16_4,)  # in every run, under AVX2


def digest(layouts: tuple[Layout, ...], most: int) -> str:
    """Of products in these layouts with 1, 2, 3 and 8 inputs, up to `most`; of unpacked rows."""
    rng = np.random.default_rng(5)
    found = hashlib.sha256()
    for layout in layouts:
        numbers = (rng.standard_normal((40, 200)) * np.exp(rng.standard_normal((40, 1)))) * 0.1
        inputs = rng.standard_normal((8, 200))
        both = [words(part.astype(np.float32), layout.half_floats) for part in (numbers, inputs)]
        matrix = Matrix(both[0], layout)
        found.update(matrix.memory.tobytes())
        found.update(matrix.unpack().tobytes())
        for tokens in (t for t in (1, 2, 3, 8) if t <= most):
            found.update(matrix.times(both[1][:tokens]).tobytes())
    return found.hexdigest()


def words(
    numbers: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", half_floats: bool
) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint16]]":
    if half_floats:
        return numbers.astype(np.float16).view(np.uint16)
    return (numbers.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("machine", SETTINGS)
@pytest.mark.slow
def test_other_processors_give_the_same_bits(machine: str, tmp_path: Path) -> None:
    assert ran(machine, "FULL, 8", tmp_path) == digest(FULL, 8)


def test_another_processor_gives_the_same_bits(tmp_path: Path) -> None:
    assert ran("avx2", "SOME, 1", tmp_path) == digest(SOME, 1)


def ran(machine: str, arguments: str, cache: Path) -> str:
    """The digest in a process that takes itself for that machine."""
    code = f"import test_products_machines as m; print(m.digest(m.{arguments}))"
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    own = {**SETTINGS[machine], "PYTHONPATH": path, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
