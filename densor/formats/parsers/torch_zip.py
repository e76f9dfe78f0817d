"""The tensors in a file of PyTorch (.pt, .pth, .bin): a zip of storages and a pickle.

Format: https://docs.pytorch.org/docs/main/notes/serialization.html. Members `NAME/data/KEY` are
storages; `NAME/data.pkl` tells the tensors in them. Nothing is unpickled, nothing inflated.
"""

from densor.formats.parsers import torch_pickle
from densor.formats.parsers.contents import Contents, Head
from densor.formats.parsers.torch_storages import contents_of
from densor.formats.parsers.zip_members import stored_members


def find(head: Head) -> Contents | None:
    """What a zip file of PyTorch holds; None if it is none, or on a pipe."""
    members = {member.name: member for member in stored_members(head)}
    root = next((name[: -len("data.pkl")] for name in members if name.endswith("/data.pkl")), None)
    if root is None or head.random is None:
        return None
    prefix = f"{root}data/"
    storages = {
        name.removeprefix(prefix): member
        for name, member in members.items()
        if name.startswith(prefix)
    }
    pickle = members[f"{root}data.pkl"]
    file = torch_pickle.PickleFile(head.random, pickle.offset, pickle.offset + pickle.size)
    found = torch_pickle.scan(file, partial=True)
    order = members.get(f"{root}byteorder")
    little = order is None or (
        head.random.read_at(order.offset, order.size & 15).tobytes() == b"little"
    )
    return contents_of(storages, found, little)
