"""How samples of sound lie in memory."""

from dataclasses import dataclass

MAX_CHANNELS = 32
MAX_SIZE = 4  # bytes of a sample
LEAST = 64  # samples of a channel that are worth it


@dataclass(frozen=True)
class Layout:
    """Samples of all channels side by side, one instant after the other.

    `channels`; `size`: bytes of a sample, 1 to 4; `big`: its highest byte comes first; `unsigned`:
    silence is half of the range; `floats`: of 4 bytes, IEEE 754; `rate`: instants in a second, 0
    where that is unknown.
    """

    channels: int
    size: int
    big: bool = False
    unsigned: bool = False
    floats: bool = False
    rate: int = 0

    @property
    def stride(self) -> int:
        """Bytes of an instant."""
        return self.channels * self.size


def fits(layout: Layout, size: int) -> bool:
    """Whether `size` bytes are whole instants that are worth coding as sound."""
    if not 1 <= layout.channels <= MAX_CHANNELS or not 1 <= layout.size <= MAX_SIZE:
        return False
    if (layout.floats and layout.size != MAX_SIZE) or (layout.big and layout.size == 1):
        return False
    return size >= LEAST * layout.stride and size % layout.stride == 0
