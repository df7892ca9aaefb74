/* Vectors of 16 numbers, which compilers cut to what the processor has, and what the files give each other. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#define HAS_DENSE
#endif

enum { LANES = 16 };

typedef int32_t ints __attribute__((vector_size(64)));
typedef uint32_t words __attribute__((vector_size(64)));
typedef int16_t halves __attribute__((vector_size(64)));
typedef float floats __attribute__((vector_size(64)));

#define INLINE static inline __attribute__((always_inline))

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

#pragma GCC visibility push(protected) /* not to be confused with what others may call so */
int product_coded(const Coded *w, const float *x, int64_t count, float *out, int threads);
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
           const int64_t *positions, float *cache, int64_t layer, int64_t stride, int64_t rows, int threads);
void scan(const float *scores, int64_t size, int64_t rows, int64_t *best, float *largest, float *normaliser,
          int threads);
#pragma GCC visibility pop
