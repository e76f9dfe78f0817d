"""Packed elements of blocks to symbols and back: arrays in, arrays out; no allocation or checks.

`geometry`, int64[11]: bytes of a block; offset, bytes, bits and group of the low bits; the same of
the high bits; items of a block; elements of a symbol. `places`: int32[items of all blocks], where
each is among the `symbols`; empty where they stand in order. `elements`: uint8[elements of a
block], work space. Element i + k * m of an item, which has m symbols, is in bits k * b onwards of
its symbol i, for elements of b bits.
"""

import numpy as np
from numba import types

from densor.entropy.intrinsics import load_u32, load_u64, store_u32, store_u64
from densor.entropy.jit import I32, I64, R8, W8, index, inlined, kernel

_ONES = np.uint64(0x0101010101010101)
_DIAGONAL = np.uint64(0x8040201008040201)
_SEVEN = np.uint64(7)
_HIGHEST = np.uint64(0x7F7F7F7F7F7F7F7F)
_GATHER = np.uint64(0x0102040810204080)
_TOP = np.uint64(56)


@inlined
def _unpack_words(blocks, at, size, bits, group, up, elements):
    """Likewise for groups of whole words, of which the compiler knows `bits`."""
    masks = np.uint64((1 << bits) - 1) * _ONES
    step = index(group)
    w = index(0)
    for begin in range(index(at), index(at + size), step):
        for i in range(index(0), step, index(8)):
            word = load_u64(blocks, begin + i)
            place = w + i
            for down in range(0, 8, bits):
                part = word >> np.uint64(down) & masks
                store_u64(elements, place, load_u64(elements, place) | part << up)
                place += step
        w += index(8 // bits) * step


@inlined
def _pack_words(elements, down, bits, group, blocks, at, size):
    """Likewise."""
    masks = np.uint64((1 << bits) - 1) * _ONES
    step = index(group)
    w = index(0)
    for begin in range(index(at), index(at + size), step):
        for i in range(index(0), step, index(8)):
            word = np.uint64(0)
            place = w + i
            for up in range(0, 8, bits):
                word |= (load_u64(elements, place) >> down & masks) << np.uint64(up)
                place += step
            store_u64(blocks, begin + i, word)
        w += index(8 // bits) * step


@inlined
def _unpack(blocks, at, size, bits, group, shift, elements):
    """Adds bits of the elements of one field, shifted up by `shift`."""
    mask = np.uint64((1 << bits) - 1)
    up = np.uint64(shift)
    w = index(0)
    if group == 1 and bits == 1:  # eight elements in a row, in the bits of a byte
        for i in range(index(at), index(at + size)):
            spread = np.uint64(blocks[i]) * _ONES & _DIAGONAL
            spread = ((spread & _HIGHEST) + _HIGHEST | spread) >> _SEVEN & _ONES
            store_u64(elements, w, load_u64(elements, w) | spread << up)
            w += index(8)
        return
    if group % 8 == 0:
        if bits == 4:
            _unpack_words(blocks, at, size, 4, group, up, elements)
        elif bits == 2:
            _unpack_words(blocks, at, size, 2, group, up, elements)
        else:
            _unpack_words(blocks, at, size, 1, group, up, elements)
        return
    for begin in range(index(at), index(at + size), index(group)):
        for down in range(0, 8, bits):
            for i in range(index(group)):
                one = np.uint64(blocks[begin + i]) >> np.uint64(down) & mask
                elements[w + i] |= np.uint8(one << up)
            w += index(group)


@inlined
def _pack(elements, shift, bits, group, blocks, at, size):
    """Sets one field to bits of the elements, from bit `shift` on."""
    mask = np.uint64((1 << bits) - 1)
    down = np.uint64(shift)
    w = index(0)
    if group == 1 and bits == 1:
        for i in range(index(at), index(at + size)):
            word = load_u64(elements, w) >> down & _ONES
            blocks[i] = np.uint8(word * _GATHER >> _TOP)
            w += index(8)
        return
    if group % 8 == 0:
        if bits == 4:
            _pack_words(elements, down, 4, group, blocks, at, size)
        elif bits == 2:
            _pack_words(elements, down, 2, group, blocks, at, size)
        else:
            _pack_words(elements, down, 1, group, blocks, at, size)
        return
    for begin in range(index(at), index(at + size), index(group)):
        for i in range(index(group)):
            one = np.uint64(0)
            for up in range(0, 8, bits):
                place = w + i + index(up // bits) * index(group)
                one |= (np.uint64(elements[place]) >> down & mask) << np.uint64(up)
            blocks[begin + i] = np.uint8(one)
        w += index(8 // bits) * index(group)


@inlined
def _put_item(elements, begin, each, many, element, symbols, place):
    """One item as symbols."""
    if each % 8 == 0:
        for i in range(index(0), index(each), index(8)):
            word = load_u64(elements, begin + i)
            for k in range(1, many):
                part = load_u64(elements, begin + i + index(k) * each)
                word |= part << np.uint64(k * element)
            store_u64(symbols, place + i, word)
        return
    if each == 4:
        half = np.uint64(load_u32(elements, begin))
        for k in range(1, many):
            part = np.uint64(load_u32(elements, begin + index(k) * each))
            half |= part << np.uint64(k * element)
        store_u32(symbols, place, np.uint32(half))
        return
    for i in range(each):
        one = np.uint64(elements[begin + i])
        for k in range(1, many):
            one |= np.uint64(elements[begin + i + index(k) * each]) << np.uint64(k * element)
        symbols[place + i] = np.uint8(one)


@inlined
def _take_item(symbols, place, each, many, element, elements, begin):
    """Elements of one item; returns all bits of its symbols."""
    mask = np.uint64((1 << element) - 1)
    masks = mask * _ONES
    found = np.uint64(0)
    if each % 8 == 0:
        for i in range(index(0), index(each), index(8)):
            word = load_u64(symbols, place + i)
            found |= word
            for k in range(many):
                part = word >> np.uint64(k * element) & masks
                store_u64(elements, begin + i + index(k) * each, part)
        return found
    if each == 4:
        half = np.uint64(load_u32(symbols, place))
        for k in range(many):
            part = half >> np.uint64(k * element) & masks
            store_u32(elements, begin + index(k) * each, np.uint32(part))
        return half
    for i in range(each):
        one = np.uint64(symbols[place + i])
        found |= one
        for k in range(many):
            part = one >> np.uint64(k * element) & mask
            elements[begin + i + index(k) * each] = np.uint8(part)
    return found


@kernel(types.void(R8, I64, I32, W8, W8), counted=False)
def join(blocks, geometry, places, elements, symbols):
    """The symbols of all blocks."""
    block, at, size, bits, group, high_at, high_size, high_bits, high_group, items, many = geometry
    item = index(elements.size // items)
    each = index(elements.size // items // many)  # symbols
    number = 0
    for start in range(0, blocks.size, block):
        elements[:] = np.uint8(0)
        _unpack(blocks, start + at, size, bits, group, 0, elements)
        if high_bits:
            _unpack(blocks, start + high_at, high_size, high_bits, high_group, bits, elements)
        for j in range(items):
            place = index(places[number] if places.size else number) * each
            begin = index(j) * item
            _put_item(elements, begin, each, many, bits + high_bits, symbols, place)
            number += 1


@kernel(types.uint64(R8, I64, I32, W8, W8), counted=False)
def split(symbols, geometry, places, elements, blocks):
    """Sets the fields in all blocks; returns the bits of symbols that no element has."""
    block, at, size, bits, group, high_at, high_size, high_bits, high_group, items, many = geometry
    item = index(elements.size // items)
    each = index(elements.size // items // many)
    element = bits + high_bits
    unused = np.uint64(255 << (element * many) & 255) * _ONES
    found = np.uint64(0)
    number = 0
    for start in range(0, blocks.size, block):
        for j in range(items):
            place = index(places[number] if places.size else number) * each
            begin = index(j) * item
            found |= _take_item(symbols, place, each, many, element, elements, begin)
            number += 1
        _pack(elements, 0, bits, group, blocks, start + at, size)
        if high_bits:
            _pack(elements, bits, high_bits, high_group, blocks, start + high_at, high_size)
    return found & unused


@kernel(types.void(R8, I64, I32), counted=False)
def places_of(keys, counts, places):
    """Where each item is once they are sorted by key, equal ones in their order.

    `counts`: int64[257], work space.
    """
    counts[:] = 0
    for key in keys:
        counts[index(key) + 1] += 1
    for key in range(256):
        counts[key + 1] += counts[key]
    for i in range(keys.size):
        key = index(keys[i])
        places[i] = counts[key]
        counts[key] += 1
