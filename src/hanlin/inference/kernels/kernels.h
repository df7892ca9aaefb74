/* Vectors of 16 numbers, which compilers cut to what the processor has, and what the files give each other. */

#include <math.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#define HAS_DENSE
#endif

enum { LANES = 16, SMALL = 1 << 15, PATIENCE = 1 << 12 };
/* SMALL: numbers that one thread has gone through before others are awake; PATIENCE: looks before a processor is let go */

typedef int32_t ints __attribute__((vector_size(64)));
typedef uint32_t words __attribute__((vector_size(64)));
typedef int16_t halves __attribute__((vector_size(64)));
typedef float floats __attribute__((vector_size(64)));

#define INLINE static inline __attribute__((always_inline))

INLINE floats all_of(float x) {
    return (floats){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

/* sum + x * y, rounded once where the processor can. */
INLINE floats fused(floats sum, floats x, floats y) {
#if defined(__AVX512F__)
    return (floats)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)sum);
#elif defined(__AVX2__) && defined(__FMA__)
    union { floats all; __m256 part[2]; } to = {sum}, one = {x}, other = {y};
    to.part[0] = _mm256_fmadd_ps(one.part[0], other.part[0], to.part[0]);
    to.part[1] = _mm256_fmadd_ps(one.part[1], other.part[1], to.part[1]);
    return to.all;
#elif defined(__ARM_FEATURE_FMA)
    for (int i = 0; i < LANES; i++) sum[i] = __builtin_fmaf(x[i], y[i], sum[i]);
    return sum;
#else
    return sum + x * y;
#endif
}

/* Up to 16 numbers, zeros behind them. */
INLINE floats load(const float *from, int64_t left) {
    floats found = {0};
    if (left >= LANES) memcpy(&found, from, sizeof found);
    else memcpy(&found, from, left * sizeof *from);
    return found;
}

INLINE void store(float *to, floats x, int64_t left) {
    if (left >= LANES) memcpy(to, &x, sizeof x);
    else memcpy(to, &x, left * sizeof *to);
}

INLINE float sum_of(floats x) {
    typedef float half __attribute__((vector_size(32)));
    typedef float quarter __attribute__((vector_size(16)));
    union { floats all; half part[2]; } one = {x};
    union { half all; quarter part[2]; } two = {one.part[0] + one.part[1]};
    const quarter four = two.part[0] + two.part[1];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

INLINE floats choose(ints which, floats one, floats other) {
    return (floats)((which & (ints)one) | (~which & (ints)other));
}

/* exp(x), x at most 88, to 2 units in the last place (the polynomial of Cephes' expf, Moshier 1992); below -87 zero. */
INLINE floats exponential(floats x) {
    const floats least = all_of(-87.0f);
    const ints tiny = x < least;
    x = choose(tiny, least, x);
    floats n = x * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: rounds to an integer */
    n -= 12582912.0f;
    const floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const ints power = (__builtin_convertvector(n, ints) + 127) << 23;
    return choose(tiny, (floats){0}, p * (floats)power);
}

/* Threads that go through one call together. They wait for each other in `meet`, awake: OpenMP puts them to sleep where a
   process has more of its threads than there are processors, as a service has (each thread that ever computed has a team
   of its own), and waking them a hundred times takes as long as a step of the engine. */
typedef struct {
    _Alignas(64) int waiting;
    int phase;
    _Alignas(64) int64_t next; /* of what is taken piece by piece */
} Team;

typedef struct {
    Team *team;
    int me, count;
} Worker;

INLINE Worker worker(Team *team) {
#if defined(_OPENMP)
    return (Worker){team, omp_get_thread_num(), omp_get_num_threads()};
#else
    return (Worker){team, 0, 1};
#endif
}

INLINE void meet(Worker w) {
    Team *t = w.team;
    const int phase = __atomic_load_n(&t->phase, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&t->waiting, 1, __ATOMIC_ACQ_REL) == w.count) {
        t->waiting = 0;
        t->next = 0;
        __atomic_store_n(&t->phase, phase + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int tries = 0; __atomic_load_n(&t->phase, __ATOMIC_ACQUIRE) == phase;) {
        if (tries == PATIENCE) sched_yield(); /* who is waited for may want this processor */
        else tries++;
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
}

INLINE int64_t take(Worker w, int64_t count) {
    return __atomic_fetch_add(&w.team->next, count, __ATOMIC_RELAXED);
}

/* Numbers up to n: those of one worker; and by `step` whoever is free takes the next, so that a thread which other work
   holds up does not hold up the others (once between two meetings). */
#define SHARED(w, i, n) for (int64_t i = (n) * (w).me / (w).count; i < (n) * ((w).me + 1) / (w).count; i++)
#define TAKEN(w, i, n, step) for (int64_t i; (i = take(w, step)) < (n);)

/* Have `call`, in which w is the worker, gone through by a team. */
#define TOGETHER(threads, call)                                                                                        \
    do {                                                                                                               \
        Team team = {0};                                                                                               \
        const int many = (int)(threads);                                                                               \
        (void)many;                                                                                                    \
        _Pragma("omp parallel num_threads(many)") {                                                                    \
            const Worker w = worker(&team);                                                                            \
            call;                                                                                                      \
        }                                                                                                              \
    } while (0)

typedef struct {
    const uint8_t *codes; /* [blocks][columns * bits / 8][16], laid out by `interleave` in quantised.py */
    const float *scales;  /* [blocks][groups][16]; 8 bits: [blocks][16] */
    const float *bias;    /* [outputs] or NULL */
    int64_t outputs, inputs, columns, group, bits; /* columns: inputs filled up to a multiple of group, that of 8 */
} Coded;

typedef struct {
    const uint32_t *words; /* [blocks][steps][16], see dense.c */
    const float *bias;     /* [outputs] or NULL */
    int64_t outputs, inputs, steps, blocks;
} Dense;

typedef struct {
    int64_t heads, kv_heads, size;
    float epsilon;
    const float *query_norm, *key_norm; /* [size] or NULL */
} Heads;

#pragma GCC visibility push(hidden)
/* Each worker of a team calls these; all are done when they return. `scratch`: as many bytes as `…_scratch` says. */
int64_t coded_scratch(const Coded *m, int64_t count);
void coded_rows(Worker w, const Coded *m, const float *x, int64_t count, float *out, void *scratch);
int64_t dense_scratch(const Dense *m, int64_t count);
void float32_rows(Worker w, const Dense *m, const float *x, int64_t count, float *out, void *scratch);
void bfloat16_rows(Worker w, const Dense *m, const float *x, int64_t count, float *out, void *scratch);
void add_norm_rows(Worker w, float *x, const float *y, const float *weight, float epsilon, int64_t size, int64_t rows,
                   float *out);
void gate_rows(Worker w, const float *inner, int64_t size, int64_t rows, float *out);
void place_rows(Worker w, const Heads *h, float *joint, const float *cos, const float *sin, const int64_t *at,
                float *cache, int64_t stride, int64_t rows);
void attend_rows(Worker w, const Heads *h, const float *joint, const int64_t *at, const int64_t *positions,
                 const float *cache, int64_t stride, int64_t window, int64_t rows, float *out);
#pragma GCC visibility pop

#pragma GCC visibility push(protected) /* not to be confused with what others may call so */
int product_coded(const Coded *m, const float *x, int64_t count, float *out, int threads);
int product_float32(const Dense *m, const float *x, int64_t count, float *out, int threads);
int product_bfloat16(const Dense *m, const float *x, int64_t count, float *out, int threads);
void dense_words(const uint32_t *from, int64_t outputs, int64_t steps, int64_t blocks, uint32_t *to, int threads);
void add_norm(float *x, const float *y, const float *weight, float epsilon, int64_t size, int64_t rows, float *out,
              int threads);
void gate(const float *inner, int64_t size, int64_t rows, float *out, int threads);
void place(const Heads *h, float *joint, const float *cos, const float *sin, const int64_t *at, float *cache,
           int64_t stride, int64_t rows, int threads);
void attend(const Heads *h, const float *joint, const int64_t *at, const int64_t *positions, const float *cache,
            int64_t stride, int64_t window, int64_t rows, float *out, int threads);
struct Stack;
int blocks(const struct Stack *s, float *x, float *added, const float *cos, const float *sin, const int64_t *at,
           const int64_t *positions, float *cache, int64_t layer, int64_t stride, int64_t rows, const int64_t *answers,
           int64_t count, int threads);
void scan(const float *scores, int64_t size, int64_t rows, int64_t *best, float *largest, float *normaliser,
          int threads);
#pragma GCC visibility pop
