"""Adds the golden archives of frames that came with densor 0.3. Run once, never again.

python tests/golden/make_0_3.py
"""

import hashlib
import io
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parent / "reference")]

import reference_decoder  # noqa: E402
from helpers import random_state, safetensors_bytes, weights  # noqa: E402

import densor  # noqa: E402
from densor.codec import choose  # noqa: E402
from densor.codec.planes import analyse  # noqa: E402
from densor.formats.container import writer  # noqa: E402


def main() -> None:
    path = HERE / "expected.json"
    expected = json.loads(path.read_text())
    if "recovery" in expected["good"]:
        sys.exit("the golden archives exist; they are never made anew")
    choose.BATCH_BYTES, writer._PLACE_EVERY = 2000, 1500  # many batches, so that there are places
    analyse._CHUNK_BYTES[2] = 1000
    bits = weights("bf16", 9, 200)
    noise = random_state("recovery").integers(0, 256, 300, "u1").tobytes()
    tensors = {"w": ("BF16", bits.shape, bits.tobytes()), "n": ("U8", (300,), noise)}
    data = safetensors_bytes(tensors)
    out = io.BytesIO()
    densor.compress_file(io.BytesIO(data), out, threads=1, name="m.safetensors", recovery=20)
    archive = out.getvalue()
    damaged = archive[:600] + bytes(300) + archive[900:-20]
    (HERE / "recovery.densor").write_bytes(archive)
    (HERE / "bad-recovery-damaged.densor").write_bytes(damaged)
    entries = reference_decoder.decode(archive)
    expected["good"]["recovery"] = {e.name: hashlib.sha256(e.data).hexdigest() for e in entries}
    expected["bad"]["bad-recovery-damaged"] = "ChecksumError"
    path.write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
