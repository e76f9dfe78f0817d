"""Kernels that a package brings along: used where nothing was compiled, and only where they fit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from densor.cli import compiling
from densor.entropy import deferred, kernel_files, native

MODULE, NAME = "densor.entropy.huffman.kernels", "unpack_lengths"
SOURCE = deferred.source_of(MODULE)

pytestmark = pytest.mark.skipif(
    deferred.is_checked() or not native.usable(), reason="kernels are not kept here"
)
x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="levels are of x86-64")


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a package, with one kernel; and nothing that was compiled here."""
    deferred.ready(MODULE, NAME)
    folder = tmp_path / "kernels"
    assert kernel_files.package(SOURCE, NAME, kernel_files.HERE, folder) in folder.iterdir()
    monkeypatch.setattr(kernel_files, "PACKAGED", str(folder))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "none"))
    return folder


def test_a_kernel_that_was_brought_along_is_used(brought: Path) -> None:
    assert isinstance(kernel_files.find(SOURCE, NAME), kernel_files.Image)
    (file,) = brought.iterdir()
    file.unlink()
    assert kernel_files.find(SOURCE, NAME) is None


def test_one_that_was_made_of_other_sources_is_not(
    brought: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_files, "_digest", lambda paths: "another")
    assert kernel_files.find(SOURCE, NAME) is None


def test_one_that_is_damaged_is_not(brought: Path) -> None:
    (file,) = brought.iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert kernel_files.find(SOURCE, NAME) is None


def test_none_is_for_other_settings(brought: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert kernel_files.find(SOURCE, NAME) is None


def test_none_is_for_another_processor(brought: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_files, "_processor", lambda: [b"flags\t\t: fpu sse2"])
    kernel_files.fitting.cache_clear()
    try:
        assert kernel_files.fitting() == (kernel_files.HERE,)
        assert kernel_files.find(SOURCE, NAME) is None
    finally:
        kernel_files.fitting.cache_clear()


@pytest.mark.parametrize("lacking", ["", "avx512_vbmi2", "bmi2"])
def test_levels_need_all_of_their_instructions(
    lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = "x86-64-v4-vbmi2"
    flags = " ".join(kernel_files.LEVELS[best].flags - {lacking})
    monkeypatch.setattr(kernel_files, "_processor", lambda: [b"flags\t\t: " + flags.encode()])
    kernel_files.fitting.cache_clear()
    try:
        expected = {"": (best, "x86-64-v3"), "avx512_vbmi2": ("x86-64-v3",), "bmi2": ()}
        assert kernel_files.fitting() == (kernel_files.HERE, *expected[lacking])
    finally:
        kernel_files.fitting.cache_clear()


@x86_64
def test_kernels_for_other_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled without the instructions that these lack; what is of old is removed."""
    monkeypatch.setattr(deferred, "names", lambda: [(MODULE, NAME)])
    old = tmp_path / "kernels" / "old.kernel"
    old.parent.mkdir()
    old.touch()
    levels = [*kernel_files.LEVELS]
    assert compiling.package(levels, old.parent) == len(levels)
    assert not old.exists()
    monkeypatch.setattr(kernel_files, "PACKAGED", str(old.parent))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "none"))
    for level in levels:
        monkeypatch.setattr(kernel_files, "fitting", lambda level=level: (level,))
        found = kernel_files.find(SOURCE, NAME)
        assert isinstance(found, kernel_files.Image)
        with_wide_vectors = b"\x62\xf1" in found.code or b"\x62\xf2" in found.code  # EVEX
        assert not with_wide_vectors or level != "x86-64-v3"


def test_a_package_that_was_built_compiles_nothing(tmp_path: Path) -> None:
    """As `setup.py` has it: nothing is imported or kept that compiles."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    kernels = tmp_path / "kernels"
    code = (
        "import sys; from densor.entropy import kernel_files, deferred; from densor.cli import "
        "compiling, samples; from pathlib import Path; kernel_files.PACKAGED = sys.argv[1]\n"
        "for name in ('BF16', 'small BF16', 'small INT64'): "
        "samples.round_trip(name, 3, samples.WARM_BYTES, 1)\n"
        "if sys.argv[2] == 'make': compiling.package([kernel_files.HERE], Path(sys.argv[1]))\n"
        "print('numba' in sys.modules, len(deferred.names()))"
    )

    def run(what: str, kept: str | None) -> list[str]:
        more = {} if kept is None else {"NUMBA_CACHE_DIR": kept}
        done = subprocess.run(
            [sys.executable, "-c", code, str(kernels), what],
            env=environment | more, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.split()

    _, count = run("make", None)
    assert run("use", str(tmp_path / "none")) == ["False", count]
    assert len(list(kernels.iterdir())) == int(count)
    assert not (tmp_path / "none").exists()


def test_processes_share_the_samples() -> None:
    """Each does all, in another order: what one compiles another does not."""
    orders = [compiling._order([1, 3], number, 3) for number in range(3)]
    assert len({json.dumps(order) for order in orders}) == 3
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


def test_a_package_without_kernels_has_none_of_an_earlier_build(tmp_path: Path) -> None:
    """It is for every system, which they are not."""
    pytest.importorskip("setuptools.command.bdist_wheel")
    script = Path(__file__).parents[2] / "setup.py"
    made = tmp_path / "densor" / "kernels"
    made.mkdir(parents=True)
    (made / "old.kernel").touch()
    code = (
        "import runpy, sys, setuptools; setuptools.setup = lambda **_: None\n"
        "built = runpy.run_path(sys.argv[1])['BuildWithKernels']\n"
        "command = built(setuptools.Distribution({'packages': []}))\n"
        "command.build_lib = sys.argv[2]; command.ensure_finalized(); command.run()"
    )
    command = [sys.executable, "-c", code, str(script), str(tmp_path)]
    environment = {**os.environ, "DENSOR_KERNELS": "none"}
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert not made.exists()
