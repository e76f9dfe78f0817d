"""Tools for archives that exist: add to them, compare them, see and repair damage.

`append` adds a file coded against the latest one, `differences` compares the tensors of two
checkpoints, `damage` says what is lost of an archive, `repair` restores it from recovery data,
and `salvage` gets out what is left. `densor.verify_file` tells whether anything is wrong at all.
"""

from densor.files.append import append
from densor.files.diff import differences
from densor.formats.damage.repair import repair
from densor.formats.damage.salvage import damage, salvage

__all__ = ["append", "damage", "differences", "repair", "salvage"]
