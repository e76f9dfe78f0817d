"""The decoding side of blocks: decodes every field, then puts the blocks together."""

from densor.codec import registry
from densor.codec.batch import Bytes
from densor.codec.blocks.block import MAX_FIELDS, columns, items
from densor.codec.blocks.joined import Joined, check, put_symbols
from densor.codec.blocks.order import MAX_SORTED, Order, earlier, restore
from densor.codec.blocks.payload import FIELD, HEAD, JOINED
from densor.codec.interfaces import ChunkDecoder
from densor.codec.parts import PartDecoder, split_parts, take_model
from densor.errors import FormatError, LimitError, UnsupportedError
from densor.runtime.buffers import POOL

_ORDERS = {
    *(registry.ORDER_BLOCKS, registry.ORDER_COLUMNS, registry.ORDER_FIELD, registry.ORDER_RATIO),
    *(registry.ORDER_JOINED, registry.ORDER_ELSEWHERE),
}


class BlocksDecoder(ChunkDecoder):
    """Decodes the chunks of one model. Safe to use from several threads at once.

    `payload`: of the MODEL frame; FormatError or UnsupportedError for a bad one.
    """

    def __init__(self, payload: bytes) -> None:
        if len(payload) < HEAD.size:
            raise FormatError("model is too short")
        _, count = HEAD.unpack_from(payload)
        if not 1 <= count <= MAX_FIELDS:
            raise FormatError(f"blocks have {count} fields, not 1 to {MAX_FIELDS}")
        self._sizes: list[int] = []
        self._orders: list[Order] = []
        self._joined: dict[int, Joined] = {}
        self._parts: list[PartDecoder] = []
        at = HEAD.size
        for _ in range(count):
            if len(payload) < at + FIELD.size:
                raise FormatError("model is too short")
            size, *order = FIELD.unpack_from(payload, at)
            self._orders.append(_checked(Order(*order), size, self._before()))
            at += FIELD.size
            if self._orders[-1].kind == registry.ORDER_JOINED:
                if len(payload) < at + JOINED.size:
                    raise FormatError("model is too short")
                self._joined[len(self._sizes)] = Joined(*JOINED.unpack_from(payload, at))
                at += JOINED.size
            model, at = take_model(payload, at)
            self._sizes.append(size)
            self._parts.append(PartDecoder(model))
        if at != len(payload):
            raise FormatError("model is too long")
        self._check_joined()
        self.weight = count

    def _before(self) -> list[int]:
        """Sizes of the fields so far; 0 for those that are put back after all others."""
        return [
            0 if order.kind >= registry.ORDER_JOINED else size
            for size, order in zip(self._sizes, self._orders, strict=True)
        ]

    def _check_joined(self) -> None:
        """FormatError unless the joined fields, and those that are elsewhere, fit together."""
        orders = [order.kind for order in self._orders]
        for number, joined in self._joined.items():
            check(joined, number, self._sizes, orders)
        found = sorted(joined.high for joined in self._joined.values() if joined.high_bits)
        elsewhere = [i for i, kind in enumerate(orders) if kind == registry.ORDER_ELSEWHERE]
        if found != elsewhere:
            raise FormatError("field of high bits is not that of one joined field")

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        blocks, rest = divmod(out.size, sum(self._sizes))
        if rest:
            raise FormatError("chunk does not hold whole blocks")
        stored = split_parts(payload, 0, len(self._parts))
        targets = columns(out, self._sizes)
        fields: list[Bytes] = []
        for i, (mode, data) in enumerate(stored):
            size, kind = self._sizes[i], self._orders[i].kind
            if kind == registry.ORDER_ELSEWHERE:
                size = 0
            elif kind == registry.ORDER_JOINED:
                size = self._joined[i].symbols(size)
            fields.append(self._field(i, mode, data, fields, blocks * size))
            if kind < registry.ORDER_JOINED:
                targets[i][:] = items(fields[i], size)
        for i, joined in self._joined.items():
            put_symbols(fields[i], joined, i, self._sizes, fields, out)
        for field in fields:
            POOL.give(field)

    def _field(self, i: int, mode: int, data: Bytes, before: list[Bytes], total: int) -> Bytes:
        """A field's bytes, block after block; pooled."""
        order, size = self._orders[i], self._sizes[i]
        coded = POOL.take(total)
        self._parts[i].decode(mode, data, coded)
        if order.kind in (registry.ORDER_BLOCKS, registry.ORDER_JOINED, registry.ORDER_ELSEWHERE):
            return coded
        if order.kind == registry.ORDER_COLUMNS and total % (order.width * order.columns):
            raise FormatError("chunk does not hold whole rows of a field")
        if earlier(order.kind) and total > size * MAX_SORTED:
            raise LimitError(f"chunk has more than {MAX_SORTED} blocks to sort")
        field = POOL.take(total)
        restore(coded, size, order, before, field)
        POOL.give(coded)
        return field


def open_decoder(payload: bytes, _: object = None) -> BlocksDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
    return BlocksDecoder(payload)


def _checked(order: Order, size: int, before: list[int]) -> Order:
    """The order of a field of `size` bytes per block behind others, if it is possible."""
    if not size:
        raise FormatError("field of a block is empty")
    if order.kind not in _ORDERS:
        raise UnsupportedError(f"unknown order {order.kind}; a newer densor may read this")
    needed = earlier(order.kind)
    if len(before) < needed or any(size != 2 for size in before[len(before) - needed :]):
        raise FormatError("order of a field lacks the fields that it depends on")
    if order.kind == registry.ORDER_COLUMNS:
        if order.width not in (1, 2, 4, 8) or size % order.width or not order.columns:
            raise FormatError("order of a field has impossible columns")
    elif order.width or order.columns:
        raise FormatError("order of a field has columns")
    return order
