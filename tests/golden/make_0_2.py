"""Adds the golden archives of the codecs that came with densor 0.2. Run once, never again.

python tests/golden/make_0_2.py
"""

import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parent / "reference")]

import archives  # noqa: E402
import numpy as np  # noqa: E402
from helpers import random_state, weights  # noqa: E402
from reference import container  # noqa: E402

import densor  # noqa: E402


def main() -> None:
    path = HERE / "expected.json"
    expected = json.loads(path.read_text())
    if "scales" in expected["good"]:
        sys.exit("the golden archives exist; they are never made anew")
    made = {
        name.replace(" ", "-"): archives.sample(name).archive
        for name in ("scales", "scales fp32", "sparse", "blocks", "chain")
    }
    made["mixing"] = densor.compress(weights("bf16", 40, 96), 9, dtype="bf16")
    integers = random_state("planes").standard_normal((80, 250)) * 0.45
    made["planes"] = densor.compress(np.rint(integers).astype(np.int8), 6)
    for name, archive in made.items():
        (HERE / f"{name}.densor").write_bytes(archive)
        entries = container.decode(archive)
        expected["good"][name] = {e.name: hashlib.sha256(e.data).hexdigest() for e in entries}
    path.write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
