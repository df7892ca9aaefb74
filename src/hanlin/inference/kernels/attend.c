/* Attention of a step's rows, generated tokens and prompts alike: each row sees the keys of its own sequence up to its
   position, over as many as there are. A row's sums have one order, whether it is computed alone or beside others in a
   tile: a dot product is 16 chains, of every sixteenth number each, that are added like a tree; the softmax is kept as it
   goes, KEYS positions at a time from a multiple of KEYS on (Milakov & Gimelshein 2018); values are added in their order.
   So a token has the same bits whether it was read as part of a prompt, in whatever pieces, or generated, as long as all
   numbers are finite (a tile multiplies what a row does not see by zero). */

#include "kernels.h"

enum { KEYS = 64, PARTS = KEYS / LANES, GROUP = 4, LONGEST = 16, QUERIES = 32, ROWS = 4, WIDE = 4, FEW = 12, AHEAD = 16 };
/* Of a call: KEYS positions at a time, up to GROUP heads of QUERIES rows; in a tile ROWS queries by WIDE vectors of their
   sums; FEW queries are not worth a tile; keys are asked for AHEAD positions before they are read. */

/* What the rows of one call share. */
typedef struct {
    const Heads *heads;
    const float *joint;
    const int64_t *at, *positions;
    int64_t window;
    float *out;
} Seen;

/* The first position that the one at `position` sees. */
INLINE int64_t first_seen(int64_t position, int64_t window) {
    return position + 1 > window ? position + 1 - window : 0;
}

/* Scores of KEYS positions, of which those from `low` to `high` - 1 count, become weights; returns what the sums so far
   are to be multiplied by. */
INLINE float soften(float *scores, int low, int high, float *most, float *total) {
    if (high <= low) {
        memset(scores, 0, KEYS * sizeof *scores);
        return 1;
    }
    floats some[PARTS], largest = all_of(*most), sum = {0};
    ints place;
    for (int i = 0; i < LANES; i++) place[i] = i;
    for (int p = 0; p < PARTS; p++, place += LANES) {
        some[p] = choose((place >= low) & (place < high), load(scores + p * LANES, LANES), all_of(-INFINITY));
        largest = choose(some[p] > largest, some[p], largest);
    }
    float top = *most;
    for (int i = 0; i < LANES; i++) top = largest[i] > top ? largest[i] : top;
    const float factor = exponential(all_of(*most - top))[0];
    for (int p = 0; p < PARTS; p++) {
        some[p] = exponential(some[p] - top);
        sum += some[p];
        store(scores + p * LANES, some[p], LANES);
    }
    *most = top;
    *total = *total * factor + sum_of(sum);
    return factor;
}

/* One row's `count` queries, at most GROUP, of one head of keys and values. */
INLINE void attend_row(const int count, const int vectors, int64_t size, const float *queries, const float *keys,
                       const float *values, int64_t first, int64_t end, float *out) {
    const float scale = 1.0f / sqrtf((float)size);
    floats query[GROUP][LONGEST], sum[GROUP][LONGEST];
    float most[GROUP], total[GROUP];
    for (int q = 0; q < count; q++) {
        most[q] = -INFINITY;
        total[q] = 0;
        for (int v = 0; v < vectors; v++) {
            query[q][v] = load(queries + q * size + v * LANES, size - v * LANES) * scale;
            sum[q][v] = (floats){0};
        }
    }
    for (int64_t start = first / KEYS * KEYS; start < end; start += KEYS) {
        const int low = first > start ? (int)(first - start) : 0, high = end - start < KEYS ? (int)(end - start) : KEYS;
        float scores[GROUP][KEYS];
        for (int k = low; k < high; k++) {
            const float *key = keys + (start + k) * size, *value = values + (start + k) * size;
            for (int v = 0; v < vectors; v++) { /* memory is what takes long: so ask for it early */
                __builtin_prefetch(key + AHEAD * size + v * LANES);
                __builtin_prefetch(value + v * LANES);
            }
            floats dot[GROUP];
            for (int q = 0; q < count; q++) dot[q] = (floats){0};
            for (int v = 0; v < vectors; v++) {
                const floats some = load(key + v * LANES, size - v * LANES);
                for (int q = 0; q < count; q++) dot[q] = fused(dot[q], query[q][v], some);
            }
            for (int q = 0; q < count; q++) scores[q][k] = sum_of(dot[q]);
        }
        for (int q = 0; q < count; q++) {
            const float factor = soften(scores[q], low, high, most + q, total + q);
            for (int v = 0; v < vectors; v++) sum[q][v] *= factor;
        }
        for (int k = low; k < high; k++) {
            const float *value = values + (start + k) * size;
            for (int v = 0; v < vectors; v++) {
                const floats some = load(value + v * LANES, size - v * LANES);
                for (int q = 0; q < count; q++) sum[q][v] = fused(sum[q][v], all_of(scores[q][k]), some);
            }
        }
    }
    for (int q = 0; q < count; q++)
        for (int v = 0; v < vectors; v++)
            store(out + q * size + v * LANES, sum[q][v] / total[q], size - v * LANES);
}

/* The chains of one lane of ROWS queries [ROWS][vectors * 16] with 16 keys; turned: [numbers of a key][KEYS]. */
INLINE void chains(const int vectors, int lane, const float *queries, const float *turned, floats *sum) {
    for (int r = 0; r < ROWS; r++) sum[r] = (floats){0};
    for (int v = 0; v < vectors; v++) {
        const int at = v * LANES + lane;
        const floats some = load(turned + at * KEYS, LANES);
        for (int r = 0; r < ROWS; r++) sum[r] = fused(sum[r], all_of(queries[r * vectors * LANES + at]), some);
    }
}

/* Of ROWS queries their dot products with 16 keys, added as `sum_of` adds. */
INLINE void dots(const int vectors, const float *queries, const float *turned, float *scores) {
    floats half[2][ROWS], quarter[2][ROWS], eighth[2][ROWS], sixteenth[ROWS];
    for (int h = 0; h < 2; h++) {
        for (int q = 0; q < 2; q++) {
            for (int e = 0; e < 2; e++) {
                chains(vectors, h + 2 * q + 4 * e, queries, turned, eighth[e]);
                chains(vectors, h + 2 * q + 4 * e + 8, queries, turned, sixteenth);
                for (int r = 0; r < ROWS; r++) eighth[e][r] += sixteenth[r];
            }
            for (int r = 0; r < ROWS; r++) quarter[q][r] = eighth[0][r] + eighth[1][r];
        }
        for (int r = 0; r < ROWS; r++) half[h][r] = quarter[0][r] + quarter[1][r];
    }
    for (int r = 0; r < ROWS; r++) store(scores + r * KEYS, half[0][r] + half[1][r], LANES);
}

/* Add `count` values, weighted, to ROWS sums [ROWS][vectors * 16], of which `wide` vectors from number `first` on. */
INLINE void weigh(const int vectors, const int wide, int first, int64_t size, const float *weights, const float *values,
                  int low, int count, const float *factors, float *sums) {
    floats sum[ROWS][WIDE];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < wide; v++)
            sum[r][v] = load(sums + (r * vectors + first + v) * LANES, LANES) * factors[r];
    for (int k = low; k < count; k++)
        for (int v = 0; v < wide; v++) {
            const int64_t from = (first + v) * LANES;
            const floats some = load(values + k * size + from, size - from);
            for (int r = 0; r < ROWS; r++) sum[r][v] = fused(sum[r][v], all_of(weights[r * KEYS + k]), some);
        }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < wide; v++) store(sums + (r * vectors + first + v) * LANES, sum[r][v], LANES);
}

/* `heads` heads, at most GROUP, of `count` neighbouring rows of a sequence, at most QUERIES, of one head of keys. */
INLINE void attend_tile(const int vectors, int64_t size, const Seen *s, int64_t row, int count, int64_t head, int heads,
                        const float *keys, const float *values) {
    enum { TALL = QUERIES * GROUP };
    const int64_t all = s->heads->heads + 2 * s->heads->kv_heads;
    const int wide = vectors * LANES, tall = count * heads, filled = (tall + ROWS - 1) / ROWS * ROWS;
    const float scale = 1.0f / sqrtf((float)size);
    _Alignas(64) float queries[TALL * LONGEST * LANES], sums[TALL * LONGEST * LANES], turned[LONGEST * LANES * KEYS];
    _Alignas(64) float scores[TALL * KEYS];
    float most[TALL], total[TALL], factors[TALL];
    memset(queries, 0, filled * wide * sizeof *queries);
    memset(sums, 0, filled * wide * sizeof *sums);
    memset(turned, 0, wide * KEYS * sizeof *turned);
    for (int r = 0; r < filled; r++) {
        most[r] = -INFINITY;
        total[r] = 0;
        if (r >= tall) continue;
        const float *from = s->joint + ((row + r / heads) * all + head + r % heads) * size;
        for (int64_t k = 0; k < size; k++) queries[r * wide + k] = from[k] * scale;
    }
    const int64_t position = s->positions[row], last = position + count;
    for (int64_t start = first_seen(position, s->window) / KEYS * KEYS; start < last; start += KEYS) {
        const int here = last - start < KEYS ? (int)(last - start) : KEYS;
        for (int k = 0; k < here; k++)
            for (int64_t i = 0; i < size; i++) turned[i * KEYS + k] = keys[(start + k) * size + i];
        for (int r = 0; r < filled; r += ROWS) {
            /* From the first position that any of these rows sees to the last one. */
            const int64_t other = r + ROWS < tall ? position + (r + ROWS - 1) / heads : last - 1;
            const int64_t begin = first_seen(position + r / heads, s->window);
            const int low = begin > start ? (int)(begin - start) : 0;
            const int high = other + 1 - start < here ? (int)(other + 1 - start) : here;
            if (low >= high) continue;
            for (int k = low / LANES * LANES; k < high; k += LANES)
                dots(vectors, queries + r * wide, turned + k, scores + r * KEYS + k);
            for (int i = r; i < r + ROWS; i++) {
                const int64_t own = i < tall ? position + i / heads : last - 1, from = first_seen(own, s->window);
                const int least = from > start ? (int)(from - start) : 0;
                const int end = own + 1 - start < here ? (int)(own + 1 - start) : here;
                factors[i] = soften(scores + i * KEYS, least, end, most + i, total + i);
            }
            const float *from = values + start * size, *weights = scores + r * KEYS;
            int v = 0;
            for (; v + WIDE <= vectors; v += WIDE)
                weigh(vectors, WIDE, v, size, weights, from, low, high, factors + r, sums + r * wide);
            for (; v < vectors; v++) weigh(vectors, 1, v, size, weights, from, low, high, factors + r, sums + r * wide);
        }
    }
    for (int r = 0; r < tall; r++) {
        float *to = s->out + ((row + r / heads) * s->heads->heads + head + r % heads) * size;
        for (int64_t k = 0; k < size; k++) to[k] = sums[r * wide + k] / total[r];
    }
}

/* By itself, so that only tiles have their third of a megabyte of stack. */
static __attribute__((noinline)) void tile_of(const Seen *s, int64_t row, int count, int64_t head, int heads,
                                              const float *keys, const float *values) {
    const int64_t size = s->heads->size;
    if (size == 64) attend_tile(4, 64, s, row, count, head, heads, keys, values);
    else if (size == 128) attend_tile(8, 128, s, row, count, head, heads, keys, values);
    else attend_tile((int)((size + LANES - 1) / LANES), size, s, row, count, head, heads, keys, values);
}

/* `count` rows from `row` on; sizes that are common are compiled by themselves. */
static void attend_run(const Seen *s, int64_t row, int count, int64_t head, int heads, const float *keys,
                       const float *values) {
    const int64_t size = s->heads->size, all = s->heads->heads + 2 * s->heads->kv_heads;
    if (count * heads > FEW) {
        tile_of(s, row, count, head, heads, keys, values);
        return;
    }
    for (int64_t r = row; r < row + count; r++) {
        const int64_t end = s->positions[r] + 1, first = first_seen(end - 1, s->window);
        const float *queries = s->joint + (r * all + head) * size;
        float *out = s->out + (r * s->heads->heads + head) * size;
#define SIZE(count, vectors, size) attend_row(count, vectors, size, queries, keys, values, first, end, out)
#define COUNT(count)                                                                                                   \
    case count:                                                                                                        \
        if (size == 64) SIZE(count, 4, 64);                                                                            \
        else if (size == 128) SIZE(count, 8, 128);                                                                     \
        else SIZE(count, (int)((size + LANES - 1) / LANES), size);                                                     \
        break;
        switch (heads) { COUNT(1) COUNT(2) COUNT(3) COUNT(4) }
    }
}

/* Whether a row follows the one before in the same sequence. */
INLINE int follows(const Seen *s, int64_t row) {
    return row > 0 && s->at[row] - s->at[row - 1] == s->heads->size && s->positions[row] == s->positions[row - 1] + 1;
}

/* out [rows][heads][size]: what each of the `rows` queries of joint sees, at its position of the sequence whose keys lie
   before its own in the cache (see `place`), over the last `window` positions. Zeros where at[row] is negative. size: at
   most 256. */
void attend_rows(Worker w, const Heads *h, const float *joint, const int64_t *at, const int64_t *positions,
                 const float *cache, int64_t stride, int64_t window, int64_t rows, float *out) {
    const Seen s = {h, joint, at, positions, window, out};
    const int64_t size = h->size, group = h->heads / h->kv_heads;
    TAKEN(w, i, rows * h->kv_heads, 1) {
        const int64_t row = i / h->kv_heads, kv_head = i % h->kv_heads;
        if (at[row] < 0) {
            memset(out + (row * h->heads + kv_head * group) * size, 0, group * size * sizeof *out);
            continue;
        }
        /* The rows of a tile are taken together, with the first of them. */
        if (positions[row] % QUERIES && follows(&s, row)) continue;
        int count = 1;
        while (row + count < rows && positions[row + count] % QUERIES && follows(&s, row + count)) count++;
        const float *keys = cache + at[row] - positions[row] * size + kv_head * stride;
        for (int64_t q = 0; q < group; q += GROUP) {
            const int heads = group - q < GROUP ? (int)(group - q) : GROUP;
            attend_run(&s, row, count, kv_head * group + q, heads, keys, keys + h->kv_heads * stride);
        }
    }
    meet(w);
}

void attend(const Heads *h, const float *joint, const int64_t *at, const int64_t *positions, const float *cache,
            int64_t stride, int64_t window, int64_t rows, float *out, int threads) {
    int64_t seen = 0;
    for (int64_t row = 0; row < rows; row++) seen += positions[row] + 1;
    TOGETHER(seen * h->heads * h->size > SMALL ? threads : 1,
             attend_rows(w, h, joint, at, positions, cache, stride, window, rows, out));
}
