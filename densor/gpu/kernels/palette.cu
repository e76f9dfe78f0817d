// BF16 matrices in a format of fixed width, made at load: per element the byte of sign and mantissa, and 4 bits that name
// one of the 15 most frequent exponents, or an escape: the exponent is stored by itself.
//
// A row is cut into tiles of 256 elements, the last one filled up; lane j of a warp has elements 8j to 8j+7 of a tile. As
// every element is where it is, a product needs no decoded matrix in memory: weights are made in registers and used.

#define TILE 256u
#define ESCAPE_MASK 0x11111111u

struct Matrix {
    const uint8_t* palette;   // 16 exponents, the last one unused
    const uint32_t* ranks;    // 32 words per tile
    const uint32_t* first_escapes;  // index in `escaped` of the first escaped exponent of each tile
    const uint8_t* escaped;   // exponents that are not in the palette
    const uint8_t* rest;  // 256 bytes per tile: sign and mantissa
    uint32_t rows, columns, tiles, unused;  // `tiles` of a row
};

static_assert(sizeof(Matrix) == 56, "as palette.py has it");

// Exponents of two ranks, in their places in elements 16 bits apart.
__device__ __forceinline__ void fill_pairs(const Matrix& m, uint32_t* pairs) {
    for (uint32_t i = threadIdx.x; i < 256u; i += THREADS)
        pairs[i] = (uint32_t)m.palette[i & 15u] << 7 | (uint32_t)m.palette[i >> 4] << 23;
    __syncthreads();
}

// The 8 weights that a lane has of a tile: two in each word. All lanes of a warp call this.
__device__ __forceinline__ void weights_of(const Matrix& m, const uint32_t* pairs, uint64_t tile, uint32_t lane,
                                           uint32_t* weights) {
    GLOBAL(m.ranks);
    GLOBAL(m.rest);
    const uint32_t ranks = m.ranks[tile * 32u + lane];
    const uint2 rest = *(const uint2*)(m.rest + tile * TILE + lane * 8u);
    uint32_t exponents[4];
#pragma unroll
    for (uint32_t k = 0; k < 4u; ++k) exponents[k] = pairs[ranks >> (8u * k) & 255u];
    uint32_t escaped = ranks & (ranks >> 1);
    escaped = escaped & (escaped >> 2) & ESCAPE_MASK;  // ranks of 15
    if (__any_sync(ALL_LANES, escaped != 0u)) {
        const uint32_t count = (uint32_t)__popc(escaped);
        uint32_t upto = count;
#pragma unroll
        for (uint32_t d = 1u; d < 32u; d <<= 1) {
            const uint32_t before = __shfl_up_sync(ALL_LANES, upto, d);
            if (lane >= d) upto += before;
        }
        GLOBAL(m.first_escapes);
        GLOBAL(m.escaped);
        const uint8_t* at = m.escaped + m.first_escapes[tile] + (upto - count);
#pragma unroll
        for (uint32_t k = 0; k < 8u; ++k) {
            if (escaped >> (4u * k) & 1u) {
                const uint32_t shift = 16u * (k & 1u) + 7u;
                exponents[k >> 1] = (exponents[k >> 1] & ~(255u << shift)) | (uint32_t)*at++ << shift;
            }
        }
    }
    weights[0] = bf16_pair(exponents[0], __byte_perm(rest.x, 0u, 0x1100));
    weights[1] = bf16_pair(exponents[1], __byte_perm(rest.x, 0u, 0x3322));
    weights[2] = bf16_pair(exponents[2], __byte_perm(rest.y, 0u, 0x1100));
    weights[3] = bf16_pair(exponents[3], __byte_perm(rest.y, 0u, 0x3322));
}

// The matrix as it was, row by row.
extern "C" __global__ __launch_bounds__(THREADS) void palette_decode(
    const Matrix* matrix, uint16_t* out) {
    __shared__ uint32_t pairs[256];
    const Matrix& m = *matrix;
    fill_pairs(m, pairs);
    GLOBAL(out);
    const uint32_t lane = threadIdx.x & 31u;
    const uint64_t warps = (uint64_t)gridDim.x * (THREADS / 32u), all = (uint64_t)m.rows * m.tiles;
    for (uint64_t tile = (uint64_t)blockIdx.x * (THREADS / 32u) + (threadIdx.x >> 5); tile < all; tile += warps) {
        uint32_t weights[4];
        weights_of(m, pairs, tile, lane, weights);
        const uint64_t row = tile / m.tiles;
        const uint32_t column = (uint32_t)(tile - row * m.tiles) * TILE + lane * 8u;
        uint16_t* target = out + row * m.columns + column;
        if (column + 8u <= m.columns && ((uint64_t)target & 15u) == 0u) {
            *(uint4*)target = make_uint4(weights[0], weights[1], weights[2], weights[3]);
        } else {
#pragma unroll
            for (uint32_t k = 0; k < 8u; ++k)
                if (column + k < m.columns) target[k] = (uint16_t)(weights[k >> 1] >> (16u * (k & 1u)));
        }
    }
}

__device__ __forceinline__ float low_half(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_half(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// y[b, row] = sum over columns of matrix[row, column] * x[b, column] for BATCH rows x, summed in FP32: by each lane over
// its columns, then over the lanes. Columns are a multiple of 8. A warp has a row at a time.
template <int BATCH>
__device__ __forceinline__ void multiply(const Matrix& m, const uint32_t* pairs, const uint16_t* x, float* y) {
    const uint32_t lane = threadIdx.x & 31u;
    GLOBAL(x);
    GLOBAL(y);
    for (uint32_t row = blockIdx.x * (THREADS / 32u) + (threadIdx.x >> 5); row < m.rows;
         row += gridDim.x * (THREADS / 32u)) {
        float sums[BATCH];
#pragma unroll
        for (int b = 0; b < BATCH; ++b) sums[b] = 0.0f;
        for (uint32_t t = 0; t < m.tiles; ++t) {
            uint32_t weights[4];
            weights_of(m, pairs, (uint64_t)row * m.tiles + t, lane, weights);
            const uint32_t column = t * TILE + lane * 8u;
            if (column < m.columns) {
#pragma unroll
                for (int b = 0; b < BATCH; ++b) {
                    const uint4 v = *(const uint4*)(x + (uint64_t)b * m.columns + column);
                    float sum = low_half(weights[0]) * low_half(v.x);
                    sum += high_half(weights[0]) * high_half(v.x);
                    sum += low_half(weights[1]) * low_half(v.y);
                    sum += high_half(weights[1]) * high_half(v.y);
                    sum += low_half(weights[2]) * low_half(v.z);
                    sum += high_half(weights[2]) * high_half(v.z);
                    sum += low_half(weights[3]) * low_half(v.w);
                    sum += high_half(weights[3]) * high_half(v.w);
                    sums[b] += sum;
                }
            }
        }
#pragma unroll
        for (int b = 0; b < BATCH; ++b) {
#pragma unroll
            for (int d = 16; d > 0; d >>= 1) sums[b] += __shfl_xor_sync(ALL_LANES, sums[b], d);
            if (lane == 0u) y[(uint64_t)b * m.rows + row] = sums[b];
        }
    }
}

#define MATVEC(name, BATCH)                                             \
    extern "C" __global__ __launch_bounds__(THREADS, 4) void name(      \
        const Matrix* matrix, const uint16_t* x, float* y) {            \
        __shared__ uint32_t pairs[256];                                 \
        fill_pairs(*matrix, pairs);                                     \
        multiply<BATCH>(*matrix, pairs, x, y);                          \
    }
MATVEC(palette_product_1, 1)
MATVEC(palette_product_2, 2)
MATVEC(palette_product_4, 4)
MATVEC(palette_product_8, 8)
