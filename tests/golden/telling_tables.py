"""Chunks of small tables for `make_telling.py`, and these with bytes changed, checks made anew."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from random import Random

import numpy as np
from arrow_files import flights, stream, table_in
from codec_cases import CodecCase
from record_arrays import layout_of_records, npy, records
from tables import RECORDS, blocks, broken, fixed_width, json_lines, resealed, table

from densor.codec.levels import level_settings
from densor.codec.table.encoder import TableCoder
from densor.codec.table.layout import Layout
from densor.errors import DensorError
from densor.formats.parsers.csv import layout_of
from densor.formats.parsers.tabular import layout_in

Made = Iterator[CodecCase]


def small_tables() -> Made:
    """Tables of all kinds, some rows of each, at levels that code their symbols in other ways."""
    texts = {
        "plain": table(14),
        "broken": broken(table(24), 5),
        "crlf": table(9, "\t", "\r\n"),
        "lines": json_lines(9),
        "widths": fixed_width(12),
        "quoted": RECORDS["quoted ends"][:60],
        "one": b"a,b\n" * 30 + b"b,a\n",
        "missing": b",,\n" * 20 + b"1,,\n",
        "clocks": b"".join(b"%d,%d\n" % (i * 37 % 24 * 100 + i % 60, i) for i in range(30)),
    }
    for name in ("numbers", "times", "words"):
        texts[name] = b"\n".join(RECORDS[name].split(b"\n")[:18]) + b"\n"
    for name, text in texts.items():
        layout = layout_of(text.split(b"\n")) or layout_in(text, True)
        if layout is not None:
            for level in (3, 5, 9):
                yield from _coded(f"{name}-{level}", text, layout, level)
    text = blocks(90, 4)
    layout = layout_of(text.split(b"\n"))
    assert layout is not None
    yield from _coded("latents", text, layout, 5, True)
    array = records(14)
    for level in (3, 5):
        layout = layout_of_records(npy(array))
        yield from _coded(f"records-{level}", array.tobytes(), layout, level)
        data, layout = table_in(stream(*flights(10, 2)))
        yield from _coded(f"arrays-{level}", data.tobytes(), layout, level)


def _coded(name: str, text: bytes, layout: Layout, level: int, latents: bool = False) -> Made:
    settings = replace(level_settings(level), latents=latents)
    data = np.frombuffer(text, np.uint8)
    coder = TableCoder(layout, settings)
    coder.settle(data)
    payload = bytes(coder.encode(data, 0))
    if payload != text and len(payload) <= len(text):
        yield CodecCase(f"telling-table-{name}", coder.model(), payload, len(text))


def changed_tables(rng: Random) -> Made:
    """All of them, and with any byte changed."""
    for case in small_tables():
        yield case
        for place in range(len(case.model)):
            for value in _others(case.model[place], rng):
                model = case.model[:place] + bytes([value]) + case.model[place + 1 :]
                yield replace(case, name=f"{case.name}-model-{place}-{value}", model=model)
        for change in (-1, 1, 40):
            yield replace(case, name=f"{case.name}-size-{change}", size=case.size + change)
        yield replace(case, name=f"{case.name}-behind", payload=case.payload + b"\0")
        yield replace(case, name=f"{case.name}-cut", payload=case.payload[:-1])
        for place in range(len(case.payload)):
            for value in _others(case.payload[place], rng):
                payload = case.payload[:place] + bytes([value]) + case.payload[place + 1 :]
                yield replace(case, name=f"{case.name}-at-{place}-{value}", payload=payload)
        with suppress(DensorError):
            for place in range(len(case.payload)):
                for value in (1, rng.choice((2, 3, 64, 128, 255))):
                    arguments = case.model, case.payload, case.size
                    payload = resealed(*arguments, place, value)
                    name = f"{case.name}-sealed-{place}-{value}"
                    yield replace(case, name=name, payload=payload)


def _others(value: int, rng: Random) -> set[int]:
    near = (value + 1) % 256, (value - 1) % 256
    return {rng.choice(near), rng.choice((0, 1, 127, 128, 255))} - {value}
