"""The documents build as a site, with no link that leads nowhere and no page that is not listed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "not included in the" not in done.stderr
    measured = (tmp_path / "site" / "bench" / "results" / "index.html").read_text()
    assert "javascripts/tables.js" in measured
    assert (tmp_path / "site" / "javascripts" / "tables.js").is_file()
    page = (tmp_path / "site" / "api" / "index.html").read_text()
    assert "compress_file" in page and "WriteOptions" in page
