"""A slow decoder of the language-model codec, after docs/format/language_model.md.

The network is that of `reference.network`; its weights come from the package.
"""

import bisect
import decimal
import functools
import struct
from collections import defaultdict
from decimal import Decimal
from typing import Any

import xxhash

from reference.arithmetic import SQUASH, STRETCH, Arithmetic, clip
from reference.byte_cm import Decoder, Node, Row
from reference.network import Head, Reference
from reference.reading import fail

_HEADER = struct.Struct("<BBHIIIB16s16sB")
_SEGMENT = struct.Struct("<BIQ")
_FORM = struct.Struct("<BIIQ")
_TOKENS = struct.Struct("<QII")
_ZEROS = 400


def share(part: int, whole: int) -> int:
    return clip((part << 16) // whole, 1, 65535) if whole else 32768


with decimal.localcontext() as context:
    context.prec = 50
    LOGISTIC = [
        int((65536 / (1 + (Decimal(4096 - i) / 256).exp())).to_integral_value())
        for i in range(8193)
    ]


def logistic(x: int) -> int:
    return LOGISTIC[clip(x, -4096, 4096) + 4096]


@functools.cache
def logit(p: int) -> int:
    if p < 32768:
        return -logit(65536 - p)
    return bisect.bisect_left(LOGISTIC, p) - 4096


class Mixed(Decoder):
    """The text codec's model with the network's opinion beside its own."""

    def __init__(self, model: bytes, stream: bytes, size: int) -> None:
        super().__init__(model, stream, size)
        first = [weight // 8 for weight in self.weights[0][0]] + [60000, 0]
        for table in self.weights:
            table.default_factory = lambda: list(first)
            table.clear()
        self.text.data = bytearray(_ZEROS)
        self.text.line = self.text.line1 = _ZEROS
        self.likely = 32768
        row = [SQUASH[(4096 * i + 15) // 31] for i in range(31)] + [SQUASH[4095]]
        self.ends = [list(row) for _ in range(256)]
        self.judges: list[defaultdict[int, list[int]]] = [
            defaultdict(lambda: [32768, 0, 32768, 0]) for _ in range(4)
        ]

    def inputs(self, states: list[int], order1: tuple[int, int], expected_bit: int) -> list[int]:
        opinion = clip(logit(self.likely), -2047, 2047)
        return [*super().inputs(states, order1, expected_bit), opinion, (self.likely - 32768) >> 5]

    def rows_at_hand(self, seen: int, partial: int, place: int) -> list[Row]:
        rows = super().rows_at_hand(seen, partial, place)
        bucket = self.match.bucket or 0
        opinion = clip(logit(self.likely), -2047, 2047)
        rows[1] = ((opinion + 2048) >> 8) * 16 + min(bucket >> 1, 15)
        return rows

    def settled(self, p: int, z: int, partial: int) -> int:
        self.said = [logit(self.likely), z, logit(clip(p, 1, 65535)), 77]
        rows = (
            self.match.bucket or 0,
            (self.said[0] + 4096) >> 6,
            partial,
            self.text.last & 255,
        )
        self.sitting = [judge[row] for judge, row in zip(self.judges, rows, strict=True)]
        self.sums = [
            sum(w * v for w, v in zip(weights, self.said, strict=True)) for weights in self.sitting
        ]
        return clip(logistic(sum(self.sums) >> 18), 4, 65532)

    def learn(self, y: int, *rest: Any) -> None:
        super().learn(y, *rest)
        for weights, total in zip(self.sitting, self.sums, strict=True):
            error = (y << 16) - logistic(total >> 16)
            for i, value in enumerate(self.said):
                moved = weights[i] + ((value * error + 2**16) >> 17)
                weights[i] = clip(moved, -(2**20), 2**20)

    def steps(self) -> int:
        return max(4, 30 - ((len(self.text.data) - _ZEROS) >> 11))

    def ends_here(self, likely: int) -> int:
        row = self.ends[self.text.last & 255]
        u = (STRETCH[likely >> 4] + 2048) * 31
        i, f = u >> 12, u & 4095
        c = (row[i] * (4096 - f) + row[i + 1] * f) >> 12
        y = self.coder.bit(clip((likely + 3 * c + 2) >> 2, 4, 65532))
        for cell in (i, i + 1):
            row[cell] += (65535 * y - row[cell]) >> 5
        return y

    def token(self, pieces: list[bytes], counts: list[int]) -> int:
        """The next token; -1 where a byte came that none begins with."""
        low, high, prefix = 0, len(pieces), b""
        while True:
            if prefix and pieces[low] == prefix:
                if high - low == 1:
                    return low
                if self.ends_here(share(counts[low + 1] - counts[low], counts[high] - counts[low])):
                    return low
                low += 1
            hashes = [self.text.hashes()[i] for i in self.chosen]
            partial = 1
            for place in range(8):
                if place in (0, 4):
                    slots = [self.histories.find(_mix(h, partial)) for h in hashes]
                    node: Node = ()
                least = prefix + bytes([((2 * partial + 1) << (7 - place)) & 255])
                border = next((t for t in range(low, high) if pieces[t] >= least), high)
                self.likely = share(counts[high] - counts[border], counts[high] - counts[low])
                bit = self.bit(slots, partial, node, place)
                low, high = (border, high) if bit else (low, border)
                partial, node = 2 * partial + bit, (*node, bit)
            self.text.take_in(partial & 255)
            self.match.go_on(self.text)
            if low == high:
                if prefix:
                    fail("no token")
                return -1
            prefix += bytes([partial & 255])


def _mix(value: int, salt: int) -> int:
    from reference.byte_cm import mix

    return mix(value, salt)


_BLANK = b"\t\n\r "


class _Marks:
    """Which spaces ended lines, by three sets of counters that are mixed."""

    def __init__(self, stream: bytes) -> None:
        self.coder = Arithmetic(stream)
        self.cells: defaultdict[tuple[int, ...], list[int]] = defaultdict(lambda: [6554, 0])
        self.weights = [22938] * 3
        self.reach = 0

    def next(self, column: int, word: int) -> int:
        until = column + word
        left = clip(self.reach - until, -20, 20)
        names = (
            (0, min(until, 255)),
            (1, min(column, 127), min(word, 15)),
            (2, left, min(column >> 3, 15)),
        )
        cells = [self.cells[name] for name in names]
        inputs = [STRETCH[cell[0] >> 4] for cell in cells]
        total = sum(w * x for w, x in zip(self.weights, inputs, strict=True))
        p = clip(SQUASH[clip(total >> 16, -2047, 2047) + 2048], 16, 65520)
        y = self.coder.bit(p)
        for k, (cell, x) in enumerate(zip(cells, inputs, strict=True)):
            moved = self.weights[k] + ((5 * x * ((y << 16) - p) + 2**15) >> 16)
            self.weights[k] = clip(moved, -(2**20), 2**20)
            cell[1] = min(cell[1] + 1, 60)
            step = 2 * ((y << 16) - cell[0]) // (2 * cell[1] + 3)
            cell[0] = clip(cell[0] + step, 32, 65504)
        if y:
            self.reach = max(self.reach - self.reach // 50, column)
        return y


def with_ends_of_lines(text: bytes, form: int, stream: bytes) -> bytes:
    """A chunk, of its text and the stream of which of its spaces ended lines."""
    found = bytearray(text)
    if form & 1:
        marks, line = _Marks(stream), 0
        for i in range(1, len(text) - 1):
            if text[i] == 10:
                line = i + 1
            elif text[i] == 32 and text[i - 1] not in _BLANK and text[i + 1] not in _BLANK:
                end = i + 1
                while end < min(len(text), i + 256) and text[end] not in _BLANK:
                    end += 1
                if marks.next(i - line, end - i - 1):
                    found[i], line = 10, i + 1
        assert marks.coder.at == len(stream)
    return bytes(found).replace(b"\n", b"\r\n") if form & 2 else bytes(found)


def decode(model: bytes, payload: bytes, size: int, network: Reference) -> bytes:
    """The bytes that a CHUNK payload of one segment of tokens stands for, or Fault."""
    if model[1] == 4:
        return _of_tokens(model, payload, size, network)
    if model[1] != 3:
        return _segment(model, payload, size, network)
    model = bytes([model[0], 2]) + model[2:]
    if not payload[0]:
        return _segment(model, payload[1:], size, network)
    form, length, marks, digest = _FORM.unpack_from(payload)
    begin = _FORM.size + marks
    text = _segment(model, payload[begin:], length, network)
    found = with_ends_of_lines(text, form, payload[_FORM.size : begin])
    assert len(found) == size and xxhash.xxh3_64_intdigest(found) == digest
    return found


def _of_tokens(model: bytes, payload: bytes, size: int, network: Reference) -> bytes:
    """A chunk of tokens instead of text, of one segment."""
    width = model[-1]
    digest, others, length = _TOKENS.unpack_from(payload)
    begin = _TOKENS.size + others
    numbers: list[int] = []
    more = 0
    for byte in payload[_TOKENS.size : begin]:
        if not more:
            numbers.append(0)
        numbers[-1] |= (byte & 127) << more
        more = more + 7 if byte > 127 else 0
    assert not more and len(numbers) % 2 == 0
    model = bytes([model[0], 2]) + model[2:-1]
    if length:
        text, ranks = _text(model, payload[begin:], length, network)
    else:
        text, ranks = payload[begin:], []
    found = network.model.vocabulary.numbers[ranks].tolist() if ranks else []
    place = -1
    for gap, token in zip(numbers[::2], numbers[1::2], strict=True):
        place += gap + 1
        found.insert(place, token)
    assert len(text) == length
    chunk = b"".join(token.to_bytes(width, "little") for token in found)
    assert len(chunk) == size and xxhash.xxh3_64_intdigest(chunk) == digest
    return chunk


def _segment(model: bytes, payload: bytes, size: int, network: Reference) -> bytes:
    mode, stored, digest64 = _SEGMENT.unpack_from(payload)
    assert (mode, stored) == (2, 0)
    found, _ = _text(model, payload[_SEGMENT.size :], size, network)
    assert xxhash.xxh3_64_intdigest(found) == digest64
    return found


def _text(model: bytes, stream: bytes, size: int, network: Reference) -> tuple[bytes, list[int]]:
    """A text of so many bytes, and the ranks of its tokens, -1 for bytes without one."""
    codec, numerics, slots, positions, stride, *more = _HEADER.unpack_from(model)
    rate, offset_rate, digest, words, length = more
    vocabulary = network.model.vocabulary
    assert (codec, numerics, slots) == (10, network.numerics, 1)
    assert digest == network.model.digest[:16] and words == vocabulary.digest[:16]
    decoder = Mixed(model[_HEADER.size + length :], stream, size)
    head = Head(network.model, rate, offset_rate)
    row = network.read(network.model.start)
    counts = head.counts(*row)
    tokens: list[int] = []
    all_tokens: list[int] = []
    while len(decoder.text.data) < _ZEROS + size:
        token = decoder.token(vocabulary.pieces, counts.tolist())
        all_tokens.append(token)
        if token < 0:
            continue
        tokens.append(token)
        head.learn(*row, counts, token)
        if network.place < positions:
            row = network.read(token)
        else:
            network = Reference(network.model, network.numerics)
            kept = positions - stride - 1
            for token in [network.model.start, *tokens[len(tokens) - kept :]]:
                row = network.read(token)
        counts = head.counts(*row)
    if decoder.coder.at != len(stream):
        fail("bytes after the stream")
    return bytes(decoder.text.data[_ZEROS:]), all_tokens
