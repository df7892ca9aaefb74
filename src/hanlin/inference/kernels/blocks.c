/* All blocks of a model in one call: the same functions that a step calls one by one, without what calling them costs. */

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
    int64_t count, hidden, inner, weights; /* weights: of all blocks */
    Heads heads;
} Stack;

enum { CODED, FLOAT32, BFLOAT16, PORTION = 384, ALONE = 1 << 17 };
/* PORTION: rows that go from product to product together, so that what lies between stays small; ALONE: multiplications of
   a step that one thread has done before others are awake. */

/* Bytes; negative for a product that was not compiled. */
static int64_t scratch_of(const Linear *linear, int64_t rows) {
    if (linear->kind == CODED) return coded_scratch(linear->matrix, rows);
#if defined(HAS_DENSE)
    if (linear->kind == FLOAT32 || linear->kind == BFLOAT16) return dense_scratch(linear->matrix, rows);
#endif
    return -1;
}

static void product_of(Worker w, const Linear *linear, const float *x, int64_t rows, float *out, void *scratch) {
    switch (linear->kind) {
        case CODED: coded_rows(w, linear->matrix, x, rows, out, scratch); break;
#if defined(HAS_DENSE)
        case FLOAT32: float32_rows(w, linear->matrix, x, rows, out, scratch); break;
        case BFLOAT16: bfloat16_rows(w, linear->matrix, x, rows, out, scratch); break;
#endif
    }
}

/* What a call works on; sizes as `blocks` says. */
typedef struct {
    const Stack *stack;
    float *x, *added, *cache, *joint, *mixed, *normal, *inner, *gated;
    const float *cos, *sin;
    const int64_t *at, *positions, *answers;
    int64_t layer, stride, rows, count, portion;
    void *scratch;
} Pass;

/* to [count][size]: the rows of from at `places`. */
static void gather(Worker w, const float *from, const int64_t *places, int64_t count, int64_t size, float *to) {
    SHARED(w, i, count) memcpy(to + i * size, from + (places ? places[i] : i) * size, size * sizeof *to);
    meet(w);
}

static void go_through(Worker w, const Pass *p) {
    const Stack *s = p->stack;
    const int64_t seen = s->heads.heads * s->heads.size, all = seen + 2 * s->heads.kv_heads * s->heads.size;
    const float *mixed = p->mixed;
    int64_t rows = p->rows;
    for (int64_t number = 0; number < s->count; number++) {
        const Block *b = s->blocks + number;
        Heads heads = s->heads;
        heads.query_norm = b->query_norm;
        heads.key_norm = b->key_norm;
        float *own = p->cache + number * p->layer;
        for (int64_t start = 0; start < rows; start += p->portion) {
            const int64_t here = rows - start < p->portion ? rows - start : p->portion, from = start * s->hidden;
            add_norm_rows(w, p->x + from, number ? p->added + from : NULL, b->attention_norm, heads.epsilon, s->hidden,
                          here, p->normal);
            product_of(w, &b->qkv, p->normal, here, p->joint + start * all, p->scratch);
        }
        place_rows(w, &heads, p->joint, p->cos, p->sin, p->at, own, p->stride, rows);
        attend_rows(w, &heads, p->joint, p->at, p->positions, own, p->stride, b->window, rows, p->mixed);
        if (p->answers && number == s->count - 1) {
            rows = p->count;
            gather(w, p->x, p->answers, rows, s->hidden, p->added);
            gather(w, p->added, NULL, rows, s->hidden, p->x);
            gather(w, p->mixed, p->answers, rows, seen, p->joint);
            mixed = p->joint;
        }
        for (int64_t start = 0; start < rows; start += p->portion) {
            const int64_t here = rows - start < p->portion ? rows - start : p->portion, from = start * s->hidden;
            product_of(w, &b->out, mixed + start * seen, here, p->added + from, p->scratch);
            add_norm_rows(w, p->x + from, p->added + from, b->mlp_norm, heads.epsilon, s->hidden, here, p->normal);
            product_of(w, &b->up, p->normal, here, p->inner, p->scratch);
            gate_rows(w, p->inner, s->inner, here, p->gated);
            product_of(w, &b->down, p->gated, here, p->added + from, p->scratch);
        }
    }
}

/* x [rows][hidden], embedded tokens, becomes the residual stream without what the last block's MLP adds, which is put
   into added [rows][hidden]. Angles and places as in rows.c, positions as in attend.c; a layer of the cache begins `layer` numbers
   after the one before. With `answers`, places of `count` rows, these alone are left at last, in that order, as the first
   of x and added. Returns 0, or 1 where there is no memory (or not the product). */
int blocks(const Stack *s, float *x, float *added, const float *cos, const float *sin, const int64_t *at,
           const int64_t *positions, float *cache, int64_t layer, int64_t stride, int64_t rows, const int64_t *answers,
           int64_t count, int threads) {
    const int64_t seen = s->heads.heads * s->heads.size, all = seen + 2 * s->heads.kv_heads * s->heads.size;
    Pass p = {.stack = s, .x = x, .added = added, .cache = cache, .cos = cos, .sin = sin, .at = at,
              .positions = positions, .answers = answers, .layer = layer, .stride = stride, .rows = rows,
              .count = count, .portion = rows < PORTION ? rows : PORTION};
    int64_t scratch = 0;
    for (int64_t number = 0; number < s->count; number++) {
        const Block *b = s->blocks + number;
        const Linear *all_four[] = {&b->qkv, &b->out, &b->up, &b->down};
        for (int i = 0; i < 4; i++) {
            const int64_t wanted = scratch_of(all_four[i], p.portion);
            if (wanted < 0) return 1;
            scratch = wanted > scratch ? wanted : scratch;
        }
    }
    p.joint = malloc((rows * (all + seen) + p.portion * (s->hidden + 3 * s->inner)) * sizeof *p.joint);
    p.scratch = malloc(scratch);
    if (p.joint && p.scratch) {
        p.mixed = p.joint + rows * all;
        p.normal = p.mixed + rows * seen;
        p.inner = p.normal + p.portion * s->hidden;
        p.gated = p.inner + p.portion * 2 * s->inner;
        int64_t work = rows * s->weights;
        for (int64_t row = 0; row < rows; row++) work += 2 * s->count * seen * (positions[row] + 1);
        TOGETHER(work > ALONE ? threads : 1, go_through(w, &p));
    }
    const int failed = !p.joint || !p.scratch;
    free(p.joint);
    free(p.scratch);
    return failed;
}
