"""Builds the package with compiled kernels, so that a first run has nothing to compile.

The environment may say otherwise. `DENSOR_KERNELS`: levels of compression whose kernels are
compiled, such as "1,3,6", or "none"; 3 if it is not set. `DENSOR_PROCESSORS`: for which processors,
such as "x86-64-v4-vbmi2,x86-64-v3" for a wheel that others install; the one here if it is not set.
Where they cannot be compiled, the package is built without them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

LEVELS = os.environ.get("DENSOR_KERNELS") or "3"
PROCESSORS = os.environ.get("DENSOR_PROCESSORS") or "here"
WITH_KERNELS = LEVELS != "none" and sys.platform.startswith("linux") and sys.maxsize > 1 << 32


class BuildWithKernels(build_py):
    """Compiles what was built, as it will be installed."""

    def run(self) -> None:
        """Does so once the sources are there; never fails for it."""
        super().run()
        if self.editable_mode:
            return
        if not WITH_KERNELS:  # nor with those of an earlier build in this folder
            shutil.rmtree(Path(self.build_lib) / "densor/kernels", ignore_errors=True)
        else:
            print(f"compiling kernels of levels {LEVELS} for {PROCESSORS}", flush=True)
            try:
                compile_kernels(Path(self.build_lib).resolve())
            except (OSError, subprocess.SubprocessError) as error:
                print(f"without kernels, which a first run will compile: {error}", flush=True)


def compile_kernels(built: Path) -> None:
    """Runs `densor warm` of the package in that folder."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")},
            "PYTHONPATH": os.pathsep.join((str(built), *filter(None, sys.path))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NUMBA_CACHE_DIR": folder,
        }
        asked = (
            "--level",
            LEVELS,
            "--processor",
            PROCESSORS,
            "--into",
            str(built / "densor/kernels"),
        )
        subprocess.run(
            [sys.executable, "-P", "-m", "densor", "warm", "--quiet", *asked],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=True,
        )


class Wheel(bdist_wheel):
    """Of any Python 3: kernels are of a system, but of no version of Python."""

    def finalize_options(self) -> None:
        """Says whether the wheel is of one system."""
        super().finalize_options()
        self.root_is_pure = not WITH_KERNELS

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI and system."""
        _, _, system = super().get_tag()
        return "py3", "none", system


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": Wheel})
