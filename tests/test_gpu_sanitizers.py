"""The kernels under the emulator, built with AddressSanitizer and UBSan: tests of test_gpu again.

Slow, and in a process of their own, into which the sanitizer's library must be loaded first.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from densor.gpu import emulate

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).parent
CHOSEN = "not LARGE and not archives and not golden and not check_script and not emulator"
FLAGS = {
    "address": "-fsanitize=address -fno-omit-frame-pointer -g1",
    "undefined": "-fsanitize=undefined -fno-sanitize-recover=all -g1",
}


@pytest.mark.parametrize("sanitizer", FLAGS)
def test_sanitized(sanitizer: str) -> None:
    found = emulate.compiler()
    if found is None:
        pytest.skip("no C++ compiler")
    name = {"address": "libasan.so", "undefined": "libubsan.so"}[sanitizer]
    done = subprocess.run([found, f"-print-file-name={name}"], capture_output=True, text=True)
    if not Path(done.stdout.strip()).is_absolute():
        pytest.skip(f"the compiler has no {name}")
    environment = {
        **os.environ,
        "DENSOR_EMULATOR_FLAGS": FLAGS[sanitizer],
        "LD_PRELOAD": done.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "PYTHONMALLOC": "malloc",  # so that each buffer is one the sanitizer knows
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-k", CHOSEN, str(FOLDER / "test_gpu.py")]
    run = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=FOLDER.parent
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
