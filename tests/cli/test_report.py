"""`densor report` and `densor diff --html`: what the pages hold, how they behave in a browser."""

import base64
import json
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densor
from densor.cli import archive_page

from .conftest import Ran

HOSTILE = '</script><img src=x onerror="document.title=1">.weight'


def _archive(path: Path, tensors: int = 12) -> Path:
    random = np.random.default_rng(0)
    weights = {
        f"layers.{i}.up": (random.standard_normal((64, 256)) * 0.02).astype(np.float32)
        for i in range(tensors)
    }
    weights["ones"] = np.ones(70_000, np.float16)
    weights["count"] = np.arange(5)
    weights[HOSTILE] = weights["layers.0.up"][::-1].copy()
    weights["empty"] = np.zeros((0, 4), np.float32)
    densor.save_file(weights, path)
    return path


def _data(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page)
    data: dict[str, Any] = json.loads(text)
    return data


def test_the_page_holds_all_tensors(cli: Callable[..., Ran], tmp_path: Path) -> None:
    path = _archive(tmp_path / "a.densor")
    ran = cli("report", str(path), "-o", str(tmp_path / "a.html"))
    assert ran.code == 0, ran.err
    page = (tmp_path / "a.html").read_text()
    data = _data(page)
    with densor.open(path) as file:
        assert {row["name"] for row in data["tensors"]} == set(file.keys())
    rows = {row["name"]: row for row in data["tensors"]}
    assert rows["layers.3.up"]["original"] == 64 * 256 * 4
    assert rows["ones"]["stored"] < 100 and rows["ones"]["codec"]
    assert rows["empty"] | {"codec": ""} == {
        "name": "empty", "dtype": "F32", "shape": "0×4", "original": 0, "stored": 0,
        "bits": None, "bound": None, "codec": "",
    }  # fmt: skip
    stored = sum(row["stored"] for row in data["tensors"])
    assert path.stat().st_size * 0.9 < stored <= path.stat().st_size
    (shares,) = [h["shares"] for h in data["histograms"] if h["title"] == "F32"]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert "http:" not in page.replace("http://www.w3.org/2000/svg", "") and "https:" not in page


@pytest.mark.parametrize("kind", ["text", "nothing", "folder", "base"])
def test_any_archive_has_a_page(kind: str, cli: Callable[..., Ran], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"" if kind == "nothing" else b"some text, some text " * 50)
    archive = tmp_path / "a.densor"
    if kind == "folder":
        densor.pack([source], archive)
    elif kind == "base":
        changed = tmp_path / "changed"
        changed.write_bytes(source.read_bytes()[::-1])
        densor.compress_file(changed, archive, base=source)
    else:
        densor.compress_file(source, archive)
    ran = cli("report", str(archive), "-o", str(tmp_path / "a.html"))
    assert ran.code == 0, ran.err
    (row,) = _data((tmp_path / "a.html").read_text())["tensors"]
    assert row["original"] == (0 if kind == "nothing" else 1050)


def test_many_tensors_are_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from densor.cli.contents import opened

    monkeypatch.setattr(archive_page, "MAX_ROWS", 3)
    path = str(_archive(tmp_path / "a.densor"))
    with opened(path) as file:
        data = _data(archive_page.page(file, "a", "none", path))
    assert len(data["tensors"]) == 3 and "smallest tensors are not listed" in data["about"]


def _pixels(url: str) -> tuple[int, int, int, bytes]:
    """Width, height, colour type and rows of a PNG file, each after the number of its filter."""
    file = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    assert file.startswith(b"\x89PNG\r\n\x1a\n")
    at, found = 8, {}
    while at < len(file):
        size, kind = struct.unpack_from(">I4s", file, at)
        body = file[at + 8 : at + 8 + size]
        assert int.from_bytes(file[at + 8 + size : at + 12 + size], "big") == zlib.crc32(
            kind + body
        )
        found[kind] = body
        at += 12 + size
    width, height, depth, colours = struct.unpack_from(">IIBB", found[b"IHDR"])
    assert depth == 8 and (colours != 3 or len(found[b"PLTE"]) == 768)
    return width, height, colours, zlib.decompress(found[b"IDAT"])


def test_images_are_shown_with_their_errors_and_bits(
    cli: Callable[..., Ran], tmp_path: Path
) -> None:
    y, x = np.mgrid[:90, :120]
    noise = np.random.default_rng(0).integers(0, 40, (90, 120, 3))
    picture = ((x + y)[..., None] // 2 + noise * (x > 60)[..., None]).astype(np.uint8)
    deep = (9 * x + 5 * y + picture[..., 0]).astype(np.uint16)[None].repeat(2, 0)
    path = tmp_path / "a.densor"
    with densor.Writer(path, level=1) as writer:
        writer.add_tensor("picture", picture)
        writer.add_tensor("deep", deep)
    assert cli("report", str(path), "-o", str(tmp_path / "a.html")).code == 0
    shown = {p["name"]: p for p in _data((tmp_path / "a.html").read_text())["pictures"]}
    assert set(shown) == {"picture", "deep"}
    for name, colours in (("picture", 2), ("deep", 0)):
        image, errors, bits = (_pixels(figure["source"]) for figure in shown[name]["figures"])
        assert image[:3] == (120, 90, colours) and errors[:3] == bits[:3] == (120, 90, 3)
        rows = np.frombuffer(bits[3], np.uint8).reshape(90, 121)
        assert rows[:, 70:].mean() > 5 * max(rows[:, 1:60].mean(), 1)  # where the noise is
    rows = np.frombuffer(_pixels(shown["picture"]["figures"][0]["source"])[3], np.uint8)
    assert np.array_equal(rows.reshape(90, 361)[:, 1:].reshape(90, 120, 3), picture)
    stored = 8 * len(densor.compress(picture, 1)) / (90 * 120)
    assert 0.75 * stored < shown["picture"]["mean"] < 1.02 * stored


def test_tensors_whose_base_is_elsewhere_are_listed(
    cli: Callable[..., Ran], tmp_path: Path
) -> None:
    old, new = _checkpoints(tmp_path)
    for archive in (old, new):
        densor.decompress_file(archive, archive.with_suffix(".safetensors"))
    step = tmp_path / "step.densor"
    base = old.with_suffix(".safetensors")
    densor.compress_file(new.with_suffix(".safetensors"), step, base=base)
    ran = cli("report", str(step), "-o", str(tmp_path / "a.html"))
    assert ran.code == 0, ran.err
    data = _data((tmp_path / "a.html").read_text())
    assert len(data["tensors"]) == 4 and not data["histograms"]


@pytest.fixture
def of_files(tmp_path: Path) -> Path:
    """An archive of a table, a text and something that is neither."""
    folder = tmp_path / "files"
    folder.mkdir()
    rows = "".join(f"{i},{i * i % 7},{'odd' if i % 2 else 'even'}\n" for i in range(3000))
    (folder / "rows.csv").write_text("number,<b>square</b>,kind\n" + rows)
    (folder / "a.txt").write_text("Grüße <b>und</b> Küsse, Grüße <b>und</b> Küsse; x")
    (folder / "noise").write_bytes(np.random.default_rng(0).bytes(900))
    densor.pack([folder], tmp_path / "files.densor")
    return tmp_path / "files.densor"


def test_texts_and_tables_are_shown(
    cli: Callable[..., Ran], of_files: Path, tmp_path: Path
) -> None:
    assert cli("report", str(of_files), "-o", str(tmp_path / "a.html")).code == 0
    table, text = _data((tmp_path / "a.html").read_text())["views"]
    assert table["title"].endswith("rows.csv") and text["title"].endswith("a.txt")
    assert [row["name"] for row in table["rows"]] == ["number", "<b>square</b>", "kind"]
    with densor.open(of_files) as file:
        (entry,) = [e for e in file.archive.entries if e.meta.name.endswith(".csv")]
        stored = file.archive.stored_size(entry, 0, entry.size)
    assert 0 < sum(row["stored"] for row in table["rows"]) <= stored
    words = "Grüße <b>und</b> Küsse, Grüße <b>und</b> Küsse; x"
    assert "".join(shown for _, shown in text["spans"]) == words
    shades = [step for step, shown in text["spans"] for _ in shown]
    assert sum(shades[:20]) > 2 * sum(shades[24:44])  # what comes again surprises less


def test_files_are_kept(cli: Callable[..., Ran], tmp_path: Path) -> None:
    path = _archive(tmp_path / "a.densor", 1)
    page = tmp_path / "a.html"
    page.write_text("mine")
    ran = cli("report", str(path), "-o", str(page))
    assert ran.code == 1 and page.read_text() == "mine"
    path.write_bytes(path.read_bytes()[:-9])
    ran = cli("report", "-f", str(path), "-o", str(page))
    assert ran.code == 1 and page.read_text() == "mine"


def _checkpoints(folder: Path) -> tuple[Path, Path]:
    """Two files of tensors: one unchanged, one with a row changed, one only in the second."""
    old = {f"layers.{i}.up": np.full((8, 64), i, np.float32) for i in range(3)}
    new = {name: each.copy() for name, each in old.items()} | {HOSTILE: np.ones(5, np.float32)}
    new["layers.1.up"][2] *= np.float32(1.5)
    densor.save_file(old, folder / "old.densor")
    densor.save_file(new, folder / "new.densor")
    return folder / "old.densor", folder / "new.densor"


def test_a_page_of_differences(cli: Callable[..., Ran], tmp_path: Path) -> None:
    old, new = map(str, _checkpoints(tmp_path))
    page = tmp_path / "d.html"
    ran = cli("diff", old, new, "--html", str(page))
    assert ran.code == 0, ran.err
    data = _data(page.read_text())
    rows = {row["name"]: row for row in data["tensors"]}
    assert rows["layers.1.up"]["changed"] == 64 and rows["layers.1.up"]["numbers"] == 512
    assert rows["layers.0.up"]["changed"] == 0
    assert rows[HOSTILE]["numbers"] is None and rows[HOSTILE]["note"] == "only in B"
    assert ["3", "tensors compared"] in data["facts"]
    ran = cli("diff", old, new, "--html", str(page))
    assert ran.code == 1 and "exists" in ran.err
    assert cli("diff", old, new, "--html", str(page), "-f").code == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser without a window."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_in_a_browser(
    browser: Any, width: int, scheme: str, cli: Callable[..., Ran], tmp_path: Path
) -> None:
    path = _archive(tmp_path / "a.densor", 40)
    assert cli("report", str(path), "-o", str(tmp_path / "a.html")).code == 0
    size = {"width": width, "height": 900}
    page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "a.html").as_uri())
    rows = page.locator("#tensors tbody tr")
    assert rows.count() == 44 and page.title().startswith("a.densor")
    page.fill("#filter", "layers f32")
    assert rows.count() == 40
    page.click("#tensors th button >> text=name")
    assert page.locator("#tensors tbody td").first.inner_text() == "layers.0.up"
    page.click("#tensors th button >> text=name")
    assert page.locator("#tensors tbody td").first.inner_text() == "layers.9.up"
    page.locator("#map rect[tabindex]").first.click(position={"x": 4, "y": 4})
    assert "layers" in page.locator("#path").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not said and page.locator("img").count() == 0


@pytest.mark.parametrize("width", [400, 1600])
def test_differences_in_a_browser(
    browser: Any, width: int, cli: Callable[..., Ran], tmp_path: Path
) -> None:
    old, new = map(str, _checkpoints(tmp_path))
    assert cli("diff", old, new, "--html", str(tmp_path / "d.html")).code == 0
    page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "d.html").as_uri())
    rows = page.locator("#tensors tbody tr")
    assert rows.count() == 4
    assert "layers.1.up" in rows.first.inner_text() and "12.50 %" in rows.first.inner_text()
    assert not page.locator("#coded").is_visible() and not page.locator("#numbers").is_visible()
    page.fill("#filter", "only")
    assert rows.count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not said and page.locator("img").count() == 0


@pytest.mark.parametrize("width", [400, 1600])
def test_texts_and_tables_in_a_browser(
    browser: Any, width: int, cli: Callable[..., Ran], of_files: Path, tmp_path: Path
) -> None:
    assert cli("report", str(of_files), "-o", str(tmp_path / "a.html")).code == 0
    page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "a.html").as_uri())
    views = page.locator("#views section")
    assert views.count() == 2
    views.nth(0).locator("th button >> text=column").click()
    assert views.nth(0).locator("tbody td").first.inner_text() == "<b>square</b>"
    assert views.nth(1).locator(".shades").inner_text().startswith("Grüße <b>und</b>")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not said and page.locator("#views b").count() == 0
