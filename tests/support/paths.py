"""Where things are, whatever folder a test stands in."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
GOLDEN = TESTS / "golden"
SUPPORT = TESTS / "support"
DOCS = ROOT / "docs"
