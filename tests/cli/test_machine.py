"""`doctor`, `warm`, `fit`, `completion`."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import densor
from densor.cli import completion, machine, samples
from densor.cli.dispatch import COMMANDS
from densor.errors import ChecksumError

from .conftest import ROOT, Ran


def test_doctor_tells_and_tests(cli: Callable[..., Ran]) -> None:
    ran = cli("doctor", "-q", "--level", "3")
    assert ran.code == 0 and not ran.err
    lines = ran.text.splitlines()
    assert lines[0].startswith(f"densor         {densor.__version__}, ")
    assert sum(line.endswith("  bit for bit") for line in lines) == len(samples.SAMPLES)


def test_doctor_notices_a_codec_that_fails(
    cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    decompress = densor.decompress

    def wrong(*arguments: object, **options: object) -> object:
        data = decompress(*arguments, **options).copy()
        data.reshape(-1)[0] += 1
        return data

    monkeypatch.setattr(densor, "decompress", wrong)
    with pytest.raises(ChecksumError):
        samples.round_trip("BF16", 3, 1 << 16, 1)
    ran = cli("doctor", "-q", "--level", "3")
    assert ran.code == 1
    assert ran.said("densor: doctor: BF16 at level 3 did not come back as it was")


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = machine.version
    monkeypatch.setattr(machine, "version", lambda name: None if name == "torch" else real(name))
    told = dict(machine.facts())
    assert "torch ([torch])" in told["not installed"]
    assert "torch" not in told["optional"]


def test_warm(cli: Callable[..., Ran]) -> None:
    ran = cli("warm", "--level", "3")
    assert ran.code == 0
    assert ran.err.startswith("densor: kernels of levels 3 are ready") or "are ready" in ran.err


def test_warm_puts_kernels_into_a_folder(cli: Callable[..., Ran], tmp_path: Path) -> None:
    folder = tmp_path / "kernels"
    ran = cli("warm", "--level", "3", "--into", str(folder))
    assert ran.code == 0
    found = [path.name for path in folder.iterdir()]
    assert f"{len(found)} files in {folder}" in ran.err
    assert [name.startswith("codec.spans.encode_kernels.encode_span.") for name in found].count(1)


def test_warm_knows_its_processors(cli: Callable[..., Ran]) -> None:
    ran = cli("warm", "--processor", "x86-64-v3,pentium")
    assert ran.code == 2
    assert "not a list of here, x86-64-v4-vbmi2, x86-64-v3" in ran.err


@pytest.mark.parametrize("level", [3, 6])
def test_samples_change_for_a_base(level: int) -> None:
    trip = samples.delta_trip(level, 1 << 18, 1)
    assert trip.stored < trip.original / 10


def test_fit(cli: Callable[..., Ran], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = {
        f"layers.{i}.{name}": (random.standard_normal((128, 256)) * 0.02).astype(np.float32)
        for i in range(8)
        for name in ("up", "down")
    }
    plain = tmp_path / "plain"
    plain.mkdir()
    from safetensors.numpy import save_file

    save_file(weights, plain / "model.safetensors")
    densor.save_file(weights, tmp_path / "packed.densor")
    for path in (plain, plain / "model.safetensors", tmp_path / "packed.densor"):
        ran = cli("fit", str(path), "--memory", "2M")
        assert ran.code == 0, ran.err
        rows = [line.split() for line in ran.text.splitlines()[2:]]
        assert [row[-1] for row in rows] == ["yes", "yes", "yes"]
        assert rows[0][-3:-1] == ["2.1", "MB"] and rows[2][-3:-1] == ["524.3", "kB"]
        least = cli("fit", str(path), "--memory", "1M")
        assert [line.split()[-1] for line in least.text.splitlines()[2:]] == ["no", "no", "yes"]
    (tmp_path / "words.txt").write_bytes(b"no weights here")
    ran = cli("fit", str(tmp_path / "words.txt"))
    assert ran.code == 1 and ran.said("*: holds no tensors")


def test_completion_knows_all(cli: Callable[..., Ran]) -> None:
    for shell in completion.SHELLS:
        ran = cli("completion", shell)
        assert ran.code == 0
        for command in COMMANDS:
            assert command in ran.text
        for _, parser in completion.commands():
            for option in completion.options(parser):
                for name in option.names:
                    assert name.lstrip("-") in ran.text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_take_the_script(shell: str, cli: Callable[..., Ran]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = cli("completion", shell).out
    subprocess.run([shell, "-n"], input=script, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [("den --rec", {"--recovery"}), ("densor ex", {"extract"}), ("densor pack --sh", {"--sha256"})],
)
def test_bash_completes(words: str, wanted: set[str], cli: Callable[..., Ran]) -> None:
    typed = words.split()
    script = cli("completion", "bash").text
    array = " ".join(typed)
    code = f"{script}\nCOMP_WORDS=({array})\nCOMP_CWORD={len(typed) - 1}\n_densor\n"
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    ran = subprocess.run(["bash", "-c", code], check=True, capture_output=True, text=True)
    assert set(ran.stdout.split()) == wanted


def test_the_manual_is_up_to_date() -> None:
    from densor.cli import manual

    again = "make them again: python -m densor.cli.manual docs"
    assert (ROOT / "docs" / "cli.md").read_text() == manual.markdown(), again
    assert (ROOT / "docs" / "densor.1").read_text() == manual.manual_page(), again
