// Runs a CUDA C++ source on the CPU: every thread is a fiber, and warps and blocks meet exactly where the CUDA model
// says that they do. Blocks run one after the other, on one thread of the operating system.
//
// What it catches: collectives that lanes of their mask do not reach or reach at another line, collectives of lanes that
// are not in the mask or have exited, barriers that not all threads reach at one line, shuffles from outside the mask,
// shared memory that is read before it is written (it is filled with 0xA5), stacks that overflow (guard pages). With
// AddressSanitizer also accesses out of bounds. What it cannot see: speed, bank conflicts, races that depend on how the
// memory of a real GPU orders accesses.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>
#if !defined(__x86_64__)
#define EMU_UCONTEXT 1
#endif
#if defined(EMU_UCONTEXT)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#define CUDA_EMU 1

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// One block runs at a time, so that a static variable is the block's copy.
#define __shared__ static __attribute__((section("cu_shared")))
extern "C" {
extern char __start_cu_shared[] __attribute__((weak)), __stop_cu_shared[] __attribute__((weak));
}

namespace emu {

enum Op : uint8_t { RUN, DONE, SYNCWARP, BALLOT, SHFL, SYNCTHREADS, ANY, ALL };
enum Order { UP, DOWN, SHUFFLED };  // in which order the lanes of a warp run between two collectives

struct Lane {
#if defined(EMU_UCONTEXT)
    ucontext_t context;
#else
    void* sp;
#endif
    char* stack;
    uint3 tid;
    Op op;
    int line;
    uint32_t mask;
    uint64_t value;
    int source;
    uint64_t result;
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack;
#endif
};

// The collective that a warp is gathering for: the first lane to arrive fixes it, the others only set a bit.
struct Meeting {
    Op op;
    int line;
    uint32_t mask, arrived, bits;
};

static const size_t STACK = 64 << 10, PAGE = 4096;
static char message[512];
static bool failed;
static std::vector<Lane> lanes;
static std::vector<uint32_t> exited;  // lanes of each warp that are done, or never were
static std::vector<Meeting> meetings;  // per warp
static std::vector<unsigned> sequence;
static Lane main_lane, *current;
static unsigned n_threads, n_live, n_at_barrier;
static int barrier_line;
static void (*body)();
static void** arguments;
static int order = UP;
static uint64_t random_state = 1;

static inline void fail(const char* format, ...) {
    if (failed) return;
    va_list list;
    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    failed = true;
}

static inline uint64_t random_number() {  // xorshift64
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

#if defined(EMU_UCONTEXT)
static inline void switch_stacks(Lane* from, Lane* to) { swapcontext(&from->context, &to->context); }
#else
extern "C" void densor_emu_switch(void** save, void* to);
asm(R"(.text
.globl densor_emu_switch
.hidden densor_emu_switch
.type densor_emu_switch,@function
densor_emu_switch:
 pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
 movq %rsp,(%rdi)
 movq %rsi,%rsp
 popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
 popq %rcx
 jmp *%rcx
.size densor_emu_switch,.-densor_emu_switch
)");
static inline void switch_stacks(Lane* from, Lane* to) { densor_emu_switch(&from->sp, to->sp); }
#endif

static inline void go(Lane* to) {
    Lane* from = current;
    current = to;
    threadIdx = to->tid;
#if defined(__SANITIZE_ADDRESS__)
    // The main stack's bounds are not known; they are learnt when its first fiber begins.
    __sanitizer_start_switch_fiber(from->op == DONE ? nullptr : &from->fake_stack, to->stack, STACK);
#endif
    switch_stacks(from, to);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}
static inline void to_main() { go(&main_lane); }
static inline unsigned linear() { return unsigned(current - lanes.data()); }

static void entry() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    if (!failed) body();
    current->op = DONE;
    --n_live;
    exited[linear() >> 5] |= 1u << (linear() & 31);
    to_main();
    __builtin_trap();
}

static void prepare(Lane& lane) {
#if defined(EMU_UCONTEXT)
    getcontext(&lane.context);
    lane.context.uc_stack.ss_sp = lane.stack;
    lane.context.uc_stack.ss_size = STACK;
    lane.context.uc_link = nullptr;
    makecontext(&lane.context, entry, 0);
#else
    void** sp = (void**)(lane.stack + STACK) - 1;  // SysV: rsp % 16 is 8 on entry, as after a call
    *sp = nullptr;
    *--sp = (void*)entry;
    for (int i = 0; i < 6; ++i) *--sp = nullptr;
    lane.sp = sp;
#endif
}

static const char* name(Op op) {
    static const char* const names[] = {"run", "exit", "syncwarp", "ballot", "shfl", "syncthreads", "any", "all"};
    return names[op];
}

static void complete(unsigned first, uint32_t mask, Op op) {
    uint32_t bits = 0;
    for (uint32_t left = mask; left; left &= left - 1) {
        unsigned i = __builtin_ctz(left);
        bits |= uint32_t(lanes[first + i].value != 0) << i;
    }
    for (uint32_t left = mask; left; left &= left - 1) {
        Lane& lane = lanes[first + __builtin_ctz(left)];
        if (op == BALLOT) lane.result = bits;
        if (op == ANY) lane.result = bits != 0;
        if (op == ALL) lane.result = bits == mask;
        if (op == SHFL) {
            if (!(mask >> lane.source & 1))
                fail("shfl at line %d reads lane %d, outside mask %08x", lane.line, lane.source, mask);
            lane.result = lanes[first + lane.source].value;
        }
    }
    for (uint32_t left = mask; left; left &= left - 1) lanes[first + __builtin_ctz(left)].op = RUN;
}

// Masks of some lanes, warps with exited lanes, and everything that is wrong.
static __attribute__((noinline)) uint64_t collective_slow(Op op, uint32_t mask, int line, uint32_t gone) {
    unsigned first = linear() & ~31u, me = linear() & 31u;
    if (!(mask >> me & 1)) fail("lane %u calls %s at line %d but is not in mask %08x", me, name(op), line, mask);
    bool ready = true;
    for (uint32_t left = mask; left && !failed; left &= left - 1) {
        unsigned i = __builtin_ctz(left);
        if (gone >> i & 1) {
            fail("%s at line %d waits for lane %u, which has exited", name(op), line, i);
            break;
        }
        Lane& other = lanes[first + i];
        if (other.op == RUN) {
            ready = false;
        } else if (other.op != op || other.mask != mask || other.line != line) {
            fail("warp divergence: lane %u is in %s line %d mask %08x, lane %u in %s line %d mask %08x", me, name(op),
                 line, mask, i, name(other.op), other.line, other.mask);
        }
    }
    if (failed) {
        to_main();
        return 0;
    }
    if (ready) complete(first, mask, op);
    while (current->op != RUN) to_main();
    return current->result;
}

// Goes on with another lane of the warp, or back to the scheduler.
static inline void yield_lane(unsigned warp) {
    if (order != SHUFFLED && !failed) {
        unsigned begin = warp << 5, end = std::min(begin + 32, n_threads), me = linear();
        if (order == UP) {
            for (unsigned i = me + 1; i < end; ++i)
                if (lanes[i].op == RUN) return go(&lanes[i]);
        } else {
            for (unsigned i = me; i-- > begin;)
                if (lanes[i].op == RUN) return go(&lanes[i]);
        }
    }
    to_main();
}

static inline uint64_t collective(Op op, uint32_t mask, uint64_t value, int source, int line) {
    unsigned warp = linear() >> 5;
    uint32_t bit = 1u << (linear() & 31u);
    Lane& lane = *current;
    lane.mask = mask;
    lane.value = value;
    lane.source = source;
    lane.line = line;
    lane.op = op;
    uint32_t gone = exited[warp];
    if (mask != ~0u || gone) return collective_slow(op, mask, line, gone);
    Meeting& meeting = meetings[warp];
    if (!meeting.arrived)
        meeting = {op, line, mask, 0, 0};
    else if (meeting.op != op || meeting.line != line)
        return collective_slow(op, mask, line, gone);
    meeting.arrived |= bit;
    if (value) meeting.bits |= bit;
    if (meeting.arrived == mask) {
        meeting.arrived = 0;
        if (op == BALLOT) {
            uint32_t bits = meeting.bits;
            for (unsigned i = warp << 5; i < (warp << 5) + 32; ++i) {
                lanes[i].result = bits;
                lanes[i].op = RUN;
            }
        } else {
            complete(warp << 5, mask, op);
        }
        if (failed) to_main();
        return lane.result;
    }
    do yield_lane(warp);
    while (lane.op != RUN);
    return lane.result;
}

static void barrier(int line) {
    Lane& lane = *current;
    lane.op = SYNCTHREADS;
    lane.line = line;
    lane.mask = 0;
    if (n_at_barrier == 0)
        barrier_line = line;
    else if (barrier_line != line)
        fail("divergent __syncthreads: lines %d and %d", barrier_line, line);
    ++n_at_barrier;
    do to_main();
    while (failed || lane.op != RUN);
}

// Runs a lane until it waits; false where something failed.
static inline bool resume(unsigned i) {
    go(&lanes[i]);
    return !failed;
}

static bool run_warps(bool& progress) {
    if (order == SHUFFLED) {
        for (unsigned i = n_threads; i > 1; --i) std::swap(sequence[i - 1], sequence[random_number() % i]);
        for (unsigned i : sequence)
            if (lanes[i].op == RUN) {
                progress = true;
                if (!resume(i)) return false;
            }
        return true;
    }
    for (unsigned begin = 0; begin < n_threads; begin += 32) {  // one warp goes on until it blocks
        unsigned end = std::min(begin + 32, n_threads);
        for (bool again = true; again;) {
            again = false;
            for (unsigned k = begin; k < end; ++k) {
                unsigned i = sequence[k];
                if (lanes[i].op == RUN) {
                    progress = again = true;
                    if (!resume(i)) return false;
                }
            }
        }
    }
    return true;
}

static bool run_block() {
    unsigned warps = (n_threads + 31) / 32;
    n_live = n_threads;
    n_at_barrier = 0;
    meetings.assign(warps, Meeting{});
    exited.assign(warps, 0u);
    if (n_threads & 31) exited.back() = ~0u << (n_threads & 31);
    if (__start_cu_shared) memset(__start_cu_shared, 0xA5, __stop_cu_shared - __start_cu_shared);
    for (unsigned i = 0; i < n_threads; ++i) {
        lanes[i].op = RUN;
        lanes[i].tid = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
        prepare(lanes[i]);
    }
    sequence.resize(n_threads);
    for (unsigned i = 0; i < n_threads; ++i) sequence[i] = i;
    if (order == DOWN) std::reverse(sequence.begin(), sequence.end());
    while (n_live) {
        bool progress = false;
        if (!run_warps(progress)) return false;
        if (n_at_barrier && n_at_barrier == n_live) {
            if (n_live != n_threads) {
                fail("__syncthreads at line %d without threads that have exited", barrier_line);
                return false;
            }
            n_at_barrier = 0;
            for (auto& lane : lanes)
                if (lane.op == SYNCTHREADS) lane.op = RUN;
            progress = true;
        }
        if (!progress && n_live) {
            for (unsigned i = 0; i < n_threads && !failed; ++i)
                if (lanes[i].op != DONE)
                    fail("deadlock: thread %u waits in %s at line %d (mask %08x)", i, name(lanes[i].op), lanes[i].line,
                         lanes[i].mask);
            return false;
        }
    }
    return true;
}

static void reserve_stacks() {  // with a guard page below each
    static char* stacks;
    static size_t reserved;
    size_t each = STACK + PAGE;
    if (n_threads > reserved) {
        if (stacks) munmap(stacks, reserved * each);
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        stacks = (char*)mmap(nullptr, n_threads * each, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (stacks == MAP_FAILED) abort();
        reserved = n_threads;
        for (unsigned i = 0; i < n_threads; ++i) mprotect(stacks + i * each, PAGE, PROT_NONE);
    }
    lanes.resize(n_threads);
    for (unsigned i = 0; i < n_threads; ++i) lanes[i].stack = stacks + i * each + PAGE;
}

static int launch(dim3 grid, dim3 block) {
    gridDim = grid;
    blockDim = block;
    n_threads = block.x * block.y * block.z;
    failed = false;
    message[0] = 0;
    reserve_stacks();
    current = &main_lane;
    main_lane.op = RUN;
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
                if (!run_block()) return 1;
    return 0;
}

template <class... A, size_t... I>
static void call(void (*kernel)(A...), std::index_sequence<I...>) {
    kernel(*(std::decay_t<A>*)arguments[I]...);
}
template <auto K> struct Body;
template <class... A, void (*K)(A...)> struct Body<K> {
    static void run() { call(K, std::index_sequence_for<A...>{}); }
};

}  // namespace emu

#define EMU_KERNEL(kernel)                                                                              \
    extern "C" int emu_##kernel(unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, \
                                void** arguments) {                                                     \
        emu::arguments = arguments;                                                                     \
        emu::body = emu::Body<kernel>::run;                                                             \
        return emu::launch({gx, gy, gz}, {bx, by, bz});                                                 \
    }
extern "C" const char* emu_error() { return emu::message; }
extern "C" void emu_config(int order, uint64_t seed) {
    emu::order = order;
    emu::random_state = seed | 1;
}

// The part of CUDA's device functions that the kernels use. The line of the call tells collectives apart.
#define EMU_LINE int line = __builtin_LINE()
static inline void __syncthreads(EMU_LINE) { emu::barrier(line); }
static inline void __syncwarp(uint32_t mask = ~0u, EMU_LINE) { emu::collective(emu::SYNCWARP, mask, 0, 0, line); }
static inline uint32_t __ballot_sync(uint32_t mask, int predicate, EMU_LINE) {
    return (uint32_t)emu::collective(emu::BALLOT, mask, predicate != 0, 0, line);
}
static inline int __any_sync(uint32_t mask, int predicate, EMU_LINE) {
    return (int)emu::collective(emu::ANY, mask, predicate != 0, 0, line);
}
static inline int __all_sync(uint32_t mask, int predicate, EMU_LINE) {
    return (int)emu::collective(emu::ALL, mask, predicate != 0, 0, line);
}
template <class T> static inline T emu_shuffle(uint32_t mask, T value, int source, int line) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = emu::collective(emu::SHFL, mask, bits, source, line);
    T result;
    memcpy(&result, &bits, sizeof result);
    return result;
}
template <class T> static inline T __shfl_sync(uint32_t mask, T value, int source, EMU_LINE) {
    return emu_shuffle(mask, value, source & 31, line);
}
template <class T> static inline T __shfl_up_sync(uint32_t mask, T value, unsigned delta, EMU_LINE) {
    int me = int(emu::linear() & 31u);
    return emu_shuffle(mask, value, me < (int)delta ? me : me - (int)delta, line);
}
template <class T> static inline T __shfl_xor_sync(uint32_t mask, T value, int bits, EMU_LINE) {
    return emu_shuffle(mask, value, int(emu::linear() & 31u) ^ bits, line);
}
static inline int __popc(uint32_t x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
    return (uint32_t)((((uint64_t)high << 32) | low) >> (shift & 31));
}
static inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
    uint64_t bytes = ((uint64_t)b << 32) | a;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
        uint32_t control = selector >> (4 * i) & 15u;
        uint32_t byte = uint32_t(bytes >> (8 * (control & 7u))) & 255u;
        if (control & 8u) byte = byte & 128u ? 255u : 0u;
        result |= byte << (8 * i);
    }
    return result;
}
static inline float __uint_as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
template <class T> static inline T __ldg(const T* p) { return *p; }
template <class T, class U> static inline T atomicOr(T* p, U value) {
    T before = *p;
    *p = before | (T)value;
    return before;
}
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
