// Floats under scale contexts (codec 3): a warp decodes a chunk, lane j the elements whose number is j modulo 32.
//
// The host has taken the scales of rows and columns from the stream and hands on the states where elements begin. A
// chunk has one stream, so that its steps are serial: what counts is how many chunks there are, and latency. The words of
// the stream are loaded three steps ahead and handed around by shuffles.

#define RANS_THREADS 128u
#define RANS_WARPS (RANS_THREADS / 32u)
#define PROBABILITY_BITS 12u
#define FIRST_STATE 65536u
#define MOST_SHARED 8u  // contexts whose tables fit in shared memory
#define LOOK_BYTES (1u << (PROBABILITY_BITS - 1u))
#define RANGE_WORDS 256u

// A matrix of a chunk. After the last one stands one that never ends.
struct Part {
    uint32_t rows, columns;
    uint32_t first_row, first_column;  // of its scales
};

// A chunk.
struct Stream {
    const uint16_t* words;   // from the first element on
    const uint32_t* states;  // 32 of them
    const Part* parts;
    const uint8_t* row_scales;
    const uint8_t* column_scales;
    const uint8_t* rest;
    const uint32_t* signs;
    const uint8_t* apart;
    const uint16_t* low;  // low halves of FP32, that of element i at `i & keep`
    uint64_t out;         // offset of the chunk in its tensor, in bytes
    uint32_t n_words, n, n_apart, keep;
    int32_t base;  // base exponent and first exponent of the alphabet
    uint32_t tensor, status, unused;
};

// Chunks of one model, one per warp of a block. `ranges` and `looks`: places of its tables, in words.
struct StreamJob {
    uint32_t stream, streams;
    uint32_t tables;
    uint32_t phase, main, tails;
};

static_assert(sizeof(Part) == 16 && sizeof(Stream) == 112 && sizeof(StreamJob) == 24, "as descriptors.py has them");

// Of each context the ranges of its symbols in order: start (12 bits), length - 1 (12 bits), symbol (8 bits); and for
// each pair of slots the number of the range that the first one is in. The second slot may be in the next range.
struct Tables {
    const uint32_t* ranges;
    const uint8_t* looks;
};

__device__ __forceinline__ uint32_t range_of(const Tables& tables, uint32_t context, uint32_t slot) {
    uint32_t at = context * RANGE_WORDS + tables.looks[context * LOOK_BYTES + (slot >> 1)];
    uint32_t range = tables.ranges[at];
    if (slot - (range & 4095u) > (range >> 12 & 4095u)) range = tables.ranges[at + 1u];
    return range;
}

// Up to 13 bits of a string of bits, its end filled up with zeros.
__device__ __forceinline__ uint32_t bits_apart(const Stream& stream, uint32_t bit, uint32_t count) {
    uint32_t at = bit >> 3, word = 0u;
    GLOBAL(stream.apart);
#pragma unroll
    for (uint32_t k = 0; k < 3u; ++k)
        if (at + k < stream.n_apart) word |= (uint32_t)stream.apart[at + k] << (8u * k);
    return word >> (bit & 7u) & ((1u << count) - 1u);
}

// Which parts of an element are coded.
enum Form { FORM_BF16, FORM_FP16, FORM_FP8, FORM_FP32 };

// What a lane keeps between two steps.
struct Lane {
    uint32_t below;  // a mask of the lanes below
    uint32_t x;      // state
    uint32_t scale;  // of the next element
    uint32_t bit;    // of what stands apart
    uint32_t used;   // words
    // This lane's among the 32 words that the next one is in, and among the 32 and the 64 after these.
    uint32_t word0, word1, word2;
    // Where the next element lies.
    const Part* part;
    uint32_t rows, columns, row, column, row_scale;
    const uint8_t* column_scales;
};

__device__ __forceinline__ void enter_part(const Stream& s, Lane& l) {
    GLOBAL(l.part);
    l.rows = l.part->rows;
    l.columns = l.part->columns;
    l.column_scales = s.column_scales + l.part->first_column;
    l.row = 0u;
}

// The lane's next element is that of `column` in the lane's row: finds out where that really is, and takes its scale.
// Beyond the last element it is one of a matrix that never ends, and has any scale.
__device__ __forceinline__ void look_ahead(const Stream& s, Lane& l) {
    if (l.column >= l.columns) {
        do {
            l.column -= l.columns;
            if (++l.row == l.rows) {
                ++l.part;
                enter_part(s, l);
            }
        } while (l.column >= l.columns);
        GLOBAL(s.row_scales);
        l.row_scale = s.row_scales[l.part->first_row + l.row];
    }
    GLOBAL(l.column_scales);
    l.scale = l.row_scale + l.column_scales[l.column] & 255u;
}

// The bits of element `i` that are stored as they are, in their places.
template <int FORM> __device__ __forceinline__ uint32_t stored_bits(const Stream& s, uint32_t i) {
    const uint32_t lane = i & 31u;
    GLOBAL(s.rest);
    GLOBAL(s.signs);
    if (FORM == FORM_FP16) {
        uint32_t rest = s.rest[i];
        return (rest & 128u) << 8 | (rest & 127u);
    }
    uint32_t sign = s.signs[i >> 5] >> lane & 1u;
    if (FORM == FORM_FP8) return sign << 7;
    uint32_t rest = (uint32_t)s.rest[(i >> 5) * 16u + (lane & 15u)] >> (lane >> 4 << 2) & 15u;
    return sign << 15 | rest;
}

template <int FORM>
__device__ __forceinline__ void store_joined(const Stream& s, uint8_t* out, uint32_t i, uint32_t stored, uint32_t top) {
    if (FORM == FORM_FP8) {
        out[i] = (uint8_t)(stored | top);
    } else if (FORM == FORM_FP16) {
        ((uint16_t*)out)[i] = (uint16_t)(stored | top << 7);
    } else if (FORM == FORM_BF16) {
        ((uint16_t*)out)[i] = (uint16_t)(stored | top << 4);
    } else {
        GLOBAL(s.low);
        ((uint32_t*)out)[i] = (stored | top << 4) << 16 | s.low[i & s.keep];
    }
}

// One element per lane, number `i`. `WHOLE`: all lanes have one.
template <int FORM, uint32_t EXPONENT, uint32_t TOP, bool WHOLE>
__device__ __forceinline__ void step(const Stream& s, const StreamJob& job, const Tables& tables, uint8_t* out, Lane& l,
                                     uint32_t i) {
    const bool active = WHOLE || i < s.n;
    const uint32_t scale = l.scale;
    l.column += 32u;
    look_ahead(s, l);
    const uint32_t stored = stored_bits<FORM>(s, i);  // blocks are whole
    const uint32_t slot = l.x & ((1u << PROBABILITY_BITS) - 1u);
    const uint32_t range = range_of(tables, scale & ((1u << job.phase) - 1u), slot);
    const uint32_t symbol = range >> 24;
    const uint32_t x = ((range >> 12 & 4095u) + 1u) * (l.x >> PROBABILITY_BITS) + slot - (range & 4095u);
    if (active) l.x = x;
    const bool need = active && x < FIRST_STATE;
    const uint32_t needing = __ballot_sync(ALL_LANES, need);
    const uint32_t mine = (l.used & 31u) + __popc(needing & l.below);
    const uint32_t near = __shfl_sync(ALL_LANES, l.word0, (int)mine), far = __shfl_sync(ALL_LANES, l.word1, (int)mine);
    if (need) l.x = l.x << 16 | (mine < 32u ? near : far);
    const uint32_t before = l.used;
    l.used += __popc(needing);
    if ((before ^ l.used) & 32u) {
        l.word0 = l.word1;
        l.word1 = l.word2;
        GLOBAL(s.words);
        const uint32_t at = (l.used & ~31u) + 64u + (i & 31u);
        l.word2 = at < s.n_words ? s.words[at] : 0u;
    }
    uint32_t expected = (uint32_t)(s.base + (int32_t)(scale >> job.phase));
    uint32_t top = symbol == job.main ? 0u : symbol + (expected << TOP) & ((1u << (EXPONENT + TOP)) - 1u);
    const uint32_t rare = __ballot_sync(ALL_LANES, active && symbol > job.main);
    if (rare) {
        const bool is_escape = active && symbol > job.main + job.tails;
        const uint32_t escapes = __ballot_sync(ALL_LANES, is_escape), tails = rare & ~escapes;
        if (active && symbol > job.main) {
            const uint32_t from = l.bit + TOP * __popc(tails & l.below) + (EXPONENT + TOP) * __popc(escapes & l.below);
            top = bits_apart(s, from, is_escape ? EXPONENT + TOP : TOP);
            expected -= symbol - job.main;
            if (!is_escape) top |= (expected & ((1u << EXPONENT) - 1u)) << TOP;
        }
        l.bit += TOP * __popc(tails) + (EXPONENT + TOP) * __popc(escapes);
    }
    if (active) store_joined<FORM>(s, out, i, stored, top);
}

template <int FORM, uint32_t EXPONENT, uint32_t TOP>
__device__ __forceinline__ void decode_stream(const Stream& s, const StreamJob& job, const Tables& tables, uint8_t* out,
                                              uint32_t* status) {
    GLOBAL(out);
    GLOBAL(s.words);
    GLOBAL(s.states);
    Lane l;
    const uint32_t lane = threadIdx.x & 31u;
    l.below = (1u << lane) - 1u;
    l.x = s.states[lane];
    l.bit = l.used = 0u;
    l.word0 = lane < s.n_words ? s.words[lane] : 0u;
    l.word1 = lane + 32u < s.n_words ? s.words[lane + 32u] : 0u;
    l.word2 = lane + 64u < s.n_words ? s.words[lane + 64u] : 0u;
    l.part = s.parts;
    enter_part(s, l);
    GLOBAL(s.row_scales);
    l.row_scale = s.row_scales[l.part->first_row];
    l.column = lane;
    look_ahead(s, l);
    uint32_t i = lane;
    const uint32_t whole = (s.n & ~31u) + lane;
#pragma unroll 1
    for (; i != whole; i += 32u) step<FORM, EXPONENT, TOP, true>(s, job, tables, out, l, i);
    if (s.n & 31u) step<FORM, EXPONENT, TOP, false>(s, job, tables, out, l, i);
    uint32_t wrong = l.x != FIRST_STATE ? STATUS_STATE : 0u;
    if (l.used != s.n_words) wrong |= STATUS_POSITION;
    if ((l.bit + 7u) >> 3 != s.n_apart)
        wrong |= STATUS_APART;
    else if ((l.bit & 7u) && s.apart[s.n_apart - 1u] >> (l.bit & 7u))
        wrong |= STATUS_APART;
    if (wrong) atomicOr(status + s.status, wrong);
}

template <int FORM, uint32_t EXPONENT, uint32_t TOP>
__device__ __forceinline__ void decode_streams(const StreamJob* jobs, uint32_t n_jobs, const Stream* streams,
                                               const uint32_t* tables, uint8_t* const* outs, uint32_t* status,
                                               uint32_t* shared) {
    if (blockIdx.x >= n_jobs) return;
    const StreamJob job = jobs[blockIdx.x];
    const uint32_t contexts = 1u << job.phase, warp = threadIdx.x >> 5;
    const uint32_t* source = tables + job.tables;
    const bool fits = contexts <= MOST_SHARED;
    if (fits)
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < contexts * (RANGE_WORDS + LOOK_BYTES / 4u) / 4u; i += RANS_THREADS)
            ((uint4*)shared)[i] = ((const uint4*)source)[i];
    __syncthreads();
    if (warp >= job.streams) return;
    const Stream& stream = streams[job.stream + warp];
    uint8_t* out = outs[stream.tensor] + stream.out;
    if (fits) {
        const Tables near = {shared, (const uint8_t*)(shared + contexts * RANGE_WORDS)};
        decode_stream<FORM, EXPONENT, TOP>(stream, job, near, out, status);
    } else {
        GLOBAL(source);
        const Tables far = {source, (const uint8_t*)(source + contexts * RANGE_WORDS)};
        decode_stream<FORM, EXPONENT, TOP>(stream, job, far, out, status);
    }
}

#define RANS(name, FORM, EXPONENT, TOP)                                                                      \
    extern "C" __global__ __launch_bounds__(RANS_THREADS, 10) void name(                                         \
        const StreamJob* jobs, uint32_t n_jobs, const Stream* streams, const uint32_t* tables,               \
        uint8_t* const* outs, uint32_t* status) {                                                            \
        __shared__ __align__(16) uint32_t shared[MOST_SHARED * (RANGE_WORDS + LOOK_BYTES / 4u)];             \
        decode_streams<FORM, EXPONENT, TOP>(jobs, n_jobs, streams, tables, outs, status, shared);            \
    }
RANS(rans_bf16, FORM_BF16, 8u, 3u)
RANS(rans_fp16, FORM_FP16, 5u, 3u)
RANS(rans_fp8_e4m3, FORM_FP8, 4u, 3u)
RANS(rans_fp8_e5m2, FORM_FP8, 5u, 2u)
RANS(rans_fp32, FORM_FP32, 8u, 3u)
