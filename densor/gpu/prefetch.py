"""Blocks decoded one after the other, each while the one before is in use."""

from collections.abc import Sequence
from typing import Any

from densor.gpu.backend import Backend
from densor.gpu.block import Block


class Prefetch:
    """Decodes blocks in turns to two sets of memory, on a stream of its own.

    For a model whose blocks are used in order, again and again: `get` hands out the tensors of a
    block and starts decoding the next one. What was handed out for the block before the last is
    overwritten then: all work on it must have been started before, on the current stream.

    `blocks` share scratch memory, if any, and are used by this object alone. Memory for the two
    largest is allocated here, once.
    """

    def __init__(self, blocks: Sequence[Block], backend: Backend) -> None:
        if not blocks:
            raise ValueError("there is nothing to decode")
        self._blocks = list(blocks)
        self._lane = backend.lane()
        sizes = [[content.size for content in block.contents] for block in blocks]
        most = max(len(of_block) for of_block in sizes)
        largest = [max(s[i] for s in sizes if i < len(s)) for i in range(most)]
        self._memory = [[backend.new("U8", (size,)) for size in largest] for _ in range(2)]
        self._views: list[list[dict[str, Any]]] = [
            [self._view(block, side, backend) for block in blocks] for side in range(2)
        ]
        self._wrapped = [[backend.wrap(array) for array in side] for side in self._memory]
        self._side = 0  # where the block that is being decoded goes
        self._next: int | None = None  # number of that block

    def _view(self, block: Block, side: int, backend: Backend) -> dict[str, Any]:
        return {
            place.name: backend.view(whole, place.skip, place.dtype, place.shape)
            for whole, content in zip(self._memory[side], block.contents, strict=False)
            for place in content.tensors
        }

    def get(self, number: int) -> dict[str, Any]:
        """The tensors of a block by name, valid until `get` was called twice more."""
        if self._next != number:
            self._start(number)
        self._lane.join()
        found = self._views[self._side][number]
        self._side ^= 1
        self._start((number + 1) % len(self._blocks))
        return found

    def _start(self, number: int) -> None:
        block = self._blocks[number]
        with self._lane.work():
            block.bind(self._wrapped[self._side][: len(block.contents)])
            block.launch()
        self._next = number

    def check(self) -> None:
        """Waits for all that was started; ChecksumError where stored bits turned out damaged."""
        self._lane.join()
        for block in self._blocks:
            block.check()
