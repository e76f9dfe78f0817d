"""Every block of docs/torch.md runs, one after the other."""

import re
from pathlib import Path

import pytest
from paths import DOCS

torch = pytest.importorskip("torch")

PAGE = DOCS / "torch.md"


@pytest.mark.filterwarnings("ignore")
def test_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 6
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
