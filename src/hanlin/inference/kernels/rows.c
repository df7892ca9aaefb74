/* What a step computes besides its products: norms, rotations, attention of generated tokens, the gate. All in float32,
   each row by itself and each sum in one order, so that a row's result does not depend on how many there are. */

#include "kernels.h"

enum { KEYS = 64, GROUP = 4, LONGEST = 16, SMALL = 1 << 15 };

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
    const floats least = (floats){0} - 87.0f;
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

INLINE float inverse_rms(const float *x, int64_t size, float epsilon) {
    floats sum = {0};
    for (int64_t k = 0; k < size; k += LANES) {
        const floats some = load(x + k, size - k);
        sum += some * some;
    }
    return 1.0f / sqrtf(sum_of(sum) / size + epsilon);
}

/* x += y (where there is one), and out = the RMS norm of x; [rows][size] all. */
void add_norm(float *x, const float *y, const float *weight, float epsilon, int64_t size, int64_t rows, float *out,
              int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * size > SMALL)
    for (int64_t row = 0; row < rows; row++) {
        float *own = x + row * size, *to = out + row * size;
        if (y)
            for (int64_t k = 0; k < size; k++) own[k] += y[row * size + k];
        const float factor = inverse_rms(own, size, epsilon);
        for (int64_t k = 0; k < size; k++) to[k] = own[k] * factor * weight[k];
    }
}

/* out [rows][size] = silu(inner[:, :size]) * inner[:, size:]. */
void gate(const float *inner, int64_t size, int64_t rows, float *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * size > SMALL)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t k = 0; k < size; k += LANES) {
            const float *from = inner + row * 2 * size + k;
            const floats x = load(from, size - k), up = load(from + size, size - k);
            const floats most = (floats){0} + 87.0f;
            const floats e = exponential(choose(-x > most, most, -x));
            store(out + row * size + k, x / (e + 1.0f) * up, size - k);
        }
}

/* Of each row of joint [rows][heads + 2 * kv_heads][size], normalise queries and keys and turn them in place by the
   angles whose cosines and sines [rows][size / 2] are given (NULL: not), and put keys and values into a layer of the
   cache: head h of row r at cache + at[r] + h * stride; nowhere where at[r] is negative. */
void place(const Heads *h, float *joint, const float *cos, const float *sin, const int64_t *at, float *cache,
           int64_t stride, int64_t rows, int threads) {
    const int64_t size = h->size, turned = h->heads + h->kv_heads, all = turned + h->kv_heads;
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * all * size > SMALL)
    for (int64_t row = 0; row < rows; row++) {
        float *own = joint + row * all * size;
        for (int64_t head = 0; head < turned; head++) {
            float *one = own + head * size, *other = one + size / 2;
            const float *norm = head < h->heads ? h->query_norm : h->key_norm;
            if (norm) {
                const float factor = inverse_rms(one, size, h->epsilon);
                for (int64_t k = 0; k < size; k++) one[k] = one[k] * factor * norm[k];
            }
            if (cos) {
                const float *c = cos + row * (size / 2), *s = sin + row * (size / 2);
                for (int64_t k = 0; k < size / 2; k++) {
                    const float left = one[k] * c[k] - other[k] * s[k], right = other[k] * c[k] + one[k] * s[k];
                    one[k] = left;
                    other[k] = right;
                }
            }
        }
        if (at[row] >= 0)
            for (int64_t head = 0; head < 2 * h->kv_heads; head++)
                memcpy(cache + at[row] + head * stride, own + (h->heads + head) * size, size * sizeof *own);
    }
}

/* What `count` queries, at most GROUP, of one head of keys and values see of positions first...end - 1; the softmax is
   kept as it goes, KEYS positions at a time (Milakov & Gimelshein 2018). */
INLINE void attend_group(const int count, const int vectors, int64_t size, const float *queries, const float *keys,
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
    for (int64_t start = first; start < end; start += KEYS) {
        const int here = end - start < KEYS ? (int)(end - start) : KEYS;
        float scores[GROUP][KEYS];
        for (int k = 0; k < here; k++) {
            const float *key = keys + (start + k) * size;
            floats dot[GROUP];
            for (int q = 0; q < count; q++) dot[q] = (floats){0};
            for (int v = 0; v < vectors; v++) {
                const floats some = load(key + v * LANES, size - v * LANES);
                for (int q = 0; q < count; q++) dot[q] += query[q][v] * some;
            }
            for (int q = 0; q < count; q++) scores[q][k] = sum_of(dot[q]);
        }
        for (int q = 0; q < count; q++) {
            float top = most[q];
            for (int k = 0; k < here; k++) top = scores[q][k] > top ? scores[q][k] : top;
            for (int k = here; k % LANES; k++) scores[q][k] = -INFINITY;
            const float factor = exponential((floats){0} + (most[q] - top))[0];
            most[q] = top;
            floats part = {0};
            for (int k = 0; k < here; k += LANES) {
                floats weights;
                memcpy(&weights, scores[q] + k, sizeof weights);
                weights = exponential(weights - top);
                part += weights;
                memcpy(scores[q] + k, &weights, sizeof weights);
            }
            total[q] = total[q] * factor + sum_of(part);
            for (int v = 0; v < vectors; v++) sum[q][v] *= factor;
        }
        for (int k = 0; k < here; k++) {
            const float *value = values + (start + k) * size;
            for (int v = 0; v < vectors; v++) {
                const floats some = load(value + v * LANES, size - v * LANES);
                for (int q = 0; q < count; q++) sum[q][v] += scores[q][k] * some;
            }
        }
    }
    for (int q = 0; q < count; q++)
        for (int v = 0; v < vectors; v++)
            store(out + q * size + v * LANES, sum[q][v] / total[q], size - v * LANES);
}

#define SIZE(count, vectors) attend_group(count, vectors, size, queries, keys, values, first, end, out)
#define COUNT(count)                                                                                                   \
    case count:                                                                                                        \
        if (size == 64) SIZE(count, 4);                                                                                \
        else if (size == 128) SIZE(count, 8);                                                                          \
        else SIZE(count, (int)((size + LANES - 1) / LANES));                                                           \
        break;

static void attend_some(int count, int64_t size, const float *queries, const float *keys, const float *values,
                        int64_t first, int64_t end, float *out) {
    switch (count) { COUNT(1) COUNT(2) COUNT(3) COUNT(4) }
}

/* out [rows][heads][size]: attention of the first `rows` rows of joint, each at its position of the sequence whose keys
   lie before its own in the cache (see `place`), over the last `window` positions. size: at most 256. */
void attend(const Heads *h, const float *joint, const int64_t *at, const int64_t *positions, const float *cache,
            int64_t stride, int64_t window, int64_t rows, float *out, int threads) {
    const int64_t size = h->size, group = h->heads / h->kv_heads, all = h->heads + 2 * h->kv_heads;
    int64_t seen = 0;
    for (int64_t row = 0; row < rows; row++) seen += positions[row] + 1;
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads) if (seen * h->heads * size > SMALL)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t head = 0; head < h->kv_heads; head++) {
            const int64_t end = positions[row] + 1, first = end > window ? end - window : 0;
            const float *keys = cache + at[row] - positions[row] * size + head * stride;
            const float *values = keys + h->kv_heads * stride;
            for (int64_t q = 0; q < group; q += GROUP) {
                const int64_t place = head * group + q;
                attend_some(group - q < GROUP ? (int)(group - q) : GROUP, size, joint + (row * all + place) * size, keys,
                            values, first, end, out + (row * h->heads + place) * size);
            }
        }
}

/* Of each row of scores [rows][size] the largest, the first place where it stands, and the logarithm of the sum of all
   exponentials; NaN where one is NaN or +inf. */
void scan(const float *scores, int64_t size, int64_t rows, int64_t *best, float *largest, float *normaliser, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows > 1 && rows * size > SMALL)
    for (int64_t row = 0; row < rows; row++) {
        const float *own = scores + row * size;
        floats most = (floats){0} - INFINITY;
        ints where = {0}, at;
        for (int i = 0; i < LANES; i++) at[i] = i;
        for (int64_t k = 0; k + LANES <= size; k += LANES, at += LANES) {
            const floats some = load(own + k, LANES);
            const ints more = some > most;
            most = choose(more, some, most);
            where = (more & at) | (~more & where);
        }
        float top = -INFINITY;
        int64_t first = 0;
        for (int i = 0; i < LANES; i++)
            if (most[i] > top || (most[i] == top && where[i] < first)) {
                top = most[i];
                first = where[i];
            }
        for (int64_t k = size - size % LANES; k < size; k++)
            if (own[k] > top) {
                top = own[k];
                first = k;
            }
        double total = 0;
        for (int64_t start = 0; start < size; start += 64 * LANES) {
            const int64_t end = size - start < 64 * LANES ? size : start + 64 * LANES;
            floats part = {0};
            for (int64_t k = start; k < end; k += LANES) {
                floats some = load(own + k, end - k) - top;
                for (int64_t i = end - k; i < LANES; i++) some[i] = -INFINITY;
                part += exponential(some);
            }
            total += sum_of(part);
        }
        best[row] = first;
        largest[row] = top;
        normaliser[row] = (float)(log(total) + top);
    }
}
