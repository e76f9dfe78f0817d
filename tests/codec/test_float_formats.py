"""Float formats: the table against what numpy says, and a made-up format that flows through."""

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import pytest
from paths import ROOT

from densor.codec.planes.layout import layout_for
from densor.dtypes import SIZES, number_size, to_numpy
from densor.float_formats import FORMATS, FloatFormat

# Runs in an interpreter of its own, where the table has one more line before anything reads it.
MADE_UP = """
import importlib.util, sys
import numpy as np
found = importlib.util.spec_from_file_location("densor.float_formats", {path!r})
formats = importlib.util.module_from_spec(found)
sys.modules["densor.float_formats"] = formats
found.loader.exec_module(formats)
new = formats.FloatFormat(*{form!r})
formats.FORMATS += (new,)
formats._BY_NAME[new.name] = new

import densor
from densor.codec.bound import order0_bytes
from densor.codec.delta.compare import compare
from densor.codec.kind import Data, kind_of
from densor.codec.planes.layout import layout_for
from densor.dtypes import SIZES, from_numpy, parse_dtype, to_numpy

rng = np.random.default_rng(1)
scale = np.exp2(rng.integers(-2, 3, (300, 1)) / 2)
data = (rng.standard_normal((300, 512)) * scale).astype(to_numpy({form[0]!r}))
raw = data.tobytes()
assert parse_dtype({form[0]!r}.lower()) == from_numpy(data.dtype) == {form[0]!r}
assert SIZES[{form[0]!r}] == 1
assert layout_for({form[0]!r}).name == "byte"
assert (kind_of({form[0]!r}, data.shape).data is Data.MATRICES) == {rows}
sizes = []
for level in (1, 6, 9):
    packed = densor.compress(data, level)
    back = densor.decompress(packed)
    assert back.dtype == data.dtype and back.tobytes() == raw
    sizes.append(len(packed))
assert max(sizes[1:]) < sizes[0] < len(raw), sizes
assert sizes[0] < 1.05 * order0_bytes(np.frombuffer(raw, np.uint8), {form[0]!r})
moved = np.frombuffer(raw, np.uint8).copy()
moved[::50] ^= 1
base = moved.view(data.dtype).reshape(data.shape)
packed = densor.compress(data, base=base)
assert densor.decompress(packed, base=base).tobytes() == raw and len(packed) < sizes[-1] / 3
changes = compare(np.frombuffer(raw, np.uint8), moved, {form[0]!r})
assert (changes.changed, changes.distance) == (moved[::50].size, 1)
print("flows through")
"""


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_formats_are_those_of_numpy(form: FloatFormat) -> None:
    info = ml_dtypes.finfo(to_numpy(form.name))
    assert (info.bits, info.nmant, info.nexp) == (8 * form.size, form.mantissa, form.exponent)
    assert form.sign == 1 or (form.name == "F8_E8M0" and form.mantissa == 0)


def test_layouts_have_the_size_of_a_number() -> None:
    for dtype in SIZES:
        layout = layout_for(dtype)
        assert (layout is None) == (dtype == "VOID")
        if layout is not None:
            assert layout.size == number_size(dtype)


@pytest.mark.parametrize(
    "form",
    [
        ("F8_E3M4", "float8_e3m4", 3, 4),  # too many mantissa bits for scale contexts
        ("F8_E5M2FNUZ", "float8_e5m2fnuz", 5, 2, 1, 200, 200),
    ],
    ids=lambda form: form[0],
)
def test_a_made_up_format_flows_through(form: tuple[str | int, ...]) -> None:
    path = Path(ROOT) / "densor/float_formats.py"
    code = MADE_UP.format(path=str(path), form=form, rows=len(form) > 4)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "flows through"
