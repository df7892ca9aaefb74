/* Products of float32 rows with matrices kept in float32 or bfloat16.

   A matrix is [blocks][steps][16] words of 32 bits: of 16 outputs in turn a column each, or two neighbouring columns in
   bfloat16; there are 4 blocks or a multiple. Processors that multiply bfloat16 round x to it too; others take the
   weights apart and multiply in float32. Each result is one chain of multiplications and additions, a step at a
   time, whatever the tile in which it is computed, so a row's result does not depend on how many rows or threads there
   are. One or two rows take several blocks at once, so that the processor has enough chains to work on; more rows take
   two, so that each number of x that is loaded is used twice. */

#include "kernels.h"

#if defined(HAS_DENSE)

#if defined(__AVX512F__)
enum { TALL = 12, WIDE = 2, WIDEST = 4 };
#else
enum { TALL = 6, WIDE = 1, WIDEST = 2 }; /* as many sums as there are registers for */
#endif
enum { FLOAT32, BFLOAT16, KEPT = 1 << 17 }; /* KEPT: numbers of x that are worked on at once, half of what a core caches */
#if defined(__AVX512BF16__)
enum { PAIRED = 1 }; /* a step takes two neighbouring numbers of x in one word */
#else
enum { PAIRED = 0 };
#endif

/* A step of one row; next: where its second number of x is, if there are two. */
INLINE floats multiply_add(const int kind, floats sum, words w, const float *x, int next) {
    if (kind == FLOAT32) return fused(sum, (floats)w, all_of(*x));
#if defined(__AVX512BF16__)
    (void)next;
    return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)_mm512_set1_ps(*x));
#else
    return fused(fused(sum, (floats)(w << 16), all_of(*x)), (floats)(w & 0xFFFF0000u), all_of(x[next]));
#endif
}

/* x: [steps][rows], or [steps][2][rows] where a step takes two numbers. */
INLINE void tile(const int kind, const int rows, const int wide, const Dense *m, int64_t block, const float *x,
                 float *out) {
    const uint32_t *w = m->words + block * m->steps * LANES;
    const int numbers = kind == BFLOAT16 && !PAIRED ? 2 : 1;
    floats sum[TALL * WIDE];
#pragma GCC unroll 24
    for (int i = 0; i < rows * wide; i++) sum[i] = (floats){0};
    for (int64_t k = 0; k < m->steps; k++) {
        words part[WIDEST];
        for (int b = 0; b < wide; b++) memcpy(part + b, w + (b * m->steps + k) * LANES, sizeof *part);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int b = 0; b < wide; b++)
                sum[r * wide + b] = multiply_add(kind, sum[r * wide + b], part[b], x + k * numbers * rows + r, rows);
    }
    for (int b = 0; b < wide; b++) {
        const int64_t first = (block + b) * LANES, left = m->outputs - first;
        if (left <= 0) break;
        const floats bias = m->bias ? load(m->bias + first, left) : (floats){0};
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) store(out + r * m->outputs + first, sum[r * wide + b] + bias, left);
    }
}

/* Each height is compiled by itself, so that its sums stay in registers. */
#define FEW(height) case height: tile(kind, height, WIDEST, m, block, x, out); break;
#define MANY(height) case height: for (int64_t b = 0; b < WIDEST; b += WIDE) tile(kind, height, WIDE, m, block + b, x, out); break;

/* WIDEST blocks of up to TALL rows. */
INLINE void tiles(const int kind, int height, const Dense *m, int64_t block, const float *x, float *out) {
    switch (height) {
        FEW(1) FEW(2) MANY(3) MANY(4) MANY(5) MANY(6)
#if defined(__AVX512F__)
        MANY(7) MANY(8) MANY(9) MANY(10) MANY(11) MANY(12)
#endif
    }
}

static void tiles_float32(int height, const Dense *m, int64_t block, const float *x, float *out) {
    tiles(FLOAT32, height, m, block, x, out);
}

static void tiles_bfloat16(int height, const Dense *m, int64_t block, const float *x, float *out) {
    tiles(BFLOAT16, height, m, block, x, out);
}

/* Row `at` of a tile of `height` rows, `columns` of them, zeros behind the inputs; pairs of bfloat16 count as one. */
static void lay_out(int kind, const Dense *m, const float *x, int64_t columns, int64_t height, int64_t at, float *to) {
#if defined(__AVX512BF16__)
    if (kind == BFLOAT16) {
        for (int64_t k = 0; k < columns; k += LANES / 2) {
            const int64_t left = m->inputs - 2 * k, here = columns - k < LANES / 2 ? columns - k : LANES / 2;
            const __m512 some = _mm512_maskz_loadu_ps(left < LANES ? (1u << left) - 1 : 0xFFFF, x + 2 * k);
            const __m256bh rounded = _mm512_cvtneps_pbh(some);
            float pairs[LANES / 2];
            memcpy(pairs, &rounded, sizeof pairs);
            for (int64_t i = 0; i < here; i++) to[(k + i) * height + at] = pairs[i];
        }
        return;
    }
#endif
    (void)kind;
    for (int64_t k = 0; k < columns; k++) to[k * height + at] = k < m->inputs ? x[k] : 0;
}

/* Rows of `columns` numbers that are worked on at once. */
static int64_t rows_at_once(int64_t columns, int64_t count) {
    const int64_t most = KEPT / columns < TALL ? TALL : KEPT / columns / TALL * TALL;
    return count < most ? count : most;
}

int64_t dense_scratch(const Dense *m, int64_t count) {
    /* At most two numbers a step. */
    return rows_at_once(m->steps, count) * 2 * m->steps * sizeof(float);
}

INLINE void product(Worker w, const int kind, const Dense *m, const float *x, int64_t count, float *out, float *rows) {
    const int64_t columns = m->steps * (kind == BFLOAT16 && !PAIRED ? 2 : 1), chunk = rows_at_once(columns, count);
    for (int64_t start = 0; start < count; start += chunk) {
        const int64_t here = count - start < chunk ? count - start : chunk, tall = (here + TALL - 1) / TALL;
        SHARED(w, part, tall) {
            const int64_t first = here * part / tall, height = here * (part + 1) / tall - first;
            for (int64_t at = 0; at < height; at++)
                lay_out(kind, m, x + (start + first + at) * m->inputs, columns, height, at, rows + first * columns);
        }
        meet(w);
        TAKEN(w, block, m->blocks, WIDEST)
            for (int64_t part = 0; part < tall; part++) {
                const int64_t first = here * part / tall, height = here * (part + 1) / tall - first;
                const float *from = rows + first * columns;
                float *to = out + (start + first) * m->outputs;
                if (kind == BFLOAT16) tiles_bfloat16((int)height, m, block, from, to);
                else tiles_float32((int)height, m, block, from, to);
            }
        meet(w);
    }
}

void float32_rows(Worker w, const Dense *m, const float *x, int64_t count, float *out, void *scratch) {
    product(w, FLOAT32, m, x, count, out, scratch);
}

void bfloat16_rows(Worker w, const Dense *m, const float *x, int64_t count, float *out, void *scratch) {
    product(w, BFLOAT16, m, x, count, out, scratch);
}

/* The blocks of a matrix [outputs][steps] of words, zeros behind its last output. */
void dense_words(const uint32_t *from, int64_t outputs, int64_t steps, int64_t blocks, uint32_t *to, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t k = 0; k < steps; k += LANES) /* 16 rows at a time, so that each line of memory is read once */
            for (int64_t i = 0; i < LANES; i++) {
                const int64_t row = block * LANES + i, here = steps - k < LANES ? steps - k : LANES;
                uint32_t *into = to + (block * steps + k) * LANES + i;
                for (int64_t j = 0; j < here; j++) into[j * LANES] = row < outputs ? from[row * steps + k + j] : 0;
            }
}

/* out [count][outputs] = x [count][inputs] times the matrix, transposed. Returns 0, or 1 where there is no memory. */
int product_float32(const Dense *m, const float *x, int64_t count, float *out, int threads) {
    void *scratch = malloc(dense_scratch(m, count));
    if (!scratch) return 1;
    TOGETHER(threads, float32_rows(w, m, x, count, out, scratch));
    free(scratch);
    return 0;
}

int product_bfloat16(const Dense *m, const float *x, int64_t count, float *out, int threads) {
    void *scratch = malloc(dense_scratch(m, count));
    if (!scratch) return 1;
    TOGETHER(threads, bfloat16_rows(w, m, x, count, out, scratch));
    free(scratch);
    return 0;
}
#endif
