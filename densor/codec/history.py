"""What the batches of an archive share: parameters that a later batch may use again."""

from collections.abc import Hashable, Sequence
from typing import Any

MAX_KEPT = 32  # parameters under one key; beyond, the oldest are forgotten


class History:
    """Parameters of the latest batches of an archive, under keys that begin with a codec's number.

    Batches propose in the order that they will have in the archive. One whose parameters will stand
    there calls `keep` before the next one proposes. So what a batch finds does not depend on the
    number of threads.

    `follows`: of the bytes from the batch on that proposes, the part behind it, where what it keeps
    may be shared; 1 where that is not known.
    """

    def __init__(self) -> None:
        self.follows = 1.0
        self._kept: dict[Hashable, list[Any]] = {}

    def kept(self, key: Hashable) -> Sequence[Any]:
        """What earlier batches kept under this key, oldest first."""
        return tuple(self._kept.get(key, ()))

    def keep(self, key: Hashable, parameters: Any) -> None:
        """Lets later batches use what will stand in the archive."""
        kept = self._kept.setdefault(key, [])
        kept.append(parameters)
        del kept[:-MAX_KEPT]
