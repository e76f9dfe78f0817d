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

// Bytes 0 and 1 of a word, or 2 and 3, apart by 16 bits.
__device__ __forceinline__ uint32_t low_pair(uint32_t word) { return __byte_perm(word, 0u, 0x4140); }
__device__ __forceinline__ uint32_t high_pair(uint32_t word) { return __byte_perm(word, 0u, 0x4342); }

// Two elements of BF16 from their exponents and from their signs and mantissas, 16 bits apart.
__device__ __forceinline__ uint32_t bf16_pair(uint32_t exponents, uint32_t rest) {
    return ((rest & 0x00800080u) << 8) | (exponents << 7) | (rest & 0x007f007fu);
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
        v.x = bf16_pair(low_pair(symbols[0]), low_pair(rest.x));
        v.y = bf16_pair(high_pair(symbols[0]), high_pair(rest.x));
        v.z = bf16_pair(low_pair(symbols[1]), low_pair(rest.y));
        v.w = bf16_pair(high_pair(symbols[1]), high_pair(rest.y));
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
            uint32_t high01 = bf16_pair(low_pair(a), low_pair(b)), high23 = bf16_pair(high_pair(a), high_pair(b));
            v.x = __byte_perm(low01, high01, 0x5410);
            v.y = __byte_perm(low01, high01, 0x7632);
            v.z = __byte_perm(low23, high23, 0x5410);
            v.w = __byte_perm(low23, high23, 0x7632);
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
