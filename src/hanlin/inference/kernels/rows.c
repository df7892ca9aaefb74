/* What a step computes besides products and attention: norms, rotations, the gate, the largest score. All in float32,
   each row by itself and each sum in one order, so that a row's result does not depend on how many there are. */

#include "kernels.h"

INLINE float inverse_rms(const float *x, int64_t size, float epsilon) {
    floats sum = {0};
    for (int64_t k = 0; k < size; k += LANES) {
        const floats some = load(x + k, size - k);
        sum += some * some;
    }
    return 1.0f / sqrtf(sum_of(sum) / size + epsilon);
}

/* x += y (where there is one), and out = the RMS norm of x; [rows][size] all. */
void add_norm_rows(Worker w, float *x, const float *y, const float *weight, float epsilon, int64_t size, int64_t rows,
                   float *out) {
    SHARED(w, row, rows) {
        float *own = x + row * size, *to = out + row * size;
        if (y)
            for (int64_t k = 0; k < size; k++) own[k] += y[row * size + k];
        const float factor = inverse_rms(own, size, epsilon);
        for (int64_t k = 0; k < size; k++) to[k] = own[k] * factor * weight[k];
    }
    meet(w);
}

void add_norm(float *x, const float *y, const float *weight, float epsilon, int64_t size, int64_t rows, float *out,
              int threads) {
    TOGETHER(rows * size > SMALL ? threads : 1, add_norm_rows(w, x, y, weight, epsilon, size, rows, out));
}

/* out [rows][size] = silu(inner[:, :size]) * inner[:, size:]. */
void gate_rows(Worker w, const float *inner, int64_t size, int64_t rows, float *out) {
    SHARED(w, row, rows)
        for (int64_t k = 0; k < size; k += LANES) {
            const float *from = inner + row * 2 * size + k;
            const floats x = load(from, size - k), up = load(from + size, size - k);
            const floats most = all_of(87.0f);
            const floats e = exponential(choose(-x > most, most, -x));
            store(out + row * size + k, x / (e + 1.0f) * up, size - k);
        }
    meet(w);
}

void gate(const float *inner, int64_t size, int64_t rows, float *out, int threads) {
    TOGETHER(rows * size > SMALL ? threads : 1, gate_rows(w, inner, size, rows, out));
}

/* Of each row of joint [rows][heads + 2 * kv_heads][size], normalise queries and keys and turn them in place by the
   angles whose cosines and sines [rows][size / 2] are given (NULL: not), and put keys and values into a layer of the
   cache: head h of row r at cache + at[r] + h * stride; nowhere where at[r] is negative. */
void place_rows(Worker w, const Heads *h, float *joint, const float *cos, const float *sin, const int64_t *at,
                float *cache, int64_t stride, int64_t rows) {
    const int64_t size = h->size, turned = h->heads + h->kv_heads, all = turned + h->kv_heads;
    SHARED(w, row, rows) {
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
    meet(w);
}

void place(const Heads *h, float *joint, const float *cos, const float *sin, const int64_t *at, float *cache,
           int64_t stride, int64_t rows, int threads) {
    const int64_t work = rows * (h->heads + 2 * h->kv_heads) * h->size;
    TOGETHER(work > SMALL ? threads : 1, place_rows(w, h, joint, cos, sin, at, cache, stride, rows));
}

/* Of each row of scores [rows][size] the largest, the first place where it stands, and the logarithm of the sum of all
   exponentials; NaN where one is NaN or +inf. */
static void scan_rows(Worker w, const float *scores, int64_t size, int64_t rows, int64_t *best, float *largest,
                      float *normaliser) {
    SHARED(w, row, rows) {
        const float *own = scores + row * size;
        floats most = all_of(-INFINITY);
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

void scan(const float *scores, int64_t size, int64_t rows, int64_t *best, float *largest, float *normaliser, int threads) {
    TOGETHER(rows > 1 && rows * size > SMALL ? threads : 1, scan_rows(w, scores, size, rows, best, largest, normaliser));
}
