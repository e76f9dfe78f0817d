"""The codecs of the benchmark, by name. An adapter is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from densor.compare.codec import Codec

Entry = tuple[str, str, dict[str, object]]

OURS, CLASSIC = "densor.compare.adapters", "bench.codecs.classic"

TENSORS: dict[str, Entry] = {
    "memcpy": (OURS, "Memcpy", {}),
    **{f"zstd-{level}": (OURS, "Zstd", {"level": level}) for level in (1, 3, 19)},
    "lz4": ("bench.codecs.lz4", "Lz4", {}),
    "blosc2": ("bench.codecs.blosc2", "Blosc2", {}),
    "zipnn": ("bench.codecs.zipnn", "Zipnn", {}),
    "pcodec": ("bench.codecs.pcodec", "Pcodec", {}),
    "openzl": ("bench.codecs.openzl", "Openzl", {"entropy": "Entropy"}),
    "openzl-fse": ("bench.codecs.openzl", "Openzl", {"entropy": "Fse"}),
    "lmzip": ("bench.codecs.lmzip", "Lmzip", {}),
    "glyd": ("bench.codecs.glyd", "Glyd", {}),
    "z4ai": ("bench.codecs.z4ai", "Z4ai", {}),
    **{
        f"densor-{level}": ("bench.codecs.densor", "Densor", {"level": level, "reuse": False})
        for level in (1, 3, 6, 9)
    },
    **{
        f"densor-{level}-reuse": ("bench.codecs.densor", "Densor", {"level": level, "reuse": True})
        for level in (1, 3, 6)
    },
}
"""Codecs of tensors. Name: module, class, arguments of its constructor after the name."""

FILES: dict[str, Entry] = {
    **{f"densor -{level}": (OURS, "DensorFiles", {"level": level}) for level in range(1, 10)},
    "zstd-19": TENSORS["zstd-19"],
    "xz -9": (CLASSIC, "Xz", {"extreme": False}),
    "zipnn": TENSORS["zipnn"],
    "lmzip": ("bench.codecs.lmzip", "LmzipFiles", {}),
    "glyd": TENSORS["glyd"],
    "z4ai": TENSORS["z4ai"],
    "gzip -9": (CLASSIC, "Gzip", {}),
    "bzip2 -9": (CLASSIC, "Bzip2", {}),
    "xz -9e": (CLASSIC, "Xz", {"extreme": True}),
    "zstd -22 --long": (OURS, "Zstd", {"level": 22, "long": True}),
    "brotli 11": (CLASSIC, "Brotli", {}),
    "ppmd H -o16": (CLASSIC, "Ppmd", {}),
    "kanzi 9": (CLASSIC, "Kanzi", {}),
    "lrzip -z": (CLASSIC, "Lrzip", {}),
    "zpaq -m5": (CLASSIC, "Zpaq", {}),
}
"""Codecs of whole files and of texts, likewise."""


def load_codecs(
    names: Iterable[str], registry: dict[str, Entry] = TENSORS
) -> tuple[list[Codec], dict[str, str]]:
    """The codecs asked for, and for each that cannot be had the reason why."""
    codecs: list[Codec] = []
    absent: dict[str, str] = {}
    for name in names:
        module, cls, options = registry[name]
        try:
            codec: Codec = getattr(import_module(module), cls)(name, **options)
            codec.version()
        except Exception as error:  # a peer may fail to load in any way it likes
            absent[name] = f"{type(error).__name__}: {error}"
        else:
            codecs.append(codec)
    return codecs, absent
