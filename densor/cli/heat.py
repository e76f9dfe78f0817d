"""A page that shows how surprising each character or token of a text is."""

import codecs
import html
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from densor.codec.language_model.meter import Cost

CHARACTER = (0.1, 0.5, 1, 2, 3, 4, 6, 8, 12)  # bits from which a character is one shade darker
_TOKEN = (0.5, 1, 2, 3, 5, 7, 10, 13, 16)
_STYLE = """body{font:15px/1.5 ui-monospace,monospace;margin:2em;white-space:pre-wrap;
overflow-wrap:anywhere;background:#fff;color:#111}
h1{font:600 18px sans-serif}p{font:14px sans-serif}
i::before{content:"\\21b5";opacity:.4}
"""


class _Spot(NamedTuple):
    """A stretch of text of one background."""

    text: str  # as HTML
    bits: float
    told: str = ""  # when the pointer is on it


def page(name: str, data: bytes, surprise: Sequence[float], summary: str) -> str:
    """HTML of `data` with a background by bits; `surprise`: bits per byte, as many as bytes."""
    spots = (_Spot(html.escape(text), bits) for text, bits in _runs(data, surprise))
    return _page(name, [summary], "character", CHARACTER, spots)


def shaded(data: bytes, surprise: Sequence[float]) -> Iterator[tuple[int, str]]:
    """The text as stretches of one shade: how many steps of `CHARACTER` are reached."""
    for text, bits in _runs(data, surprise):
        yield _shade(bits, CHARACTER), text


def token_page(name: str, costs: Iterable["Cost"], summary: Sequence[str]) -> str:
    """HTML of a text by its tokens, which tell their bits; `summary`: lines above it."""
    return _page(name, summary, "token", _TOKEN, _tokens(costs))


def _page(
    name: str, summary: Sequence[str], unit: str, steps: Sequence[float], spots: Iterable[_Spot]
) -> str:
    shades = "".join(
        f".s{i}{{background:rgba(220,60,0,{i / 11:.2f})}}\n" for i in range(1, len(steps) + 1)
    )
    legend = "".join(f'<span class="s{i}"> {step:g} </span>' for i, step in enumerate((0, *steps)))
    title = html.escape("".join(map(_visible, name)))
    above = "".join(f"<p>{html.escape(line)}</p>" for line in summary)
    body = "".join(_span(spot, steps) for spot in spots)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}{shades}</style><h1>{title}</h1>{above}"
        f"<p>bits per {unit}, from: {legend}</p>{body}</html>\n"
    )


def _span(spot: _Spot, steps: Sequence[float]) -> str:
    told = f' title="{html.escape(spot.told)}"' if spot.told else ""
    return f'<span class="s{_shade(spot.bits, steps)}"{told}>{spot.text}</span>'


def _shade(bits: float, steps: Sequence[float]) -> int:
    return sum(bits >= step for step in steps)


def _runs(data: bytes, surprise: Sequence[float]) -> Iterator[tuple[str, float]]:
    """Characters of one shade, taken together, and the bits of the first."""
    alike = itertools.groupby(_characters(data, surprise), lambda c: _shade(c[1], CHARACTER))
    for _, run in alike:
        text, bits = zip(*run, strict=True)
        yield "".join(text), bits[0]


def _characters(data: bytes, surprise: Sequence[float]) -> Iterator[tuple[str, float]]:
    """Characters of UTF-8 and their bits; what is none, and controls, as escapes."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    bits = 0.0
    for i, byte in enumerate(data):
        bits += surprise[i]
        text = decoder.decode(bytes([byte]), i + 1 == len(data))
        if text:
            yield "".join(map(_visible, text)), bits
            bits = 0.0


def _tokens(costs: Iterable["Cost"]) -> Iterator[_Spot]:
    """Each token; those that share a character are taken together."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    bits, told = 0.0, list[str]()
    for cost in costs:
        text = decoder.decode(cost.text)
        bits += cost.bits
        told.append(_told(cost))
        if text:
            yield _Spot(_marked(text), bits, " + ".join(told))
            bits, told = 0.0, []
    rest = decoder.decode(b"", True)
    if rest:
        yield _Spot(_marked(rest), bits, " + ".join(told))


def _told(cost: "Cost") -> str:
    text = "".join(map(_escaped, cost.text.decode("utf-8", "backslashreplace")))
    alone = "no token" if cost.alone is None else f"model alone {cost.alone:.2f}"
    return f"“{text}” {cost.bits:.2f} bits, {alone}"


def _marked(text: str) -> str:
    """Text as HTML, with a mark where a line ends, whose shade could not be seen."""
    return html.escape("".join(map(_visible, text))).replace("\n", "<i></i>\n")


def _visible(c: str) -> str:
    return "\u240d" if c == "\r" else c if c in "\n\t" else _escaped(c)


def _escaped(c: str) -> str:
    return c if c.isprintable() else c.encode("unicode_escape").decode()
