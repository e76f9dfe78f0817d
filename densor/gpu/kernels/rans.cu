// Floats under scale contexts (codec 3): a warp decodes a chunk, lane j the elements whose number is j modulo 32.
//
// The host has taken the scales of rows and columns from the stream and hands on the states where elements begin. A
// chunk has one stream, so that its steps are serial: what counts is how many chunks there are, and latency. The words of
// the stream are loaded ahead of their use and handed around by shuffles.

#define RANS_THREADS 128u
#define RANS_WARPS (RANS_THREADS / 32u)
#define PROBABILITY_BITS 12u
#define SLOTS (1u << PROBABILITY_BITS)
#define FIRST_STATE 65536u
#define MOST_SHARED 8u  // contexts whose tables fit in shared memory
#define LOOK_BYTES (1u << (PROBABILITY_BITS - 1u))
#define RANGE_WORDS 260u
#define AHEAD 4u  // steps that are done together, so that they share what moves addresses on
#define RING 256u      // words of the stream that a warp has in shared memory
#define RING_BYTES (2u * RING)
#define FILL (RING / 2u)  // words that come to them at once, and as many as a turn may take

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
    const uint8_t* escapes;
    const uint16_t* low;  // low halves of FP32, that of element i at `i & keep`
    uint64_t out;         // offset of the chunk in its tensor, in bytes
    uint32_t n_words, n, n_escapes, keep;
    int32_t base;  // base exponent and first exponent of the alphabet
    uint32_t tensor, status, unused;
};

// Chunks of one model, one per warp of a block. `ranges` and `looks`: places of its tables, in words.
struct StreamJob {
    uint32_t stream, streams;
    uint32_t tables;
    uint32_t phase, phases, main, low_exponents;  // bits of a scale that are the context, as a number and as a mask
};

static_assert(sizeof(Part) == 16 && sizeof(Stream) == 112 && sizeof(StreamJob) == 28, "as descriptors.py has them");

// Of each context the ranges of its symbols in order: start (12 bits), 4096 - length (12 bits), symbol (8 bits); and for
// each pair of slots the number of the range that the first one is in. Behind the last range stands a copy of it.
// `NEAR`: in shared memory.
template <bool NEAR> struct Tables {
    const uint32_t* ranges;
    const uint8_t* looks;
};

// ~(a & b), in one instruction that the compiler does not look into.
__device__ __forceinline__ uint32_t not_both(uint32_t a, uint32_t b) {
#if defined(CUDA_EMU)
    return ~(a & b);
#else
    uint32_t found;
    asm("lop3.b32 %0, %1, %2, 0, 0x3f;" : "=r"(found) : "r"(a), "r"(b));
    return found;
#endif
}

// Whether two words differ in bits of a mask; one instruction, where compilers make two.
__device__ __forceinline__ bool differs(uint32_t a, uint32_t b, uint32_t mask) {
#if defined(CUDA_EMU)
    return (a ^ b) & mask;
#else
    uint32_t found;
    asm("lop3.b32 %0, %1, %2, %3, 0x28;" : "=r"(found) : "r"(a), "r"(b), "r"(mask));
    return found;
#endif
}

// The range of the slot in the low bits of a state. That of the pair's second slot may be the next one, if it begins there.
template <bool NEAR>
__device__ __forceinline__ uint32_t range_of(const Tables<NEAR>& tables, uint32_t context, uint32_t x) {
    // context * LOOK_BYTES + (x & SLOTS - 1u) / 2u
    const uint32_t look = tables.looks[__funnelshift_r(x << (32u - PROBABILITY_BITS), context, 33u - PROBABILITY_BITS)];
    const uint32_t* at = tables.ranges + context * RANGE_WORDS + look;
    uint32_t range, next;
    if (NEAR) {  // both at once: else the first is read when it is known that the second is not the one
        range = ((const volatile uint32_t*)at)[0];
        next = ((const volatile uint32_t*)at)[1];
    } else {
        range = at[0];
        next = at[1];
    }
    return differs(next, x, SLOTS - 1u) ? range : next;
}

// Which parts of an element are coded.
enum SplitFormat { FORM_BF16, FORM_FP16, FORM_FP8, FORM_FP32 };

// What a lane keeps between two steps.
struct Lane {
    uint32_t below;  // a mask of the lanes below
    uint32_t x;      // state
    uint32_t bit;    // of the escape bits
    const uint32_t* escapes;  // in words, of which the host has placed whole ones, and one more
    uint32_t last_escapes;
    // Words of the stream, counted from an address that is a multiple of 8 bytes. Number k stands in the warp's ring at k
    // modulo RING, for each k below `filled` that is not long past; `taken`, in bytes, are used. In `ahead` are those that
    // come next.
    uint8_t* rings;
    uint32_t ring, taken, filled, last;
    const uint2* stream;
    uint2 ahead;
    // Where the first element lies whose scale is not known, that after the next `AHEAD` steps.
    const Part* part;
    uint32_t rows, columns, row, column, row_scale;
    const uint8_t* column_scales;
    uint32_t scales[AHEAD];  // of the next steps; `row_scale` is to be added
    // The bits of the next element that are stored as they are, and how these must be shifted.
    const uint8_t* rest;
    const uint4* signs;
    uint32_t rest_shift, sign_turn;
    uint32_t base;       // the first exponent of the alphabet, in its place
    uint8_t* out;        // where the next element is to be
    const uint8_t* low;  // its low half
    uint32_t low_step;   // bytes to that of the element after the next 31
};

template <int FORM> struct Sizes {
    static constexpr uint32_t rest = FORM == FORM_FP16 ? 32u : 16u;  // bytes that a step takes
    static constexpr uint32_t sign = FORM == FORM_FP8 ? 7u : 15u;    // its bit, in the high half of FP32
    static constexpr uint32_t size = FORM == FORM_FP8 ? 1u : FORM == FORM_FP32 ? 4u : 2u;  // bytes of an element
    // In an element, or its high half: the lowest coded bit, and all coded bits.
    static constexpr uint32_t coded = FORM == FORM_FP8 ? 0u : FORM == FORM_FP16 ? 7u : 4u;
    static constexpr uint32_t mask = FORM == FORM_FP8 ? 127u : FORM == FORM_FP16 ? 0x7f80u : 0x7ff0u;
};

__device__ __forceinline__ void enter_part(const Stream& s, Lane& l) {
    GLOBAL(l.part);
    l.rows = l.part->rows;
    l.columns = l.part->columns;
    l.column_scales = s.column_scales + l.part->first_column;
    l.row = 0u;
}

// Goes to where the element in `column` of the lane's row really is. Beyond the last element it is one of a matrix that
// never ends, and has any scale.
__device__ __forceinline__ void next_row(const Stream& s, Lane& l) {
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

// Takes the scales of the next `AHEAD` steps. Most lanes stay in their rows, or begin one with the first step.
__device__ __forceinline__ void look_ahead(const Stream& s, Lane& l) {
    GLOBAL(l.column_scales);
    uint32_t k = 0u;
    if (l.column + 32u * (AHEAD - 1u) >= l.columns) {
#pragma unroll 1
        do {
            if (l.column >= l.columns) {
                next_row(s, l);
                if (k == 0u && l.column + 32u * (AHEAD - 1u) < l.columns) break;
            }
            const uint32_t scale = l.column_scales[l.column] + l.row_scale;
            // In registers, so that no index of them is a variable.
            l.scales[0] = k == 0u ? scale : l.scales[0];
            l.scales[1] = k == 1u ? scale : l.scales[1];
            l.scales[2] = k == 2u ? scale : l.scales[2];
            l.scales[3] = k == 3u ? scale : l.scales[3];
            l.column += 32u;
        } while (++k < AHEAD);
#pragma unroll
        for (uint32_t j = 0; j < AHEAD; ++j) l.scales[j] -= l.row_scale;
    }
    if (k == 0u) {
        const uint8_t* at = l.column_scales + l.column;
#pragma unroll
        for (uint32_t j = 0; j < AHEAD; ++j) l.scales[j] = at[32u * j];
        l.column += 32u * AHEAD;
    }
}

// Puts words into the ring that a turn may need. What stands behind the end of the stream does not matter.
__device__ __forceinline__ void fill(Lane& l) {
    GLOBAL(l.stream);
    __syncwarp();  // all lanes have read what goes
    if (l.filled < (l.taken >> 1) + FILL) {
        *(uint2*)(l.rings + (l.ring | (2u * l.filled & RING_BYTES - 1u) + 8u * (threadIdx.x & 31u))) = l.ahead;
        l.filled += FILL;
        l.ahead = l.stream[min(l.filled / 4u + (threadIdx.x & 31u), l.last)];
    }
    __syncwarp();
}

// From `bit` on, 32 of the bits that escapes and low exponents store as they are. What stands behind their end does not
// matter: who gets that far has not read as many as there are.
__device__ __forceinline__ uint32_t escape_bits(const Lane& l, uint32_t bit) {
    GLOBAL(l.escapes);
    const uint32_t* at = l.escapes + min(bit >> 5, l.last_escapes);
    return __funnelshift_r(at[0], at[1], bit);
}

// Turns a word to the right.
__device__ __forceinline__ uint32_t turned(uint32_t word, uint32_t bits) { return __funnelshift_r(word, word, bits); }

// One element per lane, without its low half; `k`: the number of the step, `scale`: the element's, `signs`: of the step.
// `range`: that of its symbol. Where that is a rare one, the element's coded bits are still to be put in.
template <int FORM, uint32_t TOP, bool NEAR>
__device__ __forceinline__ uint32_t step(const StreamJob& job, const Tables<NEAR>& tables, Lane& l, bool active, uint32_t k,
                                         uint32_t scale, uint32_t signs, uint32_t& range) {
    constexpr uint32_t coded = Sizes<FORM>::coded;
    // Blocks of stored bits are whole, so that lanes without an element may read.
    uint32_t stored = 0u;
    GLOBAL(l.rest);
    if (FORM != FORM_FP8) stored = (uint32_t)l.rest[k * Sizes<FORM>::rest] >> l.rest_shift;
    range = range_of(tables, scale & job.phases, l.x);
    // The length of the range is SLOTS - less, where `less` is 12 bits of it: its product with the state's high bits, and
    // the slot within it, are l.x - start - less * high. Less by one instruction with ~less = -less - 1.
    const uint32_t high = l.x >> PROBABILITY_BITS;
    const uint32_t x = not_both(range >> 12, SLOTS - 1u) * high + (l.x - (range & (SLOTS - 1u)) + high);
    if (active) l.x = x;
    const bool need = active && x < FIRST_STATE;
    const uint32_t needing = __ballot_sync(ALL_LANES, need);
    const uint32_t mine = 2u * __popc(needing & l.below) + l.taken;
    const uint32_t word = *(const uint16_t*)(l.rings + (mine & RING_BYTES - 2u | l.ring));
    if (need) l.x = x << 16 | word;
    l.taken += 2u * __popc(needing);
    // The coded bits; there may be others above them and below them, which do not count.
    const uint32_t top = (range >> (24u - coded)) + ((scale >> job.phase << (TOP + coded)) + l.base);
    if (FORM == FORM_FP8) return merged(128u, turned(signs, l.sign_turn), top);
    if (FORM == FORM_FP16) return merged(0x8000u, stored << 8, merged(127u, stored, top));
    return merged(0x8000u, turned(signs, l.sign_turn), merged(15u, stored, top));
}

// The same element, `v`, if its symbol is rare: 0, or the lowest of those that store some of their bits. What is no escape
// stores its low bits, an escape those and its exponent.
template <int FORM, uint32_t EXPONENT, uint32_t TOP>
__device__ __forceinline__ uint32_t rare(const StreamJob& job, Lane& l, bool active, uint32_t range, uint32_t v) {
    constexpr uint32_t coded = Sizes<FORM>::coded, mask = Sizes<FORM>::mask;
    const uint32_t symbol = range >> 24;
    const bool has_bits = active && symbol > job.main;
    const uint32_t with_bits = __ballot_sync(ALL_LANES, has_bits);
    if (active && symbol == job.main) v &= ~mask;
    if (with_bits) {
        const bool is_escape = has_bits && symbol > job.main + job.low_exponents;
        const uint32_t escapes = __ballot_sync(ALL_LANES, is_escape);
        if (has_bits) {
            const uint32_t from = l.bit + TOP * __popc(with_bits & l.below) + EXPONENT * __popc(escapes & l.below);
            const uint32_t bits = escape_bits(l, from) << coded;
            // Of a low exponent, `v` has one that is made of the symbol as if it were a usual one.
            const uint32_t low = v + (((job.main - symbol << TOP) - symbol) << coded);
            v = merged(mask, is_escape ? bits : merged(((1u << TOP) - 1u) << coded, bits, low), v);
        }
        l.bit += TOP * __popc(with_bits) + EXPONENT * __popc(escapes);
    }
    return v;
}

// `AHEAD` steps, from element number `i` on. `WHOLE`: all lanes have an element in each.
template <int FORM, uint32_t EXPONENT, uint32_t TOP, bool WHOLE, bool NEAR>
__device__ __forceinline__ void steps(const Stream& s, const StreamJob& job, const Tables<NEAR>& tables, Lane& l, uint32_t i) {
    GLOBAL(l.signs);
    GLOBAL(l.low);
    GLOBAL(l.out);
    constexpr uint32_t size = Sizes<FORM>::size;
    uint32_t scales[AHEAD], ranges[AHEAD], elements[AHEAD], low[AHEAD];
    const uint32_t* sign_words = (const uint32_t*)l.signs;
    const uint4 signs = FORM == FORM_FP16 || !WHOLE ? make_uint4(0u, 0u, 0u, 0u) : *l.signs;
    const uint32_t whole_signs[AHEAD] = {signs.x, signs.y, signs.z, signs.w};
#pragma unroll
    for (uint32_t k = 0; k < AHEAD; ++k) scales[k] = l.scales[k] + l.row_scale & 255u;
    look_ahead(s, l);
    fill(l);
    bool any = false;
#pragma unroll
    for (uint32_t k = 0; k < AHEAD; ++k) {
        const bool active = WHOLE || i + 32u * k < s.n;
        ranges[k] = elements[k] = low[k] = 0u;
        if (WHOLE || 32u * k + (i & ~31u) < s.n) {
            const uint32_t sign = WHOLE || FORM == FORM_FP16 ? whole_signs[k] : sign_words[k];
            if (FORM == FORM_FP32 && active) low[k] = *(const uint16_t*)(l.low + (uint64_t)k * l.low_step);
            elements[k] = step<FORM, TOP>(job, tables, l, active, k, scales[k], sign, ranges[k]);
            any = any || active && ranges[k] >= job.main << 24;
        }
    }
    if (__any_sync(ALL_LANES, any)) {
#pragma unroll
        for (uint32_t k = 0; k < AHEAD; ++k) {
            const bool active = WHOLE || i + 32u * k < s.n;
            elements[k] = rare<FORM, EXPONENT, TOP>(job, l, active, ranges[k], elements[k]);
        }
    }
#pragma unroll
    for (uint32_t k = 0; k < AHEAD; ++k) {
        uint8_t* at = l.out + k * 32u * size;
        if (WHOLE || i + 32u * k < s.n) {
            if (FORM == FORM_FP8)
                *at = (uint8_t)elements[k];
            else if (FORM == FORM_FP32)
                *(uint32_t*)at = elements[k] << 16 | low[k];
            else
                *(uint16_t*)at = (uint16_t)elements[k];
        }
    }
    l.rest += AHEAD * Sizes<FORM>::rest;
    l.signs += AHEAD / 4u;
    l.out += AHEAD * 32u * size;
    if (FORM == FORM_FP32) l.low += (uint64_t)AHEAD * l.low_step;
}

template <int FORM, uint32_t EXPONENT, uint32_t TOP, bool NEAR>
__device__ __forceinline__ void decode_stream(const Stream& s, const StreamJob& job, const Tables<NEAR>& tables, uint8_t* out,
                                              uint8_t* rings, uint32_t* status) {
    GLOBAL(s.states);
    Lane l;
    const uint32_t lane = threadIdx.x & 31u;
    l.below = (1u << lane) - 1u;
    l.x = s.states[lane];
    l.bit = 0u;
    const uint32_t before = (uint32_t)(uint64_t)s.words & 7u;  // bytes of scales that stand in the same piece
    l.rings = rings;
    l.ring = (threadIdx.x >> 5) * RING_BYTES;
    l.taken = before;
    l.stream = (const uint2*)(s.n_words ? (const uint8_t*)s.words - before : (const uint8_t*)s.states);  // there is something
    l.last = s.n_words ? before + 2u * s.n_words - 1u >> 3 : 0u;
    l.filled = 0u;
    GLOBAL(l.stream);
    l.ahead = l.stream[min(lane, l.last)];
    fill(l);
    l.escapes = (const uint32_t*)(s.n_escapes ? s.escapes : (const uint8_t*)s.states);
    l.last_escapes = s.n_escapes ? s.n_escapes - 1u >> 2 : 0u;
    l.part = s.parts;
    enter_part(s, l);
    GLOBAL(s.row_scales);
    l.row_scale = s.row_scales[l.part->first_row];
    l.column = lane;
    look_ahead(s, l);
    l.rest = s.rest + (FORM == FORM_FP16 ? lane : lane & 15u);
    l.rest_shift = FORM == FORM_FP16 ? 0u : lane >> 4 << 2;
    l.signs = (const uint4*)s.signs;
    l.sign_turn = lane - Sizes<FORM>::sign & 31u;
    l.base = (uint32_t)s.base << (TOP + Sizes<FORM>::coded);
    l.out = out + Sizes<FORM>::size * lane;
    l.low = (const uint8_t*)(s.low + (lane & s.keep));
    l.low_step = 32u * sizeof(uint16_t) & s.keep;
    // The same in all lanes, which the compiler then knows: it need not expect votes in a warp that has come apart.
    const uint32_t whole = __shfl_sync(ALL_LANES, s.n / (32u * AHEAD) * (32u * AHEAD), 0);
    uint32_t first = 0u;
#pragma unroll 1
    for (; first != whole; first += 32u * AHEAD) steps<FORM, EXPONENT, TOP, true>(s, job, tables, l, first + lane);
    if (first != s.n) steps<FORM, EXPONENT, TOP, false>(s, job, tables, l, first + lane);
    uint32_t wrong = l.x != FIRST_STATE ? STATUS_STATE : 0u;
    if (l.taken - before != 2u * s.n_words) wrong |= STATUS_POSITION;
    if ((l.bit + 7u) >> 3 != s.n_escapes)
        wrong |= STATUS_ESCAPES;
    else if ((l.bit & 7u) && s.escapes[s.n_escapes - 1u] >> (l.bit & 7u))
        wrong |= STATUS_ESCAPES;
    if (wrong) atomicOr(status + s.status, wrong);
}

template <int FORM, uint32_t EXPONENT, uint32_t TOP>
__device__ __forceinline__ void decode_streams(const StreamJob* jobs, uint32_t n_jobs, const Stream* streams,
                                               const uint32_t* tables, uint8_t* const* outs, uint32_t* status,
                                               uint32_t* shared, uint8_t* rings) {
    if (blockIdx.x >= n_jobs) return;
    const StreamJob job = jobs[blockIdx.x];
    const uint32_t contexts = 1u << job.phase, warp = threadIdx.x >> 5;
    const uint32_t* source = tables + job.tables;
    const bool fits = contexts <= MOST_SHARED;
    const uint32_t ranges = contexts * RANGE_WORDS / 4u, all = ranges + contexts * LOOK_BYTES / 16u;  // in pieces of 16 bytes
    if (fits)
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < all; i += RANS_THREADS)
            ((uint4*)shared)[i < ranges ? i : i - ranges + MOST_SHARED * RANGE_WORDS / 4u] = ((const uint4*)source)[i];
    __syncthreads();
    if (warp >= job.streams) return;
    const Stream stream = streams[job.stream + warp];  // in registers, since stores of elements might change those in memory
    uint8_t* out = outs[stream.tensor] + stream.out;
    if (fits) {
        const Tables<true> near = {shared, (const uint8_t*)(shared + MOST_SHARED * RANGE_WORDS)};
        decode_stream<FORM, EXPONENT, TOP>(stream, job, near, out, rings, status);
    } else {
        GLOBAL(source);
        const Tables<false> far = {source, (const uint8_t*)(source + contexts * RANGE_WORDS)};
        decode_stream<FORM, EXPONENT, TOP>(stream, job, far, out, rings, status);
    }
}

#define RANS(name, FORM, EXPONENT, TOP)                                                                      \
    extern "C" __global__ __launch_bounds__(RANS_THREADS, 6) void name(                                         \
        const StreamJob* jobs, uint32_t n_jobs, const Stream* streams, const uint32_t* tables,               \
        uint8_t* const* outs, uint32_t* status) {                                                            \
        __shared__ __align__(16) uint32_t shared[MOST_SHARED * (RANGE_WORDS + LOOK_BYTES / 4u)];             \
        __shared__ __align__(16) uint8_t rings[RANS_WARPS * RING_BYTES];                                     \
        decode_streams<FORM, EXPONENT, TOP>(jobs, n_jobs, streams, tables, outs, status, shared, rings);     \
    }
RANS(rans_bf16, FORM_BF16, 8u, 3u)
RANS(rans_fp16, FORM_FP16, 5u, 3u)
RANS(rans_fp8_e4m3, FORM_FP8, 4u, 3u)
RANS(rans_fp8_e5m2, FORM_FP8, 5u, 2u)
RANS(rans_fp32, FORM_FP32, 8u, 3u)
