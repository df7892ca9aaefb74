/* All blocks of a model in one call: the same functions that a step calls one by one, without what calling them costs,
   and what lies between products no longer than a cache holds it. */

#include "kernels.h"

typedef struct {
    int64_t kind; /* of `product_of` */
    const void *matrix;
} Linear;

typedef struct {
    const float *attention_norm, *mlp_norm, *query_norm, *key_norm;
    Linear qkv, out, up, down;
    int64_t window;
} Block;

typedef struct Stack {
    const Block *blocks;
    int64_t count, hidden, inner;
    Heads heads;
} Stack;

enum { CODED, FLOAT32, BFLOAT16, PORTION = 384 }; /* PORTION: rows that go through an MLP together */

static int product_of(const Linear *linear, const float *x, int64_t rows, float *out, int threads) {
    switch (linear->kind) {
        case CODED: return product_coded(linear->matrix, x, rows, out, threads);
#if defined(HAS_DENSE)
        case FLOAT32: return product_float32(linear->matrix, x, rows, out, threads);
        case BFLOAT16: return product_bfloat16(linear->matrix, x, rows, out, threads);
#endif
    }
    return 1;
}

/* to [count][size]: the rows of from at `places`. */
static void gather(const float *from, const int64_t *places, int64_t count, int64_t size, float *to) {
    for (int64_t i = 0; i < count; i++) memcpy(to + i * size, from + places[i] * size, size * sizeof *to);
}

/* x [rows][hidden], embedded tokens, becomes the residual stream without what the last block's MLP adds, which is put
   into added [rows][hidden]. Angles, places and positions as in rows.c; a layer of the cache begins `layer` numbers
   after the one before. With `answers`, places of `count` rows, these alone are left at last, in that order, as the first
   of x and added. Returns 0, or 1 where there is no memory. */
int blocks(const Stack *s, float *x, float *added, const float *cos, const float *sin, const int64_t *at,
           const int64_t *positions, float *cache, int64_t layer, int64_t stride, int64_t rows, const int64_t *answers,
           int64_t count, int threads) {
    const int64_t seen = s->heads.heads * s->heads.size, all = seen + 2 * s->heads.kv_heads * s->heads.size;
    const int64_t portion = rows < PORTION ? rows : PORTION;
    float *joint = malloc((rows * (all + seen) + portion * (s->hidden + 3 * s->inner)) * sizeof *joint);
    if (!joint) return 1;
    float *mixed = joint + rows * all, *normal = mixed + rows * seen, *inner = normal + portion * s->hidden;
    float *gated = inner + portion * 2 * s->inner;
    int failed = 0;
    for (int64_t number = 0; number < s->count && !failed; number++) {
        const Block *b = s->blocks + number;
        Heads heads = s->heads;
        heads.query_norm = b->query_norm;
        heads.key_norm = b->key_norm;
        float *own = cache + number * layer;
        for (int64_t start = 0; start < rows; start += portion) {
            const int64_t here = rows - start < portion ? rows - start : portion, at_x = start * s->hidden;
            add_norm(x + at_x, number ? added + at_x : NULL, b->attention_norm, heads.epsilon, s->hidden, here, normal,
                     threads);
            failed |= product_of(&b->qkv, normal, here, joint + start * all, threads);
        }
        place(&heads, joint, cos, sin, at, own, stride, rows, threads);
        attend(&heads, joint, at, positions, own, stride, b->window, rows, mixed, threads);
        if (answers && number == s->count - 1) {
            gather(x, answers, count, s->hidden, added);
            memcpy(x, added, count * s->hidden * sizeof *x);
            gather(mixed, answers, count, seen, joint);
            mixed = joint;
            rows = count;
        }
        for (int64_t start = 0; start < rows; start += portion) {
            const int64_t here = rows - start < portion ? rows - start : portion, at_x = start * s->hidden;
            failed |= product_of(&b->out, mixed + start * seen, here, added + at_x, threads);
            add_norm(x + at_x, added + at_x, b->mlp_norm, heads.epsilon, s->hidden, here, normal, threads);
            failed |= product_of(&b->up, normal, here, inner, threads);
            gate(inner, s->inner, here, gated, threads);
            failed |= product_of(&b->down, gated, here, added + at_x, threads);
        }
    }
    free(joint);
    return failed;
}
