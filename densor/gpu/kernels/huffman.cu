// Planes under row classes (codec 2): a thread decodes a unit of up to 256 symbols, from an entry point on, puts them
// together with the bytes of the other planes, and stores them where the runs of its class lie.
//
// Within a warp threads go through the same steps in the same order, each in its own part of the stream: there is nothing
// to tell each other, and a group of symbols costs the same for all. Two symbols per look-up as a rule; more would let
// the lanes reach their groups at different times, and the stores would cost more than what look-ups cost less.

#define UNIT 256u
#define TABLE_BITS 12u
#define KIND_RAW 0u
#define KIND_CONSTANT 1u
#define KIND_HUFFMAN 2u

// A plane of a chunk that is coded by classes.
struct Plane {
    const uint32_t* words;  // the section: entry points count bits from here
    const uint32_t* runs;   // numbers of the chunk's runs, class by class
    uint64_t out;           // offset of the chunk in its tensor, in bytes
    Beside beside[3];
    uint32_t tensor, status;  // where the elements go, whose status word tells of errors
    uint32_t n_words;         // of the section; what is beyond reads as 0
    uint32_t run;             // elements per run
};

// Consecutive symbols of a class of a plane: those of one stream, or all of them if there is no stream.
struct Segment {
    uint32_t unit;        // its first unit, among those of the launch
    uint32_t plane;
    uint32_t begin, end;  // symbols, counted from the first of the class
    uint32_t run;         // the class's first run, among the chunk's
    uint32_t stop;        // bit position after its last symbol
    uint32_t raw;         // byte position of the class's first symbol in the section, if they are stored raw
    uint32_t unused;
};

// Up to 256 units under one code, for a block.
struct Job {
    uint32_t unit, units;
    uint32_t segment;  // that of the first unit
    uint32_t kind;
    uint32_t table;  // place of the table in words, or the symbol of a constant class
};

static_assert(sizeof(Plane) == 88 && sizeof(Segment) == 32 && sizeof(Job) == 20, "as descriptors.py has them");

// Reads a stream of bits. `window`: bits that were not used yet, `left` of them and 0 above; `next`: word number `at`.
struct Reader {
    const uint32_t* words;
    uint64_t window;
    uint32_t left, at, n_words, next;
};

__device__ __forceinline__ uint32_t read_word(const Reader& r, uint32_t at) {
    GLOBAL(r.words);
    return at < r.n_words ? r.words[at] : 0u;
}

__device__ __forceinline__ void start(Reader& r, uint32_t bit) {
    uint32_t at = bit >> 5;
    r.window = ((uint64_t)read_word(r, at + 1u) << 32 | read_word(r, at)) >> (bit & 31u);
    r.left = 64u - (bit & 31u);
    r.at = at + 2u;
    r.next = read_word(r, r.at);
}

__device__ __forceinline__ uint32_t position(const Reader& r) { return 32u * r.at - r.left; }

// At least 33 bits are left afterwards.
__device__ __forceinline__ void refill(Reader& r) {
    if (r.left <= 32u) {
        r.window |= (uint64_t)r.next << r.left;
        r.left += 32u;
        r.at += 1u;
        r.next = read_word(r, r.at);
    }
}

__device__ __forceinline__ void use(Reader& r, uint32_t bits) {
    r.window >>= bits;
    r.left -= bits;
}

// A table entry: bits of its symbols (5 bits), first and second symbol (from bits 8 and 16 on), bits of the first
// (4 bits from 24 on), and at the top whether the second does not fit the look-up, which happens rarely.
__device__ __forceinline__ uint32_t look_up(const Reader& r, const uint32_t* table) {
    return table[(uint32_t)r.window & ((1u << TABLE_BITS) - 1u)];
}

__device__ __forceinline__ uint32_t one_symbol(Reader& r, const uint32_t* table) {
    uint32_t entry = look_up(r, table);
    use(r, entry >> 24 & 15u);
    refill(r);
    return entry >> 8 & 255u;
}

// Two symbols in bits 8 to 23. Needs 21 bits and leaves at least 12 less than before, or 29.
__device__ __forceinline__ uint32_t two_symbols(Reader& r, const uint32_t* table) {
    uint32_t entry = look_up(r, table);
    use(r, entry & 31u);
    if ((int32_t)entry < 0) {
        refill(r);
        uint32_t second = look_up(r, table);
        use(r, second >> 24 & 15u);
        entry = (entry & 0xff00u) | (second & 0xff00u) << 8;
    }
    return entry;
}

// Four symbols. At least 33 bits are left before and afterwards.
__device__ __forceinline__ uint32_t four_symbols(Reader& r, const uint32_t* table) {
    uint32_t low = two_symbols(r, table), high = two_symbols(r, table);
    refill(r);
    return __byte_perm(low, high, 0x6521);
}

// Where symbols come from: `take` gives them one at a time, `take_four` four in a word.
struct Coded {
    Reader reader;
    const uint32_t* table;
    __device__ __forceinline__ uint32_t take() { return one_symbol(reader, table); }
    __device__ __forceinline__ uint32_t take_four() { return four_symbols(reader, table); }
};
struct Raw {
    const uint8_t* at;
    __device__ __forceinline__ uint32_t take() { return *at++; }
    __device__ __forceinline__ uint32_t take_four() {
        uint32_t four = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
        at += 4;
        return four;
    }
};
struct Constant {
    uint32_t symbol;
    __device__ __forceinline__ uint32_t take() { return symbol; }
    __device__ __forceinline__ uint32_t take_four() { return symbol * 0x01010101u; }
};

// Puts `count` symbols from `source` where the runs from `runs` on lie, `offset` elements into the first.
template <int LAYOUT, class Source>
__device__ __forceinline__ void place(Source& source, uint8_t* out, const Beside* beside, const uint32_t* runs,
                                      uint32_t run, uint32_t offset, uint32_t count) {
    const uint32_t group = Element<LAYOUT>::group, first = (uint32_t)((uint64_t)out / Element<LAYOUT>::size);
    while (count > 0u) {
        uint32_t i = *runs++ * run + offset, end = i + min(run - offset, count);
        count -= end - i;
        offset = 0u;
#pragma unroll 1
        while (i < end && ((first + i) & (group - 1u)) != 0u) {  // up to the first whole group
            store_one<LAYOUT>(out, beside, i, source.take());
            ++i;
        }
#pragma unroll 1
        for (; i + group <= end; i += group) {
            uint32_t symbols[group / 4u];
#pragma unroll
            for (uint32_t k = 0; k < group / 4u; ++k) symbols[k] = source.take_four();
            store_group<LAYOUT>(out, beside, i, symbols);
        }
#pragma unroll 1
        for (; i < end; ++i) store_one<LAYOUT>(out, beside, i, source.take());
    }
}

template <int LAYOUT>
__device__ __forceinline__ void decode_units(const Job* jobs, uint32_t n_jobs, const Segment* segments,
                                             const Plane* planes, const uint32_t* entries, const uint32_t* tables,
                                             uint8_t* const* outs, uint32_t* status, uint32_t* table) {
    const uint32_t each = (n_jobs + gridDim.x - 1u) / gridDim.x, from = blockIdx.x * each;
    uint32_t loaded = 0xffffffffu;
    for (uint32_t j = from; j < min(from + each, n_jobs); ++j) {
        const Job job = jobs[j];
        if (job.kind == KIND_HUFFMAN && job.table != loaded) {
            const uint4* source = (const uint4*)(tables + job.table);
            __syncthreads();  // others may still be at the job before
            for (uint32_t i = threadIdx.x; i < (1u << TABLE_BITS) / 4u; i += THREADS) ((uint4*)table)[i] = source[i];
            __syncthreads();
            loaded = job.table;
        }
        if (threadIdx.x >= job.units) continue;
        const uint32_t unit = job.unit + threadIdx.x;
        const Segment* segment = segments + job.segment;
        uint32_t units = (segment->end + UNIT - 1u) / UNIT - segment->begin / UNIT;
        while (unit - segment->unit >= units) {
            ++segment;
            units = (segment->end + UNIT - 1u) / UNIT - segment->begin / UNIT;
        }
        const Plane& plane = planes[segment->plane];
        // Units begin at multiples of 256 symbols of the class, so that whole groups begin there if runs allow it.
        const uint32_t number = segment->begin / UNIT + (unit - segment->unit);
        const uint32_t begin = max(number * UNIT, segment->begin), end = min(number * UNIT + UNIT, segment->end);
        uint8_t* out = outs[plane.tensor] + plane.out;
        GLOBAL(out);
        const uint32_t* runs = plane.runs + segment->run + begin / plane.run;
        GLOBAL(runs);
        const uint32_t offset = begin % plane.run;
        if (job.kind == KIND_HUFFMAN) {
            Coded source;
            source.table = table;
            source.reader.words = plane.words;
            source.reader.n_words = plane.n_words;
            start(source.reader, entries[unit]);
            place<LAYOUT>(source, out, plane.beside, runs, plane.run, offset, end - begin);
            uint32_t stop = end == segment->end ? segment->stop : entries[unit + 1u];
            if (position(source.reader) != stop) atomicOr(status + plane.status, STATUS_POSITION);
        } else if (job.kind == KIND_RAW) {
            Raw source = {(const uint8_t*)plane.words + segment->raw + begin};
            GLOBAL(source.at);
            place<LAYOUT>(source, out, plane.beside, runs, plane.run, offset, end - begin);
        } else {
            Constant source = {job.table};
            place<LAYOUT>(source, out, plane.beside, runs, plane.run, offset, end - begin);
        }
    }
}

#define HUFFMAN(name, LAYOUT)                                                                                        \
    extern "C" __global__ __launch_bounds__(THREADS, 5) void name(                                                      \
        const Job* jobs, uint32_t n_jobs, const Segment* segments, const Plane* planes, const uint32_t* entries,     \
        const uint32_t* tables, uint8_t* const* outs, uint32_t* status) {                                            \
        __shared__ __align__(16) uint32_t table[1u << TABLE_BITS];                                                   \
        decode_units<LAYOUT>(jobs, n_jobs, segments, planes, entries, tables, outs, status, table);                  \
    }
HUFFMAN(huffman_byte, BYTE)
HUFFMAN(huffman_bf16, BF16)
HUFFMAN(huffman_word16, WORD16)
HUFFMAN(huffman_fp32, FP32)
