// What all kernels share. Stands before each of them when it is compiled: by NVRTC, by nvcc, or by g++ after
// emulate/cuda_emu.h. No kernel validates: the host has checked all tables, lengths and places (units.py, plan.py,
// rans.py); what only the stored bits tell is bounded here and reported in a status word.
#if defined(__CUDACC_RTC__)
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef int int32_t;
typedef unsigned long long uint64_t;
#elif !defined(CUDA_EMU)
#include <cstdint>
#endif

#define THREADS 256u
#define ALL_LANES 0xffffffffu

// Bits of a tensor's status word: what must not happen with data that passed its checksums.
#define STATUS_POSITION 1u  // a stream does not end where it has to
#define STATUS_STATE 2u     // a rANS state does not end as it began
#define STATUS_ESCAPES 4u   // escape bits are too few or too many

// Tells the compiler that a pointer that was itself loaded points to global memory.
#if defined(CUDA_EMU)
#define GLOBAL(pointer) ((void)0)
#else
#define GLOBAL(pointer) __builtin_assume(__isGlobal(pointer))
#endif

// How a plane's bytes are put together with those of the others, which are in the order of the elements.
enum Layout { BYTE, BF16, WORD16, FP32 };

template <int LAYOUT> struct Element;
template <> struct Element<BYTE> { static constexpr uint32_t size = 1, group = 16; };
template <> struct Element<BF16> { static constexpr uint32_t size = 2, group = 8; };
template <> struct Element<WORD16> { static constexpr uint32_t size = 2, group = 8; };
template <> struct Element<FP32> { static constexpr uint32_t size = 4, group = 8; };

// A plane that stands beside the coded one: `base + (i & keep)` is the byte of element i. A constant plane has
// keep = 0 and a base of 16 equal bytes.
struct Beside {
    const uint8_t* base;
    uint32_t keep, unused;
};

__device__ __forceinline__ uint32_t beside_byte(const Beside& plane, uint32_t i) {
    GLOBAL(plane.base);
    return plane.base[i & plane.keep];
}
__device__ __forceinline__ uint2 beside_eight(const Beside& plane, uint32_t i) {
    GLOBAL(plane.base);
    return *(const uint2*)(plane.base + (i & plane.keep));
}

// `a` where `mask` has ones, `b` elsewhere; one instruction, where compilers make two of a mask that they know.
__device__ __forceinline__ uint32_t merged(uint32_t mask, uint32_t a, uint32_t b) {
#if defined(CUDA_EMU)
    return (a & mask) | (b & ~mask);
#else
    uint32_t found;
    asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(found) : "r"(mask), "r"(a), "r"(b));
    return found;
#endif
}

// Two elements of BF16, 16 bits apart, from words with their exponents in place, and twice the byte of sign and mantissa.
__device__ __forceinline__ uint32_t bf16_pair(uint32_t exponents, uint32_t rest) {
    return merged(0x7f807f80u, exponents, rest);
}

// Of four elements, 0 and 2, or 1 and 3. A shift brings two exponents to their places at once.
__device__ __forceinline__ uint32_t bf16_even(uint32_t exponents, uint32_t rest) {
    return bf16_pair(exponents << 7, __byte_perm(rest, 0u, 0x2200));
}
__device__ __forceinline__ uint32_t bf16_odd(uint32_t exponents, uint32_t rest) {
    return bf16_pair(exponents >> 1, __byte_perm(rest, 0u, 0x3311));
}

__device__ __forceinline__ uint32_t fp32(uint32_t p0, uint32_t p1, uint32_t low) {
    return (p1 & 128u) << 24 | p0 << 23 | (p1 & 127u) << 16 | low;
}

// Bytes 4k to 4k+3 of a vector.
__device__ __forceinline__ uint32_t word_of(const uint2& v, int k) { return k ? v.y : v.x; }

// Stores a whole group of elements, the first of which has a multiple of 16 bytes as its address.
template <int LAYOUT>
__device__ __forceinline__ void store_group(uint8_t* out, const Beside* beside, uint32_t i, const uint32_t* symbols) {
    uint4* target = (uint4*)(out + (uint64_t)i * Element<LAYOUT>::size);
    uint4 v;
    if (LAYOUT == BYTE) {
        v.x = symbols[0];
        v.y = symbols[1];
        v.z = symbols[2 % (Element<LAYOUT>::group / 4)];
        v.w = symbols[3 % (Element<LAYOUT>::group / 4)];
        target[0] = v;
    } else if (LAYOUT == BF16) {
        uint2 rest = beside_eight(beside[0], i);
        uint32_t even = bf16_even(symbols[0], rest.x), odd = bf16_odd(symbols[0], rest.x);
        v.x = __byte_perm(even, odd, 0x5410);
        v.y = __byte_perm(even, odd, 0x7632);
        even = bf16_even(symbols[1], rest.y), odd = bf16_odd(symbols[1], rest.y);
        v.z = __byte_perm(even, odd, 0x5410);
        v.w = __byte_perm(even, odd, 0x7632);
        target[0] = v;
    } else if (LAYOUT == WORD16) {
        uint2 low = beside_eight(beside[0], i);
        v.x = __byte_perm(low.x, symbols[0], 0x5140);
        v.y = __byte_perm(low.x, symbols[0], 0x7362);
        v.z = __byte_perm(low.y, symbols[1], 0x5140);
        v.w = __byte_perm(low.y, symbols[1], 0x7362);
        target[0] = v;
    } else {
        uint2 p1 = beside_eight(beside[0], i), p2 = beside_eight(beside[1], i), p3 = beside_eight(beside[2], i);
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            // The high halves of two elements are those of BF16.
            uint32_t a = symbols[k], b = word_of(p1, k), c = word_of(p2, k), d = word_of(p3, k);
            uint32_t low01 = __byte_perm(d, c, 0x5140), low23 = __byte_perm(d, c, 0x7362);
            uint32_t even = bf16_even(a, b), odd = bf16_odd(a, b);
            v.x = __byte_perm(low01, even, 0x5410);
            v.y = __byte_perm(low01, odd, 0x5432);
            v.z = __byte_perm(low23, even, 0x7610);
            v.w = __byte_perm(low23, odd, 0x7632);
            target[k] = v;
        }
    }
}

// Stores one element.
template <int LAYOUT>
__device__ __forceinline__ void store_one(uint8_t* out, const Beside* beside, uint32_t i, uint32_t symbol) {
    if (LAYOUT == BYTE) {
        out[i] = (uint8_t)symbol;
    } else if (LAYOUT == BF16) {
        uint32_t rest = beside_byte(beside[0], i);
        ((uint16_t*)out)[i] = (uint16_t)((rest & 128u) << 8 | symbol << 7 | (rest & 127u));
    } else if (LAYOUT == WORD16) {
        ((uint16_t*)out)[i] = (uint16_t)(symbol << 8 | beside_byte(beside[0], i));
    } else {
        uint32_t low = beside_byte(beside[1], i) << 8 | beside_byte(beside[2], i);
        ((uint32_t*)out)[i] = fp32(symbol, beside_byte(beside[0], i), low);
    }
}
