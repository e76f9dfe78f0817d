"""Pages about tensors: a map of them, a table that sorts and filters, charts.

One HTML file that needs nothing else; what it shows is drawn by the script within, from JSON that
also says what the columns are and what map and colours stand for.
"""

import json
from importlib.resources import files
from typing import Any

Column = dict[str, str]


def page(data: dict[str, Any]) -> str:
    """The page as HTML. `data`: see `archive_page` and `diff_page`."""
    template = (files("densor.cli") / "pages" / "tensors.html").read_text(encoding="utf-8")
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return template.replace("@DATA@", text.replace("<", "\\u003c"))


def text_of(title: str, key: str | None = None) -> Column:
    """A column of words."""
    return {"title": title, "key": key or title, "kind": "text name" if title == "name" else "text"}


def size_of(title: str) -> Column:
    """A column of bytes."""
    return {"title": title, "key": title, "kind": "size"}


def share(title: str, part: str, whole: str) -> Column:
    """A column of percentages."""
    return {"title": title, "key": part, "whole": whole}
