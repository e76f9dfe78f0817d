"""OpenZL: a graph of nodes per dtype, chosen here from those that the library offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openzl import ext as zl

from densor.compare.codec import Codec, Item


def build(dtype: str, entropy: Any) -> Any:
    """Exponents (FP16: both bytes; FP8: the byte) to the entropy coder; other planes likewise
    where that pays: in FP32, not in BF16."""
    compressor = zl.Compressor()
    compressor.set_parameter(zl.CParam.FormatVersion, zl.MAX_FORMAT_VERSION)
    lanes = zl.nodes.TransposeSplit()
    if dtype == "BF16":
        graph = zl.nodes.BFloat16Deconstruct()(compressor, zl.graphs.Store(), entropy)
    elif dtype == "F32":
        rest = lanes(compressor, entropy)
        graph = zl.nodes.Float32Deconstruct()(compressor, rest, entropy)
    elif dtype == "F16":
        rest = lanes(compressor, entropy)
        graph = zl.nodes.ConvertNumToStructLE()(compressor, rest)
    else:
        graph = zl.nodes.ConvertNumToSerialLE()(compressor, entropy)
    compressor.select_starting_graph(graph)
    return compressor


class Openzl(Codec):
    """``entropy`` names the library's graph for coded planes: Entropy or Fse; one thread."""

    package = "openzl"
    dtypes = dict.fromkeys(("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "U8", "I8"), None)

    def __init__(self, name: str, entropy: str) -> None:
        super().__init__(name)
        coder = getattr(zl.graphs, entropy)()
        self.graphs = {dtype: build(dtype, coder) for dtype in self.dtypes}

    def native(self, tensor: Item) -> Any:
        return self.graphs[tensor.dtype], tensor.words()

    def compress(self, prepared: Any, threads: int) -> Any:
        context = zl.CCtx()
        blobs = []
        for graph, words in prepared:
            context.ref_compressor(graph)
            blobs.append(context.compress([zl.Input(zl.Type.Numeric, words)]))
        return blobs

    def decompress(self, state: Any, threads: int) -> Sequence[Any]:
        context = zl.DCtx()
        return [context.decompress(blob)[0].content.as_nparray() for blob in state]
