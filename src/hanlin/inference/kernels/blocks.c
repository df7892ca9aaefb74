/* All blocks of a model for a few generated tokens in one call: the same functions that a step calls one by one, without
   what calling them costs. */

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

enum { CODED, FLOAT32, BFLOAT16 };

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

/* x [rows][hidden], embedded tokens, becomes the residual stream without what the last block's MLP adds, which is put
   into added [rows][hidden]. Angles, places and positions as in rows.c; a layer of the cache begins `layer` numbers
   after the one before. Returns 0, or 1 where there is no memory. */
int blocks(const Stack *s, float *x, float *added, const float *cos, const float *sin, const int64_t *at,
           const int64_t *positions, float *cache, int64_t layer, int64_t stride, int64_t rows, int threads) {
    const int64_t seen = s->heads.heads * s->heads.size, all = seen + 2 * s->heads.kv_heads * s->heads.size;
    float *normal = malloc(rows * (s->hidden + all + seen + 3 * s->inner) * sizeof *normal);
    if (!normal) return 1;
    float *joint = normal + rows * s->hidden, *mixed = joint + rows * all, *inner = mixed + rows * seen;
    float *gated = inner + rows * 2 * s->inner;
    int failed = 0;
    for (int64_t number = 0; number < s->count && !failed; number++) {
        const Block *b = s->blocks + number;
        Heads heads = s->heads;
        heads.query_norm = b->query_norm;
        heads.key_norm = b->key_norm;
        float *own = cache + number * layer;
        add_norm(x, number ? added : NULL, b->attention_norm, heads.epsilon, s->hidden, rows, normal, threads);
        failed |= product_of(&b->qkv, normal, rows, joint, threads);
        place(&heads, joint, cos, sin, at, own, stride, rows, threads);
        attend(&heads, joint, at, positions, own, stride, b->window, rows, mixed, threads);
        failed |= product_of(&b->out, mixed, rows, added, threads);
        add_norm(x, added, b->mlp_norm, heads.epsilon, s->hidden, rows, normal, threads);
        failed |= product_of(&b->up, normal, rows, inner, threads);
        gate(inner, s->inner, rows, gated, threads);
        failed |= product_of(&b->down, gated, rows, added, threads);
    }
    free(normal);
    return failed;
}
