"""The tensors in a file of PyTorch (.pt, .pth, .bin): a zip of storages and a pickle.

Format: https://docs.pytorch.org/docs/main/notes/serialization.html. Members `NAME/data/KEY` are
storages; `NAME/data.pkl` tells the tensors in them. Nothing is unpickled, nothing inflated.
"""

from densor.errors import FormatError
from densor.formats.io.sources import MemorySource, RandomSource
from densor.formats.parsers import torch_optimizer, torch_pickle
from densor.formats.parsers.contents import Contents, Head
from densor.formats.parsers.numpy_pickle import with_arrays
from densor.formats.parsers.torch_pickle import PickleFile
from densor.formats.parsers.torch_storages import contents_of
from densor.formats.parsers.zip_members import MAGIC, Member, stored_members


def find(head: Head) -> Contents | None:
    """What a zip file of PyTorch holds; None if it is none, or on a pipe."""
    opened = _opened(head)
    if opened is None or head.random is None:
        return None
    members, root, file = opened
    prefix = f"{root}data/"
    storages = {
        name.removeprefix(prefix): member
        for name, member in members.items()
        if name.startswith(prefix)
    }
    found = torch_pickle.scan(file, partial=True)
    order = members.get(f"{root}byteorder")
    little = order is None or (
        head.random.read_at(order.offset, order.size & 15).tobytes() == b"little"
    )
    contents = contents_of(storages, found, little)
    pickle = members[f"{root}data.pkl"]
    return with_arrays(contents, head.random, pickle.offset, pickle.offset + pickle.size)


def options_in(random: RandomSource) -> torch_optimizer.Told:
    """Options of Adam in a file, by the names of the parameters' states; empty for others."""
    try:
        first = MemorySource(random.read_at(0, min(len(MAGIC), random.size)))
        opened = _opened(Head(first, random.size, random, ""))
        return {} if opened is None else torch_optimizer.options_of(opened[2])
    except FormatError:
        return {}


def _opened(head: Head) -> tuple[dict[str, Member], str, PickleFile] | None:
    """The members of a zip file by name, what names of those of PyTorch begin with, the pickle."""
    members = {member.name: member for member in stored_members(head)}
    root = next((name[: -len("data.pkl")] for name in members if name.endswith("/data.pkl")), None)
    if root is None or head.random is None:
        return None
    pickle = members[f"{root}data.pkl"]
    return members, root, PickleFile(head.random, pickle.offset, pickle.offset + pickle.size)
