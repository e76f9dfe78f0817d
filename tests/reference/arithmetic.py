"""The binary arithmetic decoder and the tables that its models share.

After docs/format/arithmetic.md and docs/format/float_cm.md, section 3.
Real numbers of the tables come from `decimal`, everything else is Python's integers.
"""

import decimal
from decimal import Decimal


def clip(x: int, a: int, b: int) -> int:
    return min(max(x, a), b)


def rounded(x: Decimal) -> int:
    return int(x.to_integral_value(decimal.ROUND_HALF_UP))


def normal_distribution(x: Decimal) -> Decimal:
    """1/2 + phi(x) (x + x^3/3 + x^5/15 + ...)"""
    term = total = x
    n = 1
    while abs(term) > Decimal(10) ** -40:
        n += 2
        term *= x * x / n
        total += term
    pi = Decimal("3.14159265358979323846264338327950288419716939937511")
    return Decimal(1) / 2 + (-x * x / 2).exp() / (2 * pi).sqrt() * total


with decimal.localcontext() as context:
    context.prec = 50
    SQUASH = [rounded(65536 / (1 + (Decimal(2048 - i) / 256).exp())) for i in range(4096)]
    NORMAL = [rounded(2**30 * normal_distribution(Decimal(i - 256) / 32)) for i in range(513)]
    INVERSE = [int(2 ** (15 - Decimal(i) / 8)) for i in range(8)]
    LOG2 = [
        int(16 * (Decimal(256 + i) / 256).ln() / Decimal(2).ln() + Decimal("1e-30"))
        for i in range(256)
    ]
STRETCH = [
    clip(next((j for j in range(4096) if SQUASH[j] >= 16 * i + 8), 4096) - 2048, -2047, 2047)
    for i in range(4096)
]
RATE = [2**17 // (2 * i + 3) for i in range(1024)]


class Arithmetic:
    """The binary arithmetic decoder."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.low, self.high, self.code = 0, 2**32 - 1, 0
        for _ in range(4):
            self.code = self.code << 8 | self.byte()

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def bit(self, p: int) -> int:
        w = self.high - self.low
        middle = self.low + (w >> 16) * p + (((w & 65535) * p) >> 16)
        y = int(self.code <= middle)
        if y:
            self.high = middle
        else:
            self.low = middle + 1
        while self.low >> 24 == self.high >> 24:
            self.low = self.low << 8 & 0xFFFFFFFF
            self.high = self.high << 8 & 0xFFFFFFFF | 255
            self.code = self.code << 8 & 0xFFFFFFFF | self.byte()
        return y
