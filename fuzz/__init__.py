"""Hostile input for every decoder and parser. See docs/fuzzing.md; run `python -m fuzz --help`."""

import sys
from pathlib import Path

# The seeds are made by the same code as the samples of the tests.
_TESTS = Path(__file__).parent.parent / "tests"
for _folder in (_TESTS, _TESTS / "support"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))
