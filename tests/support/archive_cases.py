"""Small golden archives, good and bad, in `golden/archives.json`: what pins down containers.

A case has an archive, the base if it needs one, and the SHA-256 of what its entries are, or the
error that it ends in. `lenient`: a reader may leave that fault of an INDEX unseen, as the
specification allows.
"""

import base64
import hashlib
import importlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from paths import GOLDEN

PATH = GOLDEN / "archives.json"


@dataclass(frozen=True)
class ArchiveCase:
    """An archive; `sha256` (of `listed`) or `error` says what becomes of it."""

    name: str
    archive: bytes
    base: bytes | None = None
    sha256: str | None = None
    error: str | None = None
    lenient: bool = False

    @property
    def size(self) -> int:
        """Bytes of it all."""
        return len(self.archive)

    def by_package(self) -> bytes:
        """Name, kind and digest of each entry; a DensorError if the archive is refused.

        The package has verified the digests when it returns.
        """
        densor = importlib.import_module("densor")  # here, for `reference_mutants.py` does without
        with tempfile.TemporaryDirectory() as folder:  # some entries need a file with an index
            path = Path(folder) / "x.densor"
            path.write_bytes(self.archive)
            entries = densor.verify_file(path, threads=1, base=self.base)
        return listed([(e.meta.name, e.meta.kind, e.hash_kind, e.digest) for e in entries])

    def by_reference(self) -> bytes:
        """Likewise, by the slow decoder; Refused if it is."""
        container = importlib.import_module("reference.container")
        entries = container.decode(self.archive, self.base)
        container.read_index(self.archive)
        return listed([(e.name, e.kind, *e.hash) for e in entries])

    def to_json(self) -> dict[str, object]:
        """Its line in the file."""
        found: dict[str, object] = {"name": self.name, "archive": _text(self.archive)}
        if self.base is not None:
            found["base"] = _text(self.base)
        if self.lenient:
            found["lenient"] = True
        return found | ({"sha256": self.sha256} if self.error is None else {"error": self.error})


def error_of(reason: str) -> str:
    """The package's name for why the slow decoder refuses something."""
    return "ArgumentError" if reason == "base" else f"{reason.title()}Error"


def listed(entries: list[tuple[str, str, int, bytes]]) -> bytes:
    """What stands for entries."""
    rows = [[name, kind, number, digest.hex()] for name, kind, number, digest in entries]
    return json.dumps(rows).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def read_archives() -> list[ArchiveCase]:
    """All cases, in the order of the file."""
    if not PATH.exists():
        return []
    found = []
    for item in json.loads(PATH.read_text()):
        for key in ("archive", "base"):
            if key in item:
                item[key] = base64.b64decode(item[key])
        found.append(ArchiveCase(**item))
    return found


def write_archives(cases: list[ArchiveCase]) -> None:
    """The file anew, a line for each case."""
    lines = ",\n".join(json.dumps(case.to_json()) for case in cases)
    PATH.write_text(f"[\n{lines}\n]\n")


def digest_of(found: bytes) -> str:
    """What stands in the file for an outcome."""
    return hashlib.sha256(found).hexdigest()
