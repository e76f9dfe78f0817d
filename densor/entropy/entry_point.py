"""Entry points of kernels for Python: machine code that takes its arguments from Python objects.

What numba has for this needs numba in memory; see `native.py`. Arrays are handed to the kernel as
they lie, after a look at type, dimensions and order; whoever calls holds references to them.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.np.arrayobj import populate_array
from numba.np.numpy_support import as_dtype

from densor.entropy import linking, native
from densor.entropy.kernel_files import Kept, Objects

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_POINTER = _I8.as_pointer()
_SCALARS = (types.Integer, types.Boolean, types.Float)
_TUPLE: Any = types.BaseTuple


def is_possible(arguments: Sequence[Any], result: Any) -> bool:
    """Whether there can be an entry point for a signature: numbers, plain arrays in C order, and
    tuples of these; a number, some numbers or nothing as the result."""
    given = all(
        isinstance(kind, _SCALARS)
        or (isinstance(kind, types.Array) and kind.layout == "C" and kind.aligned)
        or (isinstance(kind, _TUPLE) and is_possible(kind.types, types.none))
        for kind in arguments
    )
    results = result.types if isinstance(result, _TUPLE) else (result,)
    return given and (result is types.none or all(isinstance(r, _SCALARS) for r in results))


def machine_code(compiled: Any) -> Kept | None:
    """The code of a kernel that numba has compiled; None if it needs numba."""
    library, about = compiled.library, compiled.fndesc
    if not is_possible(about.argtypes, about.restype):
        return None
    _, kind, content = library.serialize_using_object_code()
    if kind != "object":
        return None
    kernel = content[0]
    module = _EntryPoint(compiled.target_context, about).module
    entry = native.target_machine().emit_object(binding.parse_assembly(str(module)))
    needed = _undefined(kernel) | _undefined(entry) - {about.llvm_func_name}
    if not native.KNOWN.issuperset(name.removeprefix(native.PREFIX) for name in needed):
        return None
    image = linking.link((kernel, entry), native.ENTRY)
    return image or Objects(kernel, entry, sorted(needed))


def _undefined(data: bytes) -> set[str]:
    """The symbols that an object file (ELF, 64 bits, little-endian) needs from elsewhere."""
    (sections_at,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", data, sections_at + size * number)
        for number in range(count)
    ]
    found = set()
    for _, kind, _, _, at, length, link, _, _, _ in sections:
        if kind != 2:  # the table of symbols
            continue
        names = sections[link][4]
        for entry in range(at, at + length, 24):
            name, _, _, section = struct.unpack_from("<IBBH", data, entry)
            if section == 0 and name:
                end = data.index(b"\0", names + name)
                found.add(data[names + name : end].decode())
    return found


class _EntryPoint:
    """The module of one entry point."""

    def __init__(self, context: Any, about: Any) -> None:
        self.module = context.create_module("densor.entry")
        self._context = context
        self._named: dict[str, Any] = {}
        kind = ir.FunctionType(_POINTER, [_POINTER, _POINTER.as_pointer(), _I64])
        function = ir.Function(self.module, kind, native.ENTRY)
        self._builder = builder = ir.IRBuilder(function.append_basic_block())
        self._failed = function.append_basic_block("failed")
        _, given, count = function.args
        wanted = about.argtypes
        self._require(
            builder.icmp_signed("==", count, _I64(len(wanted))), "arguments: their number"
        )
        values = [
            self._value(builder.load(builder.gep(given, [_I64(number)])), kind, number)
            for number, kind in enumerate(wanted)
        ]
        thread = self._call("PyEval_SaveThread", _POINTER, [])
        callee = ir.Function(
            self.module,
            context.call_conv.get_function_type(about.restype, wanted),
            about.llvm_func_name,
        )
        status, value = context.call_conv.call_function(
            builder, callee, about.restype, wanted, values
        )
        self._call("PyEval_RestoreThread", ir.VoidType(), [thread])
        self._require(builder.not_(status.is_error), "kernel failed")
        builder.ret(self._result(value, about.restype))
        builder.position_at_end(self._failed)
        builder.ret(_POINTER(None))

    def _call(self, name: str, result: Any, values: Sequence[Any]) -> Any:
        """Calls a function of CPython."""
        function = self._named.get(name)
        if function is None:
            kind = ir.FunctionType(result, [value.type for value in values])
            function = self._named[name] = ir.Function(self.module, kind, native.PREFIX + name)
        return self._builder.call(function, values)

    def _object(self, name: str) -> Any:
        """The address of an object."""
        found = self._named.get(name)
        if found is None:
            found = ir.GlobalVariable(self.module, _I8, native.PREFIX + name)
            self._named[name] = found
        return found

    def _require(self, condition: Any, message: str) -> None:
        """Raises TypeError unless a condition holds."""
        builder = self._builder
        fine, wrong = builder.append_basic_block(), builder.append_basic_block()
        builder.cbranch(condition, fine, wrong)
        builder.position_at_end(wrong)
        text = bytearray(message.encode() + b"\0")
        place = ir.GlobalVariable(
            self.module, ir.ArrayType(_I8, len(text)), self.module.get_unique_name("message")
        )
        place.linkage, place.global_constant = "internal", True
        place.initializer = ir.Constant(place.value_type, text)
        error = self._object("PyExc_TypeError")
        pointer = builder.bitcast(place, _POINTER)
        self._call("PyErr_SetString", ir.VoidType(), [error, pointer])
        builder.branch(self._failed)
        builder.position_at_end(fine)

    def _field(self, address: Any, offset: int, kind: Any) -> Any:
        builder = self._builder
        place = builder.gep(address, [_I64(offset)])
        return builder.load(builder.bitcast(place, kind.as_pointer()))

    def _value(self, given: Any, kind: Any, number: int) -> Any:
        """The kernel's argument from a Python object."""
        if isinstance(kind, types.Array):
            return self._array(given, kind, f"argument {number}")
        if isinstance(kind, _TUPLE):
            return self._tuple(given, kind, number)
        if isinstance(kind, types.Boolean):
            return self._builder.trunc(
                self._unless_failed(self._call("PyObject_IsTrue", _I32, [given]), -1), ir.IntType(1)
            )
        if isinstance(kind, types.Float):
            value = self._call("PyFloat_AsDouble", ir.DoubleType(), [given])
            self._check_error()
            wanted = self._context.get_value_type(kind)
            return value if wanted == value.type else self._builder.fptrunc(value, wanted)
        whole = self._call("PyNumber_Index", _POINTER, [given])
        self._leave_if(self._builder.icmp_unsigned("==", whole, _POINTER(None)))
        name = "PyLong_AsLongLong" if kind.signed else "PyLong_AsUnsignedLongLong"
        value = self._call(name, _I64, [whole])
        self._call("Py_DecRef", ir.VoidType(), [whole])
        self._unless_failed(value, -1)
        return (
            value if kind.bitwidth == 64 else self._builder.trunc(value, ir.IntType(kind.bitwidth))
        )

    def _leave_if(self, failed: Any) -> None:
        builder = self._builder
        fine = builder.append_basic_block()
        builder.cbranch(failed, self._failed, fine)
        builder.position_at_end(fine)

    def _unless_failed(self, value: Any, sign: int) -> Any:
        """The value; where it has the sign of an error, it is looked for."""
        builder = self._builder
        look, fine = builder.append_basic_block(), builder.append_basic_block()
        builder.cbranch(builder.icmp_signed("==", value, value.type(sign)), look, fine)
        builder.position_at_end(look)
        self._check_error()
        builder.branch(fine)
        builder.position_at_end(fine)
        return value

    def _check_error(self) -> None:
        error = self._call("PyErr_Occurred", _POINTER, [])
        self._leave_if(self._builder.icmp_unsigned("!=", error, _POINTER(None)))

    def _array(self, given: Any, kind: Any, name: str) -> Any:
        builder, context = self._builder, self._context
        own = self._field(given, native.TYPE, _POINTER)
        derived = self._call("PyType_IsSubtype", _I32, [own, self._object("ndarray")])
        self._require(builder.icmp_signed("!=", derived, _I32(0)), f"{name}: an array")
        rank = self._field(given, native.NDIM, _I32)
        self._require(builder.icmp_signed("==", rank, _I32(kind.ndim)), f"{name}: its dimensions")
        needed = native.C_CONTIGUOUS | native.ALIGNED | (native.WRITEABLE if kind.mutable else 0)
        flags = builder.and_(self._field(given, native.FLAGS, _I32), _I32(needed))
        self._require(builder.icmp_signed("==", flags, _I32(needed)), f"{name}: order or writeable")
        about = self._field(given, native.DESCRIPTION, _POINTER)
        order = self._field(about, native.BYTE_ORDER, _I8)
        self._require(builder.icmp_signed("!=", order, _I8(ord(">"))), f"{name}: byte order")
        number = self._field(about, native.TYPE_NUMBER, _I32)
        known = [builder.icmp_signed("==", number, _I32(n)) for n in _numbers(as_dtype(kind.dtype))]
        is_known = known[0] if len(known) == 1 else builder.or_(*known)
        self._require(is_known, f"{name}: element type")
        place = self._field(given, native.DIMENSIONS, _POINTER)
        shape = [self._field(place, 8 * axis, _I64) for axis in range(kind.ndim)]
        size = np.dtype(as_dtype(kind.dtype)).itemsize
        strides = [_I64(size)]
        for extent in reversed(shape[1:]):
            strides.insert(0, builder.mul(strides[0], extent))
        array = context.make_array(kind)(context, builder)
        data = builder.bitcast(self._field(given, native.DATA, _POINTER), array.data.type)
        fill: Any = populate_array
        fill(array, data, shape, strides, _I64(size), meminfo=None)
        return array._getvalue()

    def _tuple(self, given: Any, kind: Any, number: int) -> Any:
        """A tuple, named or not; what is in it lives as long as it does."""
        builder = self._builder
        own = self._field(given, native.TYPE, _POINTER)
        derived = self._call("PyType_IsSubtype", _I32, [own, self._object("tuple")])
        self._require(builder.icmp_signed("!=", derived, _I32(0)), f"argument {number}: a tuple")
        size = self._call("PyTuple_Size", _I64, [given])
        fits = builder.icmp_signed("==", size, _I64(len(kind.types)))
        self._require(fits, f"argument {number}: how many there are in it")
        values = [
            self._value(self._call("PyTuple_GetItem", _POINTER, [given, _I64(place)]), own, number)
            for place, own in enumerate(kind.types)
        ]
        return self._context.make_tuple(builder, kind, values)

    def _result(self, value: Any, kind: Any) -> Any:
        """A Python object of the kernel's result."""
        if kind is types.none:
            nothing = self._object("Py_None")
            self._call("Py_IncRef", ir.VoidType(), [nothing])
            return nothing
        builder = self._builder
        if isinstance(kind, _TUPLE):
            results = self._call("PyTuple_New", _POINTER, [_I64(len(kind.types))])
            self._leave_if(builder.icmp_unsigned("==", results, _POINTER(None)))
            for place, own in enumerate(kind.types):
                item = self._result(builder.extract_value(value, place), own)
                self._call("PyTuple_SetItem", _I32, [results, _I64(place), item])
            return results
        if isinstance(kind, types.Float):
            wide = ir.DoubleType()
            value = value if value.type == wide else builder.fpext(value, wide)
            return self._call("PyFloat_FromDouble", _POINTER, [value])
        if isinstance(kind, types.Boolean):
            return self._call("PyBool_FromLong", _POINTER, [builder.zext(value, _I64)])
        if kind.bitwidth < 64:
            widen = builder.sext if kind.signed else builder.zext
            value = widen(value, _I64)
        name = "PyLong_FromLongLong" if kind.signed else "PyLong_FromUnsignedLongLong"
        return self._call(name, _POINTER, [value])


def _numbers(dtype: np.dtype[Any]) -> list[int]:
    """The numbers of the element types that are the same as this one."""
    same = {np.dtype(c).num for c in "?bBhHiIlLqQefd" if np.dtype(c) == dtype}
    return sorted(same)
