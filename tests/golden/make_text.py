"""Adds the golden archives of the text codec, which came with densor 0.3. Run once, never again.

python tests/golden/make_text.py
"""

import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parent / "reference")]

import reference_decoder  # noqa: E402

import densor  # noqa: E402
from densor.codec import choose  # noqa: E402

PROSE = b"""In the beginning nobody knew how far it was to the mill, for the road went up and down
through the woods, and whoever asked the way was told another tale. The miller's daughter said: "An
hour, if the wind is behind you; two, if it is not." Her brother, who never walked if he could ride,
said that it was no way at all. So the traveller took off his hat, thanked them both, and asked the
donkey, which looked at him, turned round and went home: three hours, and the wind was behind them.
"""
SAMPLES = {
    "text": (PROSE, 9),
    "text-binary": (bytes(i * j & 255 for i in range(9) for j in range(16)), 9),
    "text-light": (PROSE.replace(b"\n", b" ").upper() + PROSE, 5),
}


def main() -> None:
    path = HERE / "expected.json"
    expected = json.loads(path.read_text())
    if "text" in expected["good"]:
        sys.exit("the golden archives exist; they are never made anew")
    choose.MIN_BYTES_OF_TEXT = 0  # so short that the slow decoder reads them in a moment
    for name, (data, level) in SAMPLES.items():
        archive = densor.compress(data, level)
        (HERE / f"{name}.densor").write_bytes(archive)
        (entry,) = reference_decoder.decode(archive)
        expected["good"][name] = {entry.name: hashlib.sha256(entry.data).hexdigest()}
    path.write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
