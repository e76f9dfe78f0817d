"""Reads which tensors the `data.pkl` of a PyTorch file names, without unpickling it.

A pickle is a program for a stack machine. This machine knows the instructions that build dicts,
lists and tuples, and recognises two calls, `torch._utils._rebuild_tensor_v2` and `_v3`; it imports
nothing and calls nothing: the result of every other call is an object that is not looked into.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from densor import dtypes
from densor.errors import FormatError
from densor.formats.tensors import MAX_NAME

MAX_SIZE = 1 << 24  # bytes of a pickle that is looked at
_MAX_STEPS = 1 << 21
_MAX_DEPTH = 32  # of containers that names are made from
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
}


class Storage(NamedTuple):
    """A reference to a storage: its key, and its element type if that is known."""

    key: str
    dtype: str | None


class Tensor(NamedTuple):
    """A tensor: elements of a storage, beginning at element `offset`."""

    key: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Found(NamedTuple):
    """Tensors by the names that lead to them, and all storages that were named."""

    tensors: dict[str, Tensor]
    storages: dict[str, str | None]  # element type by key


class _Global(NamedTuple):
    module: str
    name: str


@dataclass(eq=False)
class _Object:
    """A dict, a list, or an object with attributes: what is in it, by name."""

    items: list[tuple[str, Any]] = field(default_factory=list)


_OPAQUE = object()  # what is not looked into


def scan(pickle: bytes) -> Found:
    """The tensors in a pickle; FormatError if it is no pickle that PyTorch could have written."""
    machine = _Machine()
    try:
        for step, (code, argument, _) in enumerate(pickletools.genops(pickle)):
            if step > _MAX_STEPS:
                raise FormatError("pickle is too long")
            machine.step(code.name, argument)
        root = machine.stack.pop()
    except (ValueError, LookupError, TypeError, OverflowError, Warning) as error:
        raise FormatError(f"cannot follow pickle: {error}") from None
    tensors: dict[str, Tensor] = {}
    _collect(root, "", tensors, set(), 0)
    return Found(tensors, machine.storages)


def _collect(thing: Any, name: str, found: dict[str, Tensor], seen: set[int], depth: int) -> None:
    """Names all tensors within `thing`; each container only where it is met first."""
    if isinstance(thing, Tensor):
        found.setdefault(name, thing)
        return
    if isinstance(thing, _Object):
        items = thing.items
    elif isinstance(thing, tuple) and type(thing) is tuple:
        items = [(str(i), value) for i, value in enumerate(thing)]
    else:
        return
    if id(thing) not in seen and depth < _MAX_DEPTH:
        seen.add(id(thing))
        for key, value in items:
            if len(name) + len(key) < MAX_NAME:
                path = f"{name}.{key}" if name and key else name or key
                _collect(value, path, found, seen, depth + 1)


class _Machine:
    """The stack machine."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.storages: dict[str, str | None] = {}
        self._below: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}

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
        if isinstance(target, _Object):
            target.items += _named(pairs)

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, _Object):
            first = len(target.items)
            target.items += [(str(first + i), value) for i, value in enumerate(values)]

    def stack_global(self, _: Any) -> None:
        module, name = self.take(2)
        texts = type(module) is str and type(name) is str
        self.push(_Global(module, name) if texts else _OPAQUE)

    def load_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.push(_Global(module, name))

    def reduce(self, _: Any) -> None:
        function, arguments = self.take(2)
        self.push(_called(function, arguments))

    def make_object(self, _: Any, taken: int = 2) -> None:
        self.take(taken)
        self.push(_Object())

    def build(self, _: Any) -> None:
        """Gives an object its attributes: a reference, since copies can double at each step."""
        (state,) = self.take(1)
        target = self.stack[-1]
        if isinstance(target, _Object):
            target.items.append(("", state))

    def persistent(self, _: Any) -> None:
        """A storage, by what PyTorch writes: ("storage", type, key, device, elements)."""
        (wanted,) = self.take(1)
        self.push(_OPAQUE)
        if type(wanted) is tuple and len(wanted) == 5 and wanted[0] == "storage":
            kind, key = wanted[1], wanted[2]
            if isinstance(kind, _Global) and type(key) is str:
                dtype = _STORAGES.get(kind.name) if kind.module in _STORAGE_MODULES else None
                self.stack[-1] = Storage(key, dtype)
                self.storages.setdefault(key, dtype)

    def opaque(self, taken: int | None) -> None:
        """Puts an object that is not looked into in place of so many, None: down to the mark."""
        if taken is None:
            self.to_mark()
        else:
            self.take(taken)
        self.push(_OPAQUE)


_STORAGE_MODULES = ("torch", "torch.storage")


def _named(pairs: list[Any]) -> list[tuple[str, Any]]:
    """The pairs of a list key, value, key, … whose keys can be part of a name."""
    keys, values = pairs[::2], pairs[1::2]
    return [(str(k), v) for k, v in zip(keys, values, strict=True) if type(k) in (str, int)]


def _called(function: Any, arguments: Any) -> Any:
    """What a call gives, if it is one of those that files of PyTorch are made of."""
    if not isinstance(function, _Global) or type(arguments) is not tuple:
        return _OPAQUE
    if function == _Global("collections", "OrderedDict"):
        return _Object()
    if function.module == "torch._utils" and arguments:
        if function.name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return arguments[0]
        if function.name in ("_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            return _tensor(function.name, arguments)
    return _OPAQUE


def _tensor(name: str, arguments: tuple[Any, ...]) -> Any:
    if len(arguments) < 6 or not isinstance(arguments[0], Storage):
        return _OPAQUE
    storage, offset, shape, strides = arguments[:4]
    dtype = storage.dtype
    if name == "_rebuild_tensor_v3" and len(arguments) > 6 and isinstance(arguments[6], _Global):
        dtype = dtypes.from_torch(f"torch.{arguments[6].name}")
    whole = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
    if dtype is None or not whole or len(shape) > 64:
        return _OPAQUE
    if any(type(size) is not int or not 0 <= size < 1 << 63 for size in (offset, *shape, *strides)):
        return _OPAQUE
    return Tensor(storage.key, dtype, offset, shape, strides)


_CONSTANTS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("NONE", "NEWTRUE", "NEWFALSE"),
    )
)
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_NOTHING = frozenset(("PROTO", "FRAME", "STOP"))
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "MARK": _Machine.mark,
    "POP": lambda machine, _: machine.take(1),
    "POP_MARK": lambda machine, _: machine.to_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "EMPTY_DICT": lambda machine, _: machine.make_object(None, 0),
    "EMPTY_LIST": lambda machine, _: machine.make_object(None, 0),
    "EMPTY_SET": lambda machine, _: machine.opaque(0),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.to_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.take(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.take(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.take(3)),
    "LIST": lambda machine, _: machine.opaque(None),
    "DICT": lambda machine, _: machine.opaque(None),
    "FROZENSET": lambda machine, _: machine.opaque(None),
    "INST": lambda machine, _: machine.opaque(None),
    "OBJ": lambda machine, _: machine.opaque(None),
    "SETITEM": lambda machine, _: machine.set_items(list(machine.take(2))),
    "SETITEMS": lambda machine, _: machine.set_items(machine.to_mark()),
    "APPEND": lambda machine, _: machine.append(list(machine.take(1))),
    "APPENDS": lambda machine, _: machine.append(machine.to_mark()),
    "ADDITEMS": lambda machine, _: machine.to_mark(),
    "GLOBAL": _Machine.load_global,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.make_object,
    "NEWOBJ_EX": lambda machine, _: machine.make_object(None, 3),
    "BUILD": _Machine.build,
    "PERSID": lambda machine, _: machine.opaque(0),
    "BINPERSID": _Machine.persistent,
}
