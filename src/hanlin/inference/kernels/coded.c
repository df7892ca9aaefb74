/* Products of float32 rows with matrices kept in 8 or 4 bits.

   out[m][n] = sum over groups g of  x_scale[m][g] * w_scale[n][g] * sum over k in g of  x[m][k] * code[n][k]

   A row of x is rounded to 16-bit integers, each group of its columns by a scale of its own: an error of at most 2^-16
   of the group's largest number, where bfloat16's is 2^-9 of each. The inner sum is then one of integers, exact in any
   order, and the outer one is taken in one order, so a row's result does not depend on how many rows or threads there
   are. It is also the faster way: processors multiply and add 16-bit integers at twice the rate of floats, and codes
   become such integers with fewer instructions. 16 outputs stand side by side in a vector. */

#include "kernels.h"

#if defined(__AVX512F__)
enum { ROWS = 8 };
#else
enum { ROWS = 4 }; /* as many sums as there are registers for */
#endif
enum { CHUNK = 64, LARGEST_GROUP = 128 };

/* In each lane: sum + w.low * x.low + w.high * x.high, of signed 16-bit halves. */
INLINE ints dot(ints sum, ints w, int32_t x) {
#if defined(__AVX512VNNI__)
    return (ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)w, _mm512_set1_epi32(x));
#elif defined(__AVX512BW__)
    return sum + (ints)_mm512_madd_epi16((__m512i)w, _mm512_set1_epi32(x));
#elif defined(__AVX2__)
    union { ints all; __m256i part[2]; } both = {w};
    __m256i pair = _mm256_set1_epi32(x);
    both.part[0] = _mm256_madd_epi16(both.part[0], pair);
    both.part[1] = _mm256_madd_epi16(both.part[1], pair);
    return sum + both.all;
#else
    return sum + ((w << 16) >> 16) * (int32_t)(int16_t)x + (w >> 16) * (x >> 16);
#endif
}

typedef struct {
    int32_t *pairs;  /* tiles of up to ROWS rows, each [columns / 2][rows of the tile]: two 16-bit integers a pair */
    float *scales;   /* [rows][groups] */
    int32_t *sums;   /* [rows][groups]: -8 times the sum of a group of x, for 4-bit codes are stored plus 8 */
} Rows;

/* Round row `row` of the `count` rows that are in work at once; x [inputs]. */
static void round_row(const float *x, const Coded *w, int64_t row, int64_t count, Rows *rows) {
    const int64_t groups = w->columns / w->group, first = row - row % ROWS;
    const int64_t tall = count - first < ROWS ? count - first : ROWS;
    int32_t *to = rows->pairs + first * w->columns / 2 + row % ROWS;
    for (int64_t g = 0; g < groups; g++) {
        const int64_t start = g * w->group, size = w->inputs - start < w->group ? w->inputs - start : w->group;
        int16_t rounded[LARGEST_GROUP] = {0};
        /* Of non-negative floats the larger one has the larger bits, and NaN the largest. */
        int32_t bits = 0, sum = 0;
        for (int64_t k = 0; k < size; k++) {
            int32_t one;
            memcpy(&one, x + start + k, sizeof one);
            one &= 0x7FFFFFFF;
            bits = one > bits ? one : bits;
        }
        float most;
        memcpy(&most, &bits, sizeof most);
        /* Where something is not finite the result is NaN, and where all is tiny, zero. */
        const int finite = most <= 3.4e38f;
        if (finite && most > 1e-30f) {
            const float inverse = 32767.0f / most;
            for (int64_t k = 0; k < size; k++) {
                const float scaled = x[start + k] * inverse;
                rounded[k] = (int16_t)(int32_t)(scaled + (scaled < 0 ? -0.5f : 0.5f));
                sum += rounded[k];
            }
        }
        for (int64_t k = 0; k < w->group / 2; k++, to += tall) memcpy(to, rounded + 2 * k, sizeof *to);
        rows->scales[row * groups + g] = finite ? most / 32767.0f : NAN;
        rows->sums[row * groups + g] = -8 * sum;
    }
}

INLINE void tile(const int count, const int bits, const Coded *w, int64_t block, const Rows *rows, int64_t row,
                 float *out) {
    const int chains = count == 1 ? 4 : count == 2 ? 2 : 1;
    const int64_t groups = w->columns / w->group;
    const ints *codes = (const ints *)(w->codes + block * LANES * w->columns * bits / 8);
    const floats *scales = (const floats *)w->scales + block * (bits == 4 ? groups : 1);
    const int32_t *x = rows->pairs + row * w->columns / 2;
    floats total[ROWS];
    for (int r = 0; r < count; r++) total[r] = (floats){0};
    for (int64_t g = 0; g < groups; g++) {
        ints sum[ROWS * 4];
        for (int i = 0; i < count * chains; i++) sum[i] = (ints){0};
        if (bits == 4) {
            for (int r = 0; r < count; r++) sum[r * chains] += rows->sums[(row + r) * groups + g];
            for (int64_t k = 0; k < w->group / 8; k++, codes++, x += 4 * count) {
                words packed = (words)*codes;
                for (int i = 0; i < 4; i++) {
                    ints four = (ints)((packed >> (4 * i)) & 0x000F000Fu);
                    for (int r = 0; r < count; r++)
                        sum[r * chains + i % chains] = dot(sum[r * chains + i % chains], four, x[i * count + r]);
                }
            }
        } else {
            for (int64_t k = 0; k < w->group / 8; k++, codes += 2, x += 4 * count) {
                for (int i = 0; i < 4; i++) {
                    halves packed = (halves)codes[i / 2];
                    ints eight = (ints)(i % 2 ? packed >> 8 : (packed << 8) >> 8);
                    for (int r = 0; r < count; r++)
                        sum[r * chains + i % chains] = dot(sum[r * chains + i % chains], eight, x[i * count + r]);
                }
            }
        }
        for (int r = 0; r < count; r++) {
            ints whole = sum[r * chains];
            for (int i = 1; i < chains; i++) whole += sum[r * chains + i];
            floats part = __builtin_convertvector(whole, floats) * rows->scales[(row + r) * groups + g];
            total[r] += bits == 4 ? part * scales[g] : part;
        }
    }
    const int64_t first = block * LANES, width = w->outputs - first < LANES ? w->outputs - first : LANES;
    for (int r = 0; r < count; r++) {
        if (bits == 8) total[r] *= scales[0];
        float *to = out + (row + r) * w->outputs + first;
        for (int64_t n = 0; n < width; n++) to[n] = total[r][n] + (w->bias ? w->bias[first + n] : 0);
    }
}

/* A tile of any height up to ROWS: each height is compiled by itself, so that its sums stay in registers. */
#define CASE(height, bits) case height: tile(height, bits, w, block, rows, row, out); break;
#if defined(__AVX512F__)
#define MORE(bits) CASE(5, bits) CASE(6, bits) CASE(7, bits) CASE(8, bits)
#else
#define MORE(bits)
#endif
#define HEIGHTS(bits) switch (height) { CASE(1, bits) CASE(2, bits) CASE(3, bits) CASE(4, bits) MORE(bits) }

static void tile8(int height, const Coded *w, int64_t block, const Rows *rows, int64_t row, float *out) { HEIGHTS(8) }
static void tile4(int height, const Coded *w, int64_t block, const Rows *rows, int64_t row, float *out) { HEIGHTS(4) }

int64_t coded_scratch(const Coded *m, int64_t count) {
    return (count < CHUNK ? count : CHUNK) * (m->columns / 2 + 2 * (m->columns / m->group)) * sizeof(int32_t);
}

void coded_rows(Worker w, const Coded *m, const float *x, int64_t count, float *out, void *scratch) {
    const int64_t groups = m->columns / m->group, blocks = (m->outputs + LANES - 1) / LANES;
    const int64_t chunk = count < CHUNK ? count : CHUNK;
    Rows rows = {.pairs = scratch};
    rows.sums = rows.pairs + chunk * m->columns / 2;
    rows.scales = (float *)(rows.sums + chunk * groups);
    for (int64_t start = 0; start < count; start += chunk) {
        const int64_t here = count - start < chunk ? count - start : chunk;
        SHARED(w, row, here) round_row(x + (start + row) * m->inputs, m, row, here, &rows);
        meet(w);
        SHARED(w, block, blocks)
            for (int64_t row = 0; row < here; row += ROWS) {
                const int height = here - row < ROWS ? (int)(here - row) : ROWS;
                if (m->bits == 8) tile8(height, m, block, &rows, row, out + start * m->outputs);
                else tile4(height, m, block, &rows, row, out + start * m->outputs);
            }
        meet(w);
    }
}

/* out [count][outputs] = x [count][inputs] times the matrix, transposed. Returns 0, or 1 where there is no memory. */
int product_coded(const Coded *m, const float *x, int64_t count, float *out, int threads) {
    void *scratch = malloc(coded_scratch(m, count));
    if (!scratch) return 1;
    TOGETHER(threads, coded_rows(w, m, x, count, out, scratch));
    free(scratch);
    return 0;
}
