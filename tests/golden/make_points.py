"""Adds the golden archive of POINTS frames, which came with densor 0.3. Run once, never again.

python tests/golden/make_points.py
"""

import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parent / "reference")]

import ml_dtypes  # noqa: E402
from helpers import weights  # noqa: E402
from reference import container  # noqa: E402

import densor  # noqa: E402


def main() -> None:
    path = HERE / "expected.json"
    expected = json.loads(path.read_text())
    if "points" in expected["good"]:
        sys.exit("the golden archive exists; it is never made anew")
    tensors = {
        "bf16": weights("bf16", 24, 80).view(ml_dtypes.bfloat16),
        "fp16": weights("fp16", 8, 80),
    }
    archive = densor.save(tensors, level=3, gpu_index=True)
    (HERE / "points.densor").write_bytes(archive)
    entries = container.decode(archive)
    expected["good"]["points"] = {e.name: hashlib.sha256(e.data).hexdigest() for e in entries}
    path.write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
