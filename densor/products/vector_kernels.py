"""What the kernels of this room emit: vectors of 64 bytes, as LLVM code for any processor.

LLVM lowers them to AVX-512, AVX2, NEON or scalar code. Four operations are named by processor, each
with a general form beside it: look-up in 16 bytes, expansion of escapes, their compression, and the
product of BF16 vectors.
"""

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils

from densor.entropy.intrinsics import fetch_line
from densor.entropy.vectors import features_of

COLUMNS = 64  # of a tile
I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F16 = ir.FloatType(), ir.HalfType()
V8, V16, V32 = ir.VectorType(I8, 64), ir.VectorType(I16, 32), ir.VectorType(I32, 16)
VF = ir.VectorType(F32, 16)
_M64 = ir.VectorType(I1, 64)
_BYTES16 = ir.VectorType(I8, 16)
_OPAQUE_BFLOAT = llvmlite.binding.llvm_version_info[0] >= 17


class _BFloat(ir.Type):
    """The type `bfloat`, which llvmlite does not have."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, _BFloat)

    def __hash__(self):
        return hash(_BFloat)


_VB = ir.VectorType(_BFloat(), 32) if _OPAQUE_BFLOAT else V32


def lanes(numbers):
    """Lanes for `shuffle_vector`."""
    numbers = list(numbers)
    return ir.Constant(ir.VectorType(I32, len(numbers)), numbers)


def number(kind, value):
    """A vector with one value in all lanes."""
    return ir.Constant(kind, [value] * kind.count)


class Emitter:
    """Emits code into one function.

    `products`: "dot" for instructions that multiply BF16 vectors, "fma" for FP32 ones. Both add in
    the same order and give the same bits, but for subnormals, which "dot" takes and gives as 0.
    """

    def __init__(self, context: Any, builder: Any) -> None:
        self.b = builder
        self.family, self.features = features_of(context)
        self.products = "dot" if "avx512bf16" in self.features else "fma"

    def load(self, pointer, kind, align=1):
        """A vector from memory."""
        value = self.b.load(self.b.bitcast(pointer, kind.as_pointer()))
        value.align = align
        return value

    def store(self, value, pointer, align=1):
        """A value to memory."""
        self.b.store(value, self.b.bitcast(pointer, value.type.as_pointer())).align = align

    def at(self, pointer, offset):
        """A pointer some bytes on; `offset`: a value or a number."""
        if isinstance(offset, int):
            offset = I64(offset)
        return self.b.gep(pointer, [offset])

    def field(self, address, index):
        """A number of an array of int64."""
        place = self.b.inttoptr(self.b.add(address, I64(8 * index)), I64.as_pointer())
        return self.b.load(place)

    def pointer(self, address, index):
        """A pointer to bytes that an array of int64 holds."""
        return self.b.inttoptr(self.field(address, index), I8.as_pointer())

    def call(self, name, result, args):
        """A call of an intrinsic of LLVM."""
        kind = ir.FunctionType(result, [arg.type for arg in args])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), args)

    def prefetch(self, pointer):
        """Asks for a cache line."""
        fetch_line(self.b, pointer)

    def splat(self, value, kind):
        """A vector with a value in all lanes."""
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
        return self.b.shuffle_vector(one, one, lanes([0] * kind.count))

    def shifted(self, plane, right):
        """Words of 16 bits shifted right, or left if negative; who calls masks other bits off."""
        words = self.b.bitcast(plane, V16)
        if right > 0:
            words = self.b.lshr(words, number(V16, right))
        elif right < 0:
            words = self.b.shl(words, number(V16, -right))
        return self.b.bitcast(words, V8)

    def moved(self, plane, bits, left=False):
        """The same by a number of bits that is a value, an i64."""
        by = self.splat(self.b.trunc(bits, I16), V16)
        words = self.b.bitcast(plane, V16)
        words = self.b.shl(words, by) if left else self.b.lshr(words, by)
        return self.b.bitcast(words, V8)

    def in_three_bits(self, planes, row):
        """Of three planes, the numbers below 8 of a row."""
        b = self.b
        low = b.and_(self.shifted(planes[row // 4], 2 * (row % 4)), number(V8, 3))
        return b.or_(low, b.and_(self.shifted(planes[2], row - 2), number(V8, 4)))

    def in_four_bits(self, planes, row):
        """Of four planes, the numbers below 16 of a row."""
        return self.b.and_(self.shifted(planes[row // 2], 4 * (row % 2)), number(V8, 15))

    def lookup(self, table, index):
        """Bytes of a table of 16, repeated four times, by indices below 16."""
        if "avx512bw" in self.features:
            return self.call("llvm.x86.avx512.pshuf.b.512", V8, [table, index])
        if "avx2" in self.features:
            name, width = "llvm.x86.avx2.pshuf.b", 32
        elif "ssse3" in self.features:
            name, width = "llvm.x86.ssse3.pshuf.b.128", 16
        elif self.family in ("aarch64", "arm64"):
            name, width = "llvm.aarch64.neon.tbl1.v16i8", 16
        else:
            return self._lookup_anywhere(table, index)
        kind = ir.VectorType(I8, width)
        parts = []
        for start in range(0, 64, width):
            pick = lanes(range(start, start + width))
            parts.append(
                self.call(name, kind, [self.b.shuffle_vector(v, v, pick) for v in (table, index)])
            )
        return self._joined(parts)

    def _joined(self, parts):
        while len(parts) > 1:
            both = lanes(range(2 * parts[0].type.count))
            parts = [
                self.b.shuffle_vector(*parts[i : i + 2], both) for i in range(0, len(parts), 2)
            ]
        return parts[0]

    def _lookup_anywhere(self, table, index):
        found = number(V8, 0)
        for entry in range(16):
            value = self.b.shuffle_vector(table, table, lanes([entry] * 64))
            found = self.b.select(
                self.b.icmp_unsigned("==", index, number(V8, entry)), value, found
            )
        return found

    def ones(self, mask):
        """How many bits of an i64 are set."""
        return self.b.call(self.b.module.declare_intrinsic("llvm.ctpop", [I64]), [mask])

    def mask_bits(self, mask):
        """64 truth values as an i64, lane 0 lowest."""
        return self.b.bitcast(mask, I64)

    def _each(self, bits, work):
        """`work(lane, count)` for each bit that is set in an i64."""
        b = self.b
        left, count = cgutils.alloca_once(b, I64), cgutils.alloca_once(b, I64)
        b.store(bits, left)
        b.store(I64(0), count)
        loop, end = b.append_basic_block("each"), b.append_basic_block("each.end")
        b.cbranch(b.icmp_unsigned("!=", bits, I64(0)), loop, end)
        b.position_at_end(loop)
        now, done = b.load(left), b.load(count)
        lane = b.cttz(now, I1(1))
        work(lane, done)
        rest = b.and_(now, b.sub(now, I64(1)))
        b.store(rest, left)
        b.store(b.add(done, I64(1)), count)
        b.cbranch(b.icmp_unsigned("!=", rest, I64(0)), loop, end)
        b.position_at_end(end)

    def expand(self, pointer, mask, rest):
        """Consecutive bytes to the lanes of a mask, `rest` in the others.

        64 bytes at `pointer` may be read.
        """
        if "avx512vbmi2" in self.features:
            data = self.load(pointer, V8)
            return self.call("llvm.x86.avx512.mask.expand.v64i8", V8, [data, rest, mask])
        place = cgutils.alloca_once(self.b, V8)
        place.align = 64
        self.b.store(rest, place)
        bytes_ = self.b.bitcast(place, I8.as_pointer())

        def work(lane, count):
            self.b.store(self.b.load(self.at(pointer, count)), self.at(bytes_, lane))

        self._each(self.mask_bits(mask), work)
        return self.b.load(place)

    def compress(self, vector, mask, pointer):
        """The lanes of a mask to consecutive bytes; 64 bytes at `pointer` may be written."""
        if "avx512vbmi2" in self.features:
            zero = number(V8, 0)
            some = self.call("llvm.x86.avx512.mask.compress.v64i8", V8, [vector, zero, mask])
            self.store(some, pointer)
            return
        place = cgutils.alloca_once(self.b, V8)
        place.align = 64
        self.b.store(vector, place)
        bytes_ = self.b.bitcast(place, I8.as_pointer())

        def work(lane, count):
            self.b.store(self.b.load(self.at(bytes_, lane)), self.at(pointer, count))

        self._each(self.mask_bits(mask), work)

    def words(self, low, high):
        """Columns 0 to 31 and 32 to 63 as words of 16 bits, from their low and high bytes.

        Within each 16 bytes, the first eight are of the first half.
        """
        found = []
        for half in (0, 8):
            pick = [16 * q + half + j + 64 * k for q in range(4) for j in range(8) for k in (0, 1)]
            found.append(self.b.bitcast(self.b.shuffle_vector(low, high, lanes(pick)), V16))
        return found

    def parts(self, words):
        """Low and high bytes of 64 words, given as two vectors: the inverse of `words`."""
        pair = [self.b.bitcast(half, V8) for half in words]
        found = []
        for byte in (0, 1):
            pick = [
                16 * q + 2 * (p % 8) + byte + 64 * (p // 8) for q in range(4) for p in range(16)
            ]
            found.append(self.b.shuffle_vector(*pair, lanes(pick)))
        return found

    def operand(self, words, half_floats):
        """32 floats of 16 bits, ready to be multiplied."""
        b = self.b
        if half_floats:
            pair = []
            for start in (1, 0):
                some = b.shuffle_vector(words, words, lanes(range(start, 32, 2)))
                pair.append(self._half_to_float(some, VF))
            return pair
        if self.products == "dot":
            return b.bitcast(words, _VB)
        pairs = b.bitcast(words, V32)
        odd = b.and_(pairs, number(V32, 0xFFFF0000))
        return [b.bitcast(odd, VF), b.bitcast(b.shl(pairs, number(V32, 16)), VF)]

    def multiply_add(self, total, weights, inputs):
        """Lane l of the sums gets the products of columns 2l + 1, then 2l."""
        if not isinstance(weights, list):
            name = "llvm.x86.avx512bf16.dpbf16ps.512"
            return self.call(name, VF, [total, weights, inputs])
        for w, x in zip(weights, inputs, strict=True):
            total = self.call("llvm.fma.v16f32", VF, [w, x, total])
        return total

    def total(self, sums):
        """The sum of 16 lanes, added 8 + 8, 4 + 4, 2 + 2 and 1 + 1."""
        width = 16
        while width > 1:
            width //= 2
            parts = [
                self.b.shuffle_vector(sums, sums, lanes(range(start, start + width)))
                for start in (0, width)
            ]
            sums = self.b.fadd(*parts)
        return self.b.extract_element(sums, I32(0))

    def to_word(self, value, half_floats):
        """An FP32 as 16 bits, rounded to nearest, ties to even."""
        b = self.b
        if half_floats:
            return self._float_to_half(value)
        bits = b.bitcast(value, I32)
        odd = b.and_(b.lshr(bits, I32(16)), I32(1))
        rounded = b.lshr(b.add(bits, b.add(odd, I32(0x7FFF))), I32(16))
        is_nan = b.fcmp_unordered("uno", value, value)
        return b.trunc(b.select(is_nan, I32(0x7FC0), rounded), I16)

    def to_float(self, word, half_floats):
        """16 bits as FP32."""
        b = self.b
        if half_floats:
            return self._half_to_float(word, F32)
        return b.bitcast(b.shl(b.zext(word, I32), I32(16)), F32)

    def _has_halves(self):
        """Whether the processor converts FP16; LLVM would call a library that may not be there."""
        return self.family in ("aarch64", "arm64") or "f16c" in self.features

    def _half_to_float(self, words, result):
        """FP16, one or 16, as FP32."""
        b = self.b
        one = result is F32
        if self._has_halves():
            return b.fpext(b.bitcast(words, F16 if one else ir.VectorType(F16, 16)), result)
        kind = I32 if one else V32

        def of(value):
            return I32(value) if one else number(V32, value)

        wide = b.zext(words, kind)
        rest = b.shl(b.and_(wide, of(0x7FFF)), of(13))
        scale = F32(2.0**112) if one else ir.Constant(VF, [2.0**112] * 16)
        scaled = b.bitcast(b.fmul(b.bitcast(rest, result), scale), kind)
        special = b.icmp_unsigned(">=", rest, of(31 << 23))  # infinity and NaN
        scaled = b.select(special, b.or_(scaled, of(0x7F800000)), scaled)
        return b.bitcast(b.or_(scaled, b.shl(b.and_(wide, of(0x8000)), of(16))), result)

    def _float_to_half(self, value):
        """An FP32 as FP16, rounded to nearest, ties to even."""
        b = self.b
        if self._has_halves():
            return b.bitcast(b.fptrunc(value, F16), I16)
        bits = b.bitcast(value, I32)
        sign = b.and_(b.lshr(bits, I32(16)), I32(0x8000))
        rest = b.and_(bits, I32(0x7FFFFFFF))
        odd = b.and_(b.lshr(rest, I32(13)), I32(1))
        usual = b.lshr(b.add(rest, b.add(odd, I32((-112 << 23) + 0xFFF))), I32(13))
        small = b.fadd(b.bitcast(rest, F32), F32(0.5))  # rounds where subnormals of FP16 end
        small = b.sub(b.bitcast(small, I32), I32(0x3F000000))
        found = b.select(b.icmp_unsigned("<", rest, I32(0x38800000)), small, usual)
        found = b.select(b.icmp_unsigned(">=", rest, I32(0x47800000)), I32(0x7C00), found)
        found = b.select(b.icmp_unsigned(">", rest, I32(0x7F800000)), I32(0x7E00), found)
        return b.trunc(b.or_(found, sign), I16)
