"""Which of 64 elements differ, as bits of one number."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from densor.entropy.jit import BOUNDSCHECK

ELEMENTS = 64


@intrinsic
def differing(typingctx, one, other, index):
    """Bit k of the uint64: whether elements `index` + k of two arrays of integers differ."""

    def codegen(context, builder, signature, args):
        vectors = []
        for arytype, value in zip(signature.args[:2], args[:2], strict=True):
            array = context.make_array(arytype)(context, builder, value)
            if BOUNDSCHECK:
                size = builder.extract_value(array.shape, 0)
                last = builder.add(args[2], args[2].type(ELEMENTS - 1))
                cgutils.do_boundscheck(context, builder, args[2], size, 0)
                cgutils.do_boundscheck(context, builder, last, size, 0)
            kind = ir.VectorType(array.data.type.pointee, ELEMENTS)
            address = builder.gep(array.data, [args[2]])
            vectors.append(builder.load(builder.bitcast(address, kind.as_pointer()), align=1))
        return builder.bitcast(builder.icmp_unsigned("!=", *vectors), ir.IntType(ELEMENTS))

    return types.uint64(one, other, types.intp), codegen
