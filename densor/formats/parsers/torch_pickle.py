"""Reads which tensors the `data.pkl` of a PyTorch file names, without unpickling it.

A pickle is a program for a stack machine. This machine knows the instructions that build dicts,
lists and tuples, and recognises the calls of `torch._utils` that make tensors; it imports nothing
and calls nothing: the result of every other call is an object that holds what it was made of.
"""

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from densor import dtypes
from densor.errors import FormatError
from densor.formats.io.sources import MemoryRandomSource, RandomSource
from densor.formats.tensors import MAX_NAME, View

_MAX_STEPS = 1 << 22  # some seconds
MAX_DEPTH = 32  # of containers that names are made from
_MAX_ARGUMENT = 1 << 16  # bytes of a text or number that are looked at
_BUFFER = 1 << 18
_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "ComplexDoubleStorage": "C128",
    "QInt8Storage": "I8",
    "QUInt8Storage": "U8",
    "QInt32Storage": "I32",
    "QUInt4x2Storage": "U8",
    "QUInt2x4Storage": "U8",
}


class Storage(NamedTuple):
    """A reference to a storage: its key, its element type if that is known, and the element of it
    that counts as its first."""

    key: str
    dtype: str | None
    first: int = 0


class Tensor(NamedTuple):
    """A tensor: elements of a storage, beginning at element `offset`."""

    key: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conj: bool = False
    neg: bool = False

    @property
    def view(self) -> View | None:
        """How the elements are taken from the storage, None if as they lie."""
        wanted, in_order = 1, True
        for size, stride in zip(self.shape[::-1], self.strides[::-1], strict=True):
            in_order &= size <= 1 or stride == wanted
            wanted *= size
        if (in_order or not wanted) and not self.conj and not self.neg:
            return None
        return View(None if in_order else self.strides, self.conj, self.neg)


class Opaque(NamedTuple):
    """A tensor that is no stretch of one storage, by the name of what it is; with its parts."""

    dtype: str
    parts: tuple[Any, ...] = ()


class Found(NamedTuple):
    """Tensors by the names that lead to them, and all storages that were named."""

    tensors: dict[str, Tensor | Opaque]
    storages: dict[str, str | None]  # element type by key


class PickleFile:
    """A stretch of a file, read from front to back as `pickletools` wants it.

    Of arguments longer than 64 KiB, such as the bytes of an array, nothing but the length is there.
    """

    def __init__(self, random: RandomSource, begin: int, end: int) -> None:
        self._random = random
        self._end = min(end, random.size)
        self._data = b""
        self._begin = begin  # of the data
        self._at = 0  # in the data

    @property
    def at(self) -> int:
        """Where the next byte stands in the file."""
        return self._begin + self._at

    def tell(self) -> int:
        """The same, as `pickletools` asks for it."""
        return self.at

    def seek(self, at: int) -> None:
        """Goes on reading there."""
        self._begin, self._at, self._data = at, 0, b""

    def read(self, count: int) -> bytes:
        """So many bytes, fewer only at the end."""
        begin = self._at
        if begin + count > len(self._data):
            if count > _MAX_ARGUMENT:
                count = min(count, self._end - self.at)
                self.seek(self.at + count)
                return _Skipped(count)
            self._fill(count)
            begin = 0
        self._at = begin + count
        found = self._data[begin : begin + count]
        self._at = begin + len(found)
        return found

    def readline(self) -> bytes:
        """Up to the next end of a line."""
        end = self._data.find(b"\n", self._at)
        if end < 0:
            self._fill(_MAX_ARGUMENT)
            end = self._data.find(b"\n")
        return self.read(end + 1 - self._at if end >= 0 else min(_MAX_ARGUMENT, len(self._data)))

    def _fill(self, count: int) -> None:
        at = self.at
        length = max(0, min(max(count, _BUFFER), self._end - at))
        self._data = self._random.read_at(at, length).tobytes() if length else b""
        self._begin, self._at = at, 0


class _Skipped(bytes):
    """Stands for bytes that were passed over."""

    def __new__(cls, count: int) -> "_Skipped":
        found = super().__new__(cls)
        found._count = count
        return found

    def __len__(self) -> int:
        return self._count

    _count: int


class Place(NamedTuple):
    """Where the bytes of an argument stand in the file."""

    at: int
    size: int


class Global(NamedTuple):
    """What a pickle imports."""

    module: str
    name: str


@dataclass(eq=False)
class Node:
    """A dict, a list, or an object with attributes: what is in it, by name."""

    items: list[tuple[str, Any]] = field(default_factory=list)


OPAQUE = object()  # what is not looked into


def scan(pickle: PickleFile | bytes, partial: bool = False) -> Found:
    """The tensors in a pickle; FormatError if it is no pickle that PyTorch could have written.

    `partial`: if so, no error but what was made up to there. Tensors that no name leads to are
    opaque ones.
    """
    machine = Machine()
    file = pickle
    if not isinstance(file, PickleFile):
        file = PickleFile(MemoryRandomSource(file), 0, len(file))
    names = Names()
    try:
        names.collect(machine.run(file), "", 0)
    except FormatError:
        if not partial:
            raise
    names.collect_others(machine.made)
    return Found(names.found, machine.storages)


def values(file: PickleFile) -> Any:
    """What a pickle of plain values holds: a number, a text, or a list of pairs of those by name.

    FormatError if it cannot be followed.
    """
    found = Machine().run(file)
    return found.items if isinstance(found, Node) else found


class Names:
    """Names of tensors by the keys that lead to them."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor | Opaque] = {}
        self._times: dict[str, int] = {}  # that a name was wanted by another tensor
        self._seen: set[int] = set()

    def collect(self, thing: Any, name: str, depth: int) -> None:
        """Names all tensors within `thing`; each container of several only where met first."""
        if isinstance(thing, Node) and len(thing.items) == 1 and not thing.items[0][0]:
            ((_, inner),) = thing.items  # an array of numpy, which may have several names
            thing = inner if isinstance(inner, Tensor | Opaque) else thing
        if isinstance(thing, Tensor | Opaque):
            self._add(name, thing)
        elif id(thing) not in self._seen and depth < MAX_DEPTH:
            self._seen.add(id(thing))
            for key, value in _items(thing):
                if len(name) + len(key) < MAX_NAME:
                    path = f"{name}.{key}" if name and key else name or key
                    self.collect(value, path, depth + 1)

    def _add(self, name: str, tensor: Tensor | Opaque) -> None:
        """Adds a tensor, by a name of its own where two have the same, such as 1 and "1"."""
        wanted = name
        while self.found.setdefault(name, tensor) is not tensor:
            self._times[wanted] = self._times.get(wanted, 1) + 1
            name = f"{wanted} ({self._times[wanted]})"

    def collect_others(self, made: list[Tensor | Opaque]) -> None:
        """Adds those that no name leads to, as they are known to be there."""
        reached = {id(tensor) for tensor in within(tuple(self.found.values()))}
        for tensor in made:
            if id(tensor) not in reached:
                self._add("unnamed", Opaque(f"{tensor.dtype} unnamed"))


def _items(thing: Any) -> list[tuple[str, Any]]:
    """What is in a container, by name."""
    if isinstance(thing, Node):
        return thing.items
    return [(str(i), value) for i, value in enumerate(thing)] if type(thing) is tuple else []


def within(thing: Any) -> Iterator[Tensor | Opaque]:
    """All tensors within a container, and the parts of these."""
    seen: set[int] = set()
    left = [thing]
    while left:
        thing = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor | Opaque):
            yield thing
            thing = thing.parts if isinstance(thing, Opaque) else ()
        left += [value for _, value in _items(thing)]


class Machine:
    """The stack machine."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.storages: dict[str, str | None] = {}
        self.made: list[Tensor | Opaque] = []
        self._below: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}

    def run(self, file: PickleFile) -> Any:
        """Executes a pickle and returns what it makes; FormatError if it cannot be followed."""
        try:
            for step, (code, argument, at) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
                if step > _MAX_STEPS:
                    raise FormatError("pickle is too long")
                self.step(code.name, self.placed(code.name, argument, at or 0, file.at))
            return self.stack.pop()
        except (ValueError, LookupError, TypeError, OverflowError, Warning) as error:
            raise FormatError(f"cannot follow pickle: {error}") from None

    def placed(self, name: str, argument: Any, at: int, end: int) -> Any:
        """The argument of an instruction that stands from `at` to `end`: of bytes, their place."""
        if name not in _BYTES:
            return argument
        begin = at + _BYTES[name]
        return Place(begin, end - begin)

    def step(self, name: str, argument: Any) -> None:
        """Executes one instruction; FormatError for an unknown one."""
        if name in _CONSTANTS:
            self.push(argument)
        elif name in _GETS:
            self.push(self._memo[argument])
        elif name in _PUTS:
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in _NOTHING:
            raise FormatError(f"pickle has the instruction {name}")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def to_mark(self) -> list[Any]:
        """Takes all that is above the last mark from the stack."""
        above, self.stack = self.stack, self._below.pop()
        return above

    def take(self, count: int) -> tuple[Any, ...]:
        """Takes so many from the stack."""
        if len(self.stack) < count:
            raise FormatError("pickle takes more than there is")
        taken = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return taken

    def mark(self, _: Any) -> None:
        self._below.append(self.stack)
        self.stack = []

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Node):
            target.items += _named(pairs)

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Node):
            first = len(target.items)
            target.items += [(str(first + i), value) for i, value in enumerate(values)]

    def stack_global(self, _: Any) -> None:
        module, name = self.take(2)
        texts = type(module) is str and type(name) is str
        self.push(Global(module, name) if texts else OPAQUE)

    def load_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.push(Global(module, name))

    def reduce(self, _: Any) -> None:
        function, arguments = self.take(2)
        found = _called(function, arguments)
        if isinstance(found, Tensor | Opaque):
            self.made.append(found)
        self.push(found)

    def make_object(self, _: Any, taken: int = 2) -> None:
        """Puts a new object in place of its class and what it is made of."""
        self.push(Node([("", part) for part in self.take(taken)]))

    def make_list(self, _: Any) -> None:
        self.push(Node(_items(tuple(self.to_mark()))))

    def make_dict(self, _: Any) -> None:
        self.push(Node(_named(self.to_mark())))

    def build(self, _: Any) -> None:
        """Gives an object its attributes: a reference, since copies can double at each step."""
        (state,) = self.take(1)
        target = self.stack[-1]
        if isinstance(target, Node):
            target.items.append(("", state))

    def persistent(self, _: Any) -> None:
        """A storage, by what PyTorch writes: ("storage", type, key, device, elements, view)."""
        (wanted,) = self.take(1)
        self.push(OPAQUE)
        if type(wanted) is tuple and len(wanted) in (5, 6) and wanted[0] == "storage":
            kind, key = wanted[1], wanted[2]
            if isinstance(kind, Global) and type(key) is str:
                dtype = _STORAGES.get(kind.name) if kind.module in _STORAGE_MODULES else None
                self.stack[-1] = _part(Storage(key, dtype), wanted[5] if len(wanted) > 5 else None)
                self.storages.setdefault(key, dtype)


_PLAIN_KEYS = (str, int, float, bool, type(None))
_STORAGE_MODULES = ("torch", "torch.storage")


def _named(pairs: list[Any]) -> list[tuple[str, Any]]:
    """The pairs of a list key, value, key, …"""
    return [(_key(k), v) for k, v in zip(pairs[::2], pairs[1::2], strict=True)]


def _key(key: Any) -> str:
    """What stands for a key in names: the text that Python shows for plain ones, else `?`."""
    if type(key) is tuple and len(key) < MAX_DEPTH:
        return repr(key) if all(type(part) in _PLAIN_KEYS for part in key) else "?"
    return str(key) if type(key) in _PLAIN_KEYS else "?"


def _part(storage: Storage, view: Any) -> Any:
    """A storage, or the part of it that older files name: (key, offset, size)."""
    if view is None:
        return storage
    if type(view) is tuple and len(view) == 3 and is_size(view[1]):
        return storage._replace(first=view[1])
    return OPAQUE


def is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _called(function: Any, arguments: Any) -> Any:
    """What a call gives, if it is one of those that files of PyTorch are made of."""
    other = Node([("", arguments)])
    if not isinstance(function, Global) or type(arguments) is not tuple:
        return other
    if function == Global("torch._tensor", "_rebuild_from_type_v2") and len(arguments) == 4:
        made, kind = _called(*arguments[0:3:2]), arguments[1]
        if kind in _PLAIN_TYPES:
            return made
        return Opaque(kind.name if isinstance(kind, Global) else "subclass", arguments)
    if function.module == "torch._utils" and arguments:
        if function.name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return arguments[0]
        if function.name in _TENSORS:
            return _tensor(function.name, arguments)
        if function.name.startswith("_rebuild_"):
            return _other(function.name.removeprefix("_rebuild_"), arguments)
    return other


_PLAIN_TYPES = (
    Global("torch", "Tensor"),
    Global("torch._tensor", "Tensor"),
    Global("torch.nn.parameter", "Parameter"),
    Global("torch.nn.parameter", "Buffer"),
)
_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")


def _other(name: str, arguments: tuple[Any, ...]) -> Opaque:
    """A tensor of another kind, such as a sparse or quantised one."""
    if name == "wrapper_subclass" and isinstance(arguments[0], Global):
        name = arguments[0].name
    return Opaque(name, arguments)


def _tensor(name: str, arguments: tuple[Any, ...]) -> Any:
    if len(arguments) < 4 or not isinstance(arguments[0], Storage):
        return OPAQUE
    storage, offset, shape, strides = arguments[:4]
    dtype, metadata = storage.dtype, arguments[6:]
    if name == "_rebuild_tensor_v3":
        kind, metadata = arguments[6] if len(arguments) > 6 else None, arguments[7:]
        if not isinstance(kind, Global):
            return Opaque("unknown")
        dtype = dtypes.from_torch(f"torch.{kind.name}")
        if dtype is None:
            return Opaque(kind.name)
    whole = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
    if dtype is None or not whole or len(shape) > 64:
        return Opaque("unknown")
    if not all(is_size(size) for size in (offset, *shape, *strides)):
        return Opaque(dtype)
    flags = _flags(metadata[0]) if metadata else (False, False)
    if flags is None:
        return Opaque(f"{dtype} view")
    return Tensor(storage.key, dtype, storage.first + offset, shape, strides, *flags)


def _flags(metadata: Any) -> tuple[bool, bool] | None:
    """Whether a tensor is a conjugate, a negative view; None where it may be something else."""
    if metadata is None:
        return False, False
    items = metadata.items if isinstance(metadata, Node) else [("", None)]
    found = dict(items)
    if not set(found) <= {"conj", "neg"} or not all(type(v) is bool for v in found.values()):
        return None
    return found.get("conj", False), found.get("neg", False)


_BYTES = {  # what precedes bytes: the instruction, and how many they are
    "SHORT_BINBYTES": 2,
    "BINBYTES": 5,
    "BINBYTES8": 9,
    "BYTEARRAY8": 9,
}
_CONSTANTS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        "NONE",
    )
)
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_NOTHING = frozenset(("PROTO", "FRAME", "STOP"))
_STEPS: dict[str, Callable[[Machine, Any], object]] = {
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": Machine.mark,
    "POP": lambda machine, _: machine.take(1),
    "POP_MARK": lambda machine, _: machine.to_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "EMPTY_DICT": lambda machine, _: machine.make_object(None, 0),
    "EMPTY_LIST": lambda machine, _: machine.make_object(None, 0),
    "EMPTY_SET": lambda machine, _: machine.make_object(None, 0),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.to_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.take(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.take(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.take(3)),
    "LIST": Machine.make_list,
    "DICT": Machine.make_dict,
    "FROZENSET": Machine.make_list,
    "INST": Machine.make_list,
    "OBJ": Machine.make_list,
    "SETITEM": lambda machine, _: machine.set_items(list(machine.take(2))),
    "SETITEMS": lambda machine, _: machine.set_items(machine.to_mark()),
    "APPEND": lambda machine, _: machine.append(list(machine.take(1))),
    "APPENDS": lambda machine, _: machine.append(machine.to_mark()),
    "ADDITEMS": lambda machine, _: machine.append(machine.to_mark()),
    "GLOBAL": Machine.load_global,
    "STACK_GLOBAL": Machine.stack_global,
    "REDUCE": Machine.reduce,
    "NEWOBJ": Machine.make_object,
    "NEWOBJ_EX": lambda machine, _: machine.make_object(None, 3),
    "BUILD": Machine.build,
    "PERSID": lambda machine, _: machine.push(OPAQUE),
    "BINPERSID": Machine.persistent,
}
