"""The codecs of the benchmark, by name. An adapter is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from bench.codecs.base import Codec

REGISTRY: dict[str, tuple[str, str, dict[str, object]]] = {
    "memcpy": ("memcpy", "Memcpy", {}),
    "zstd-1": ("zstd", "Zstd", {"level": 1}),
    "zstd-3": ("zstd", "Zstd", {"level": 3}),
    "zstd-19": ("zstd", "Zstd", {"level": 19}),
    "lz4": ("lz4", "Lz4", {}),
    "blosc2": ("blosc2", "Blosc2", {}),
    "zipnn": ("zipnn", "Zipnn", {}),
    "pcodec": ("pcodec", "Pcodec", {}),
    "openzl": ("openzl", "Openzl", {"entropy": "Entropy"}),
    "openzl-fse": ("openzl", "Openzl", {"entropy": "Fse"}),
    "lmzip": ("lmzip", "Lmzip", {}),
    "glyd": ("glyd", "Glyd", {}),
    "z4ai": ("z4ai", "Z4ai", {}),
    "densor-1": ("densor", "Densor", {"level": 1, "reuse": False}),
    "densor-3": ("densor", "Densor", {"level": 3, "reuse": False}),
    "densor-6": ("densor", "Densor", {"level": 6, "reuse": False}),
    "densor-9": ("densor", "Densor", {"level": 9, "reuse": False}),
    "densor-1-reuse": ("densor", "Densor", {"level": 1, "reuse": True}),
    "densor-3-reuse": ("densor", "Densor", {"level": 3, "reuse": True}),
    "densor-6-reuse": ("densor", "Densor", {"level": 6, "reuse": True}),
}
"""Name: module in this package, class, arguments of its constructor after the name."""


def load_codecs(names: Iterable[str]) -> tuple[list[Codec], dict[str, str]]:
    """The codecs asked for, and for each that cannot be had the reason why."""
    codecs: list[Codec] = []
    absent: dict[str, str] = {}
    for name in names:
        module, cls, options = REGISTRY[name]
        try:
            codec: Codec = getattr(import_module(f"bench.codecs.{module}"), cls)(name, **options)
            codec.version()
        except Exception as error:  # a peer may fail to load in any way it likes
            absent[name] = f"{type(error).__name__}: {error}"
        else:
            codecs.append(codec)
    return codecs, absent
