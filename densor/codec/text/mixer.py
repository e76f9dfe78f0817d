"""Logistic mixing (M. Mahoney, PAQ): weighted sums in the stretched domain, learned online.

Weights are in units of 2^-16. Products are of 32 bits, so that eight fit a vector; inputs are
padded to a multiple of eight.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from densor.entropy.jit import BOUNDSCHECK, index, inlined

int64 = numba.int64

VECTOR = 8
_USUAL = 32  # inputs: for these, there is code without a loop
_I32 = ir.IntType(32)
_VECTOR = ir.VectorType(_I32, VECTOR)
_MOST = (1 << 19) - 1  # of a weight; times an input of 11 bits it fits 32 bits
_FINAL_MOST = 1 << 20
_FINAL_STEP = 8


@inlined
def _clip(value, most):
    return min(max(value, int64(-most)), int64(most))


@inlined
def dot(inputs, weights, row):
    """The sum of the inputs, weighted by a row of `weights`, within -2047 and 2047."""
    return _clip(int64(_weighted(inputs, weights, row)) >> 8, 2047)


def _call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    """A call of one of LLVM's own functions."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _constant(value: int) -> Any:
    return ir.Constant(_VECTOR, [value] * VECTOR)


def _over_vectors(
    context: Any, builder: Any, signature: Any, args: Any, body: Callable[[Any, Any], None]
) -> None:
    """Calls `body` with pointers to each vector of the inputs and of the row's weights."""
    inputs = context.make_array(signature.args[0])(context, builder, args[0])
    weights = context.make_array(signature.args[1])(context, builder, args[1])
    row = args[2]
    size = builder.extract_value(inputs.shape, 0)
    if BOUNDSCHECK:
        cgutils.do_boundscheck(context, builder, row, builder.extract_value(weights.shape, 0), 0)
        last = builder.sub(size, ir.Constant(size.type, 1))
        cgutils.do_boundscheck(context, builder, last, builder.extract_value(weights.shape, 1), 1)
    begin = builder.mul(row, size)
    constant = partial(ir.Constant, size.type)

    def call(at: Any) -> None:
        x = builder.gep(inputs.data, [at])
        w = builder.gep(weights.data, [builder.add(begin, at)])
        body(*(builder.bitcast(pointer, _VECTOR.as_pointer()) for pointer in (x, w)))

    usual = builder.icmp_signed("==", size, constant(_USUAL))
    with builder.if_else(usual) as (then, otherwise):
        with then:
            for at in range(0, _USUAL, VECTOR):
                call(constant(at))
        with otherwise:
            slices = constant(0), size, constant(VECTOR), size.type
            with cgutils.for_range_slice(builder, *slices) as (at, _):
                call(at)


def _load(builder: Any, pointer: Any) -> Any:
    value = builder.load(pointer)
    value.align = 4
    return value


@intrinsic
def _weighted(typingctx, inputs, weights, row):
    """The sum of (input * weight) >> 8, where `weights` has as many columns as there are inputs."""

    def codegen(context, builder, signature, args):
        total = cgutils.alloca_once(builder, _VECTOR)
        builder.store(_constant(0), total)

        def add(x: Any, w: Any) -> None:
            product = builder.mul(_load(builder, x), _load(builder, w))
            part = builder.ashr(product, _constant(8))
            builder.store(builder.add(builder.load(total), part), total)

        _over_vectors(context, builder, signature, args, add)
        return _call(builder, "llvm.vector.reduce.add.v8i32", _I32, builder.load(total))

    return types.int32(inputs, weights, types.intp), codegen


@intrinsic
def _train(typingctx, inputs, weights, row, error):
    """Adds (input * error + 2^15) >> 16 to each weight of a row, within _MOST."""

    def codegen(context, builder, signature, args):
        error = builder.insert_element(
            ir.Constant(_VECTOR, ir.Undefined), args[3], ir.Constant(_I32, 0)
        )
        error = builder.shuffle_vector(error, error, _constant(0))

        def move(x: Any, w: Any) -> None:
            step = builder.add(builder.mul(_load(builder, x), error), _constant(1 << 15))
            value = builder.add(_load(builder, w), builder.ashr(step, _constant(16)))
            value = _call(builder, "llvm.smax.v8i32", _VECTOR, value, _constant(-_MOST))
            value = _call(builder, "llvm.smin.v8i32", _VECTOR, value, _constant(_MOST))
            builder.store(value, w).align = 4

        _over_vectors(context, builder, signature, args, move)
        return context.get_dummy_value()

    return types.void(inputs, weights, types.intp, types.int32), codegen


@inlined
def train(inputs, weights, row, error):
    """Moves a row of `weights` along the inputs; |error| < 2^17."""
    _train(inputs, weights, row, numba.int32(error))


@inlined
def final_dot(sums, weights):
    """The weighted sum of what the sets say, within -2047 and 2047."""
    total = int64(0)
    for k in range(sums.size):
        total += int64(sums[index(k)]) * int64(weights[index(k)])
    return _clip(total >> 16, 2047)


@inlined
def train_final(sums, weights, error):
    """Moves the weights along the sums."""
    for k in range(sums.size):
        step = (int64(sums[index(k)]) * error * _FINAL_STEP + (1 << 19)) >> 20
        weights[index(k)] = _clip(int64(weights[index(k)]) + step, _FINAL_MOST)
