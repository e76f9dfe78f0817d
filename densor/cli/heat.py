"""A page that shows how surprising each character of a text is."""

import codecs
import html
from collections.abc import Iterator, Sequence

_STEPS = (0.1, 0.5, 1, 2, 3, 4, 6, 8, 12)  # bits from which a character is one shade darker
_STYLE = """body{font:15px/1.5 ui-monospace,monospace;margin:2em;white-space:pre-wrap;
overflow-wrap:anywhere;background:#fff;color:#111}
h1{font:600 18px sans-serif}p{font:14px sans-serif}
"""


def page(name: str, data: bytes, surprise: Sequence[float], summary: str) -> str:
    """HTML of `data` with a background by bits; `surprise`: bits per byte, as many as bytes."""
    shades = "".join(
        f".s{i}{{background:rgba(220,60,0,{i / 11:.2f})}}\n" for i in range(1, len(_STEPS) + 1)
    )
    legend = "".join(f'<span class="s{i}"> {step:g} </span>' for i, step in enumerate((0, *_STEPS)))
    title = html.escape(name)
    body = "".join(_runs(data, surprise))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}{shades}</style><h1>{title}</h1><p>{html.escape(summary)}</p>"
        f"<p>bits per character, from: {legend}</p>{body}</html>\n"
    )


def _runs(data: bytes, surprise: Sequence[float]) -> Iterator[str]:
    """Spans of characters of one shade."""
    shade, run = -1, ""
    for text, bits in _characters(data, surprise):
        now = sum(bits >= step for step in _STEPS)
        if now != shade and run:
            yield f'<span class="s{shade}">{run}</span>'
            run = ""
        shade = now
        run += html.escape(text)
    if run:
        yield f'<span class="s{shade}">{run}</span>'


def _characters(data: bytes, surprise: Sequence[float]) -> Iterator[tuple[str, float]]:
    """Characters of UTF-8 and their bits; what is none, and controls, as escapes."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    bits = 0.0
    for i, byte in enumerate(data):
        bits += surprise[i]
        text = decoder.decode(bytes([byte]), i + 1 == len(data))
        if text:
            yield "".join(_visible(c) for c in text), bits
            bits = 0.0


def _visible(c: str) -> str:
    return c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode()
