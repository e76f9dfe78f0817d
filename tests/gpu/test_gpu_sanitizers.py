"""The kernels under the emulator, built with AddressSanitizer and UBSan: tests of them again.

Slow, and in a process of their own, into which the sanitizer's library must be loaded first.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from densor.gpu import emulate

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).parent
CHOSEN = "not LARGE and not archives and not golden and not check_script and not emulator"
FILES = ("test_gpu.py", "test_gpu_index.py")
FLAGS = {
    "address": "-fsanitize=address -fno-omit-frame-pointer -g1",
    "undefined": "-fsanitize=undefined -fno-sanitize-recover=all -g1",
}


def library_of(name: str) -> str:
    """Where the compiler has a library."""
    found = emulate.compiler()
    if found is None:
        pytest.skip("no C++ compiler")
    done = subprocess.run([found, f"-print-file-name={name}"], capture_output=True, text=True)
    if not Path(done.stdout.strip()).is_absolute():
        pytest.skip(f"the compiler has no {name}")
    return done.stdout.strip()


def environment(sanitizer: str) -> dict[str, str]:
    """That of a process in which kernels may be built with a sanitizer."""
    name = {"address": "libasan.so", "undefined": "libubsan.so"}[sanitizer]
    return {
        **os.environ,
        "DENSOR_EMULATOR_FLAGS": FLAGS[sanitizer],
        "LD_PRELOAD": library_of(name),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "PYTHONMALLOC": "malloc",  # so that each buffer is one the sanitizer knows
    }


@pytest.mark.parametrize("sanitizer", FLAGS)
def test_sanitized(sanitizer: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-p", "no:cacheprovider"]
    command += ["-k", CHOSEN, *(str(FOLDER / name) for name in FILES)]
    variables, folder = environment(sanitizer), ROOT
    run = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=folder)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]


@pytest.mark.parametrize("index", ["size // 4", "-1", "size // 4 + 7"])
def test_sanitizer_sees_accesses_out_of_bounds(index: str) -> None:
    """A kernel that reads a word too many, within what the host has allocated for itself."""
    code = f"""
import numpy as np
from densor.gpu.emulate import EmulatedBackend
text = '''
extern "C" __global__ void reads(
    const uint32_t* in, uint32_t* out, int32_t index) {{ out[0] = in[index]; }}'''
on = EmulatedBackend(parts=[text], flags={FLAGS["address"].split()!r})
size = 400
source, out = on.empty(size), on.empty(4)
pointers = np.uint64(source.pointer), np.uint64(out.pointer)
on.launch("reads", 1, 32, [*pointers, np.int32(size // 4 - 1)])
print("fine so far", flush=True)
on.launch("reads", 1, 32, [*pointers, np.int32({index})])
print("unseen")
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment("address"),
        cwd=ROOT,
    )
    assert run.returncode != 0 and "AddressSanitizer" in run.stderr
    assert run.stdout == "fine so far\n"
