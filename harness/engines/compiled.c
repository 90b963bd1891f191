/* Attention and gated units over packed tokens, forward and backward, in float32.
 *
 * torch does these by some thirty operators a layer, each of which reads and writes memory; here a
 * head's scores never leave the processor's cache, and nothing is computed that causality hides.
 * compiled.py builds this file for the machine at hand and calls it; the tests hold every function
 * against torch.
 *
 * A function is run by all threads at once. They take tasks by a shared counter; a task writes
 * numbers that no other task writes and adds them in an order of its own, so the result does not
 * depend on the number of threads.
 *
 * Vectors are the compiler's own (GCC and Clang), without intrinsics of one processor.
 */

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define COLUMNS 4 /* vectors of keys whose scores are summed up at a time, in registers */
#elif defined(__AVX2__)
#define LANES 8
#define COLUMNS 2
#else
#define LANES 4
#define COLUMNS 2
#endif

#define QUERIES 4   /* that are computed side by side */
#define WIDEST 256  /* of a head */
#define TOKENS 32   /* of a task of gated units */
#define DEAD -3e38f /* a masked score */

#define INLINE static inline __attribute__((always_inline))
#define MIN(a, b) ((a) < (b) ? (a) : (b))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *from) { return *(const vec *)from; }
INLINE void store(float *to, vec x) { *(vec *)to = x; }
INLINE vec all(float x) { return x - (vec){0}; }

INLINE vec pick(ivec yes, vec a, vec b) { return (vec)(((ivec)a & yes) | ((ivec)b & ~yes)); }

typedef float four __attribute__((vector_size(16), aligned(4), may_alias));

INLINE float sum(vec x) {
    const four *parts = (const four *)&x;
    four total = parts[0];
    for (int i = 1; i < LANES / 4; i++) total += parts[i];
    return (total[0] + total[1]) + (total[2] + total[3]);
}

INLINE float largest(vec x) {
    const four *parts = (const four *)&x;
    four top = parts[0];
    for (int i = 1; i < LANES / 4; i++)
        for (int lane = 0; lane < 4; lane++)
            top[lane] = parts[i][lane] > top[lane] ? parts[i][lane] : top[lane];
    float one = top[0] > top[1] ? top[0] : top[1], two = top[2] > top[3] ? top[2] : top[3];
    return one > two ? one : two;
}

/* e^x by Cephes' expf: x = n ln 2 + r, and a polynomial in r. Below -87 as at -87 (1.6e-38);
 * not a number stays that. x must not be above 88. */
INLINE vec exponential(vec x) {
    x = pick(x < -87.0f, all(-87.0f), x);
    vec n = x * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: rounds to an integer */
    ivec power = (ivec)n - 0x4B400000;
    n -= 12582912.0f;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    return y * (vec)((power + 127) << 23);
}

/* 1 / (1 + e^-x) */
INLINE vec sigmoid(vec x) {
    vec less = exponential(pick(x < 0.0f, x, -x));
    vec found = 1.0f / (1.0f + less);
    return pick(x < 0.0f, less * found, found);
}

/* ------------------------------------------------------------------ attention */

typedef struct {
    int64_t next; /* task: a row and a key-value head */
    int64_t rows, heads, pairs, width; /* pairs: key-value heads */
    const float *qkv;         /* (tokens, (heads + 2 pairs) width) */
    const float *cos, *sin;   /* (longest row, width / 2) */
    const int64_t *starts;    /* (rows + 1): a row's first token */
    const int64_t *asked;     /* (rows + 1): a row's first query */
    const int64_t *positions; /* (queries): in its row */
    const int64_t *places;    /* (queries): in read */
    float *read;              /* (queries, heads width); in the backward its gradient */
    float *to_qkv;            /* as qkv; backward only */
    float *scratch;
    int64_t room;             /* numbers of scratch for each thread */
    int (*thread)(void);
    float scale;
} attention;

INLINE int64_t padded(int64_t length) { return (length + 15) / 16 * 16; }

int64_t attention_room(int64_t longest, int64_t width) {
    return 2 * padded(longest) * (width + QUERIES) + 4 * longest * width;
}

/* Both halves of a head turned together (Su et al. 2021, arXiv 2104.09864), by sign. */
INLINE void turn(const float *x, const attention *a, int64_t position, float sign, float scale,
                 float *out, int64_t width) {
    int64_t half = width / 2;
    const float *cos = a->cos + position * half, *sin = a->sin + position * half;
    for (int64_t i = 0; i < half; i++) {
        float c = cos[i] * scale, s = sin[i] * scale * sign;
        float one = x[i] * c - x[half + i] * s, two = x[half + i] * c + x[i] * s;
        out[i] = one;
        out[half + i] = two;
    }
}

/* out (QUERIES, stride) = x (QUERIES, width) . across (width, stride), its first `vectors`. */
INLINE void against(const float *x, const float *across, float *out, int64_t stride,
                    int64_t vectors, int64_t width) {
    int64_t at = 0;
    for (; at + COLUMNS <= vectors; at += COLUMNS) {
        vec total[QUERIES][COLUMNS] = {{{0}}};
        const float *line = across + at * LANES;
        for (int64_t i = 0; i < width; i++, line += stride) {
            vec y[COLUMNS];
            for (int c = 0; c < COLUMNS; c++) y[c] = load(line + c * LANES);
            for (int q = 0; q < QUERIES; q++)
                for (int c = 0; c < COLUMNS; c++) total[q][c] += x[q * width + i] * y[c];
        }
        for (int q = 0; q < QUERIES; q++)
            for (int c = 0; c < COLUMNS; c++)
                store(out + q * stride + (at + c) * LANES, total[q][c]);
    }
    for (; at < vectors; at++) {
        vec total[QUERIES] = {{0}};
        const float *line = across + at * LANES;
        for (int64_t i = 0; i < width; i++, line += stride) {
            vec y = load(line);
            for (int q = 0; q < QUERIES; q++) total[q] += x[q * width + i] * y;
        }
        for (int q = 0; q < QUERIES; q++) store(out + q * stride + at * LANES, total[q]);
    }
}

/* out (QUERIES, width) = weights (QUERIES, stride) . y (count, step), width numbers of each row. */
INLINE void mixed(const float *weights, int64_t stride, const float *y, int64_t step, int64_t count,
                  float *out, int64_t width) {
    for (int64_t at = 0; at < width; at += 2 * LANES) {
        int both = at + LANES < width;
        vec one[QUERIES] = {{0}}, two[QUERIES] = {{0}};
        for (int64_t j = 0; j < count; j++) {
            const float *line = y + j * step + at;
            vec first = load(line), second = both ? load(line + LANES) : first;
            for (int q = 0; q < QUERIES; q++) {
                one[q] += weights[q * stride + j] * first;
                two[q] += weights[q * stride + j] * second;
            }
        }
        for (int q = 0; q < QUERIES; q++) {
            store(out + q * width + at, one[q]);
            if (both) store(out + q * width + at + LANES, two[q]);
        }
    }
}

/* e^(score - the largest) in place of the scores, 0 behind last[q]; and 1 over their sums. */
INLINE void softmax(float *scores, int64_t stride, int64_t vectors, const int64_t *last,
                    float *inverse) {
    ivec lanes;
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = lane;
    for (int q = 0; q < QUERIES; q++) {
        float *line = scores + q * stride;
        vec tops = all(DEAD), total = {0};
        for (int64_t at = 0; at < vectors; at++) {
            vec x = load(line + at * LANES);
            x = pick(lanes + (int32_t)(at * LANES) > (int32_t)last[q], all(DEAD), x);
            tops = pick(x > tops, x, tops);
            store(line + at * LANES, x);
        }
        float top = largest(tops);
        for (int64_t at = 0; at < vectors; at++) {
            vec x = load(line + at * LANES);
            vec weight = pick(x == DEAD, all(0), exponential(x - top));
            store(line + at * LANES, weight);
            total += weight;
        }
        inverse[q] = 1 / sum(total);
    }
}

/* The next queries of a head: turned and scaled, with what they may read at most. */
INLINE int64_t queries(const attention *a, int64_t row, int64_t head, int64_t from, float *query,
                       int64_t *last, int64_t *most, int64_t width) {
    int64_t line = (a->heads + 2 * a->pairs) * width;
    int64_t count = MIN(QUERIES, a->asked[row + 1] - from);
    *most = 0;
    for (int64_t q = 0; q < QUERIES; q++) {
        int64_t position = last[q] = a->positions[from + MIN(q, count - 1)];
        const float *x = a->qkv + (a->starts[row] + position) * line + head * width;
        turn(x, a, position, 1, a->scale, query + q * width, width);
        *most = position > *most ? position : *most;
    }
    return count;
}

INLINE void attend(const attention *a, int64_t row, int64_t pair, float *scratch, int64_t width) {
    int64_t line = (a->heads + 2 * a->pairs) * width, group = a->heads / a->pairs;
    int64_t length = a->starts[row + 1] - a->starts[row], stride = padded(length);
    const float *key = a->qkv + a->starts[row] * line + (a->heads + pair) * width;
    const float *value = key + a->pairs * width;
    float *keys = scratch, *scores = keys + width * stride; /* keys: (width, stride) */
    float query[QUERIES * WIDEST], read[QUERIES * WIDEST], inverse[QUERIES];

    memset(keys, 0, sizeof(float) * width * stride);
    for (int64_t t = 0; t < length; t++) {
        turn(key + t * line, a, t, 1, 1, query, width);
        for (int64_t i = 0; i < width; i++) keys[i * stride + t] = query[i];
    }
    for (int64_t head = pair * group; head < (pair + 1) * group; head++)
        for (int64_t from = a->asked[row]; from < a->asked[row + 1]; from += QUERIES) {
            int64_t last[QUERIES], most;
            int64_t count = queries(a, row, head, from, query, last, &most, width);
            int64_t vectors = most / LANES + 1;
            against(query, keys, scores, stride, vectors, width);
            softmax(scores, stride, vectors, last, inverse);
            mixed(scores, stride, value, line, most + 1, read, width);
            for (int64_t q = 0; q < count; q++) {
                float *out = a->read + (a->places[from + q] * a->heads + head) * width;
                for (int64_t i = 0; i < width; i++) out[i] = read[q * width + i] * inverse[q];
            }
        }
}

/* With weights p, scores s and outputs o: dp = do.v, ds = p (dp - sum(p dp)), dq = ds.k,
 * dk = ds.q, dv = p.do. The weights are computed again. */
INLINE void attend_backward(const attention *a, int64_t row, int64_t pair, float *scratch,
                            int64_t width) {
    int64_t line = (a->heads + 2 * a->pairs) * width, group = a->heads / a->pairs;
    int64_t length = a->starts[row + 1] - a->starts[row], stride = padded(length);
    int64_t size = length * width;
    const float *key = a->qkv + a->starts[row] * line + (a->heads + pair) * width;
    const float *value = key + a->pairs * width;
    float *out = a->to_qkv + a->starts[row] * line;
    float *keys = scratch, *values = keys + width * stride; /* (width, stride) */
    float *turned = values + width * stride;                /* keys (length, width) */
    float *to_query = turned + size, *to_key = to_query + size, *to_value = to_key + size;
    float *weights = to_value + size, *slopes = weights + QUERIES * stride;
    float query[QUERIES * WIDEST], g[QUERIES * WIDEST], part[QUERIES * WIDEST], inverse[QUERIES];

    memset(keys, 0, sizeof(float) * 2 * width * stride);
    memset(to_key, 0, sizeof(float) * 2 * size);
    for (int64_t t = 0; t < length; t++) {
        turn(key + t * line, a, t, 1, 1, turned + t * width, width);
        for (int64_t i = 0; i < width; i++) {
            keys[i * stride + t] = turned[t * width + i];
            values[i * stride + t] = value[t * line + i];
        }
    }
    for (int64_t head = pair * group; head < (pair + 1) * group; head++) {
        memset(to_query, 0, sizeof(float) * size);
        for (int64_t from = a->asked[row]; from < a->asked[row + 1]; from += QUERIES) {
            int64_t last[QUERIES], most;
            int64_t count = queries(a, row, head, from, query, last, &most, width);
            int64_t vectors = most / LANES + 1;
            memset(g, 0, sizeof(float) * QUERIES * width);
            for (int64_t q = 0; q < count; q++)
                memcpy(g + q * width, a->read + (a->places[from + q] * a->heads + head) * width,
                       sizeof(float) * width);
            against(query, keys, weights, stride, vectors, width);
            softmax(weights, stride, vectors, last, inverse);
            against(g, values, slopes, stride, vectors, width);
            for (int q = 0; q < QUERIES; q++) {
                float *weight = weights + q * stride, *slope = slopes + q * stride;
                vec total = {0};
                for (int64_t at = 0; at < vectors * LANES; at += LANES) {
                    vec p = load(weight + at) * inverse[q];
                    store(weight + at, p);
                    total += p * load(slope + at);
                }
                float mean = sum(total);
                for (int64_t at = 0; at < vectors * LANES; at += LANES)
                    store(slope + at, load(weight + at) * (load(slope + at) - mean));
            }
            mixed(slopes, stride, turned, width, most + 1, part, width);
            for (int64_t q = 0; q < count; q++)
                for (int64_t i = 0; i < width; i++)
                    to_query[last[q] * width + i] += part[q * width + i];
            for (int64_t at = 0; at < width; at += LANES) {
                vec x[QUERIES], y[QUERIES];
                for (int q = 0; q < QUERIES; q++) {
                    x[q] = load(query + q * width + at);
                    y[q] = load(g + q * width + at);
                }
                for (int64_t j = 0; j <= most; j++) {
                    vec k = load(to_key + j * width + at), v = load(to_value + j * width + at);
                    for (int q = 0; q < QUERIES; q++) {
                        k += slopes[q * stride + j] * x[q];
                        v += weights[q * stride + j] * y[q];
                    }
                    store(to_key + j * width + at, k);
                    store(to_value + j * width + at, v);
                }
            }
        }
        for (int64_t t = 0; t < length; t++)
            turn(to_query + t * width, a, t, -1, a->scale, out + t * line + head * width, width);
    }
    for (int64_t t = 0; t < length; t++) {
        float *to = out + t * line + (a->heads + pair) * width;
        turn(to_key + t * width, a, t, -1, 1, to, width);
        memcpy(to + a->pairs * width, to_value + t * width, sizeof(float) * width);
    }
}

/* With the usual widths known to the compiler, loops over them unroll. */
#define ATTENTION(name, one)                                                                       \
    void name(attention *a) {                                                                      \
        float *scratch = a->scratch + a->room * a->thread();                                       \
        int64_t task, tasks = a->rows * a->pairs;                                                  \
        while ((task = __atomic_fetch_add(&a->next, 1, __ATOMIC_RELAXED)) < tasks) {               \
            int64_t row = task / a->pairs, pair = task % a->pairs;                                 \
            if (a->width == 32) one(a, row, pair, scratch, 32);                                    \
            else if (a->width == 64) one(a, row, pair, scratch, 64);                               \
            else if (a->width == 128) one(a, row, pair, scratch, 128);                             \
            else one(a, row, pair, scratch, a->width);                                             \
        }                                                                                          \
    }

ATTENTION(attention_forward, attend)
ATTENTION(attention_backward, attend_backward)

/* ------------------------------------------------------------------ one more token */

typedef struct {
    int64_t next; /* task: a row and a key-value head */
    int64_t rows, heads, pairs, width;
    int64_t slots, used;      /* of the cache; used before this token */
    const float *qkv;         /* (rows, (heads + 2 pairs) width) */
    const float *turns;       /* (positions, width): cosine and sine of each pair of neighbours */
    const int64_t *positions; /* (rows) */
    const float *penalty;     /* (rows, slots): added to the scores */
    float *keys, *values;     /* (rows, pairs, slots, width) */
    float *read;              /* (rows, heads width) */
    float *scratch;
    int64_t room;
    int (*thread)(void);
} decoding;

int64_t decoding_room(int64_t slots) { return padded(slots); }

/* Neighbours turned together, as one complex number. */
INLINE void turn_neighbours(const float *x, const float *turns, float *out, int64_t width) {
    for (int64_t i = 0; i < width; i += 2) {
        float c = turns[i], s = turns[i + 1], one = x[i] * c - x[i + 1] * s;
        out[i + 1] = x[i + 1] * c + x[i] * s;
        out[i] = one;
    }
}

INLINE void decode(const decoding *a, int64_t row, int64_t pair, float *weights, int64_t width) {
    int64_t line = (a->heads + 2 * a->pairs) * width, group = a->heads / a->pairs;
    int64_t count = a->used + 1, vectors = (count + LANES - 1) / LANES;
    const float *x = a->qkv + row * line, *turns = a->turns + a->positions[row] * width;
    const float *penalty = a->penalty + row * a->slots;
    float *keys = a->keys + (row * a->pairs + pair) * a->slots * width;
    float *values = a->values + (row * a->pairs + pair) * a->slots * width;
    float query[WIDEST];

    turn_neighbours(x + (a->heads + pair) * width, turns, keys + a->used * width, width);
    memcpy(values + a->used * width, x + (a->heads + a->pairs + pair) * width,
           sizeof(float) * width);
    for (int64_t head = pair * group; head < (pair + 1) * group; head++) {
        turn_neighbours(x + head * width, turns, query, width);
        float top = DEAD;
        for (int64_t j = 0; j < count; j++) {
            vec total = {0};
            for (int64_t at = 0; at < width; at += LANES) {
                __builtin_prefetch(values + j * width + at);
                total += load(query + at) * load(keys + j * width + at);
            }
            weights[j] = sum(total) + penalty[j];
            top = weights[j] > top ? weights[j] : top;
        }
        for (int64_t j = count; j < vectors * LANES; j++) weights[j] = -1.0f / 0.0f;
        vec shares = {0};
        for (int64_t at = 0; at < vectors * LANES; at += LANES) {
            vec score = load(weights + at);
            vec share = pick(score < DEAD, all(0), exponential(score - top));
            store(weights + at, share);
            shares += share;
        }
        float inverse = 1 / sum(shares);
        float *read = a->read + (row * a->heads + head) * width;
        const float *ahead = keys + a->slots * width; /* of the next task */
        for (int64_t at = 0; at < width; at += LANES) {
            vec total = {0};
            for (int64_t j = 0; j < count; j++) {
                __builtin_prefetch(ahead + j * width + at);
                total += weights[j] * load(values + j * width + at);
            }
            store(read + at, total * inverse);
        }
    }
}

void decoding_forward(decoding *a) {
    float *scratch = a->scratch + a->room * a->thread();
    int64_t first, tasks = a->rows * a->pairs;
    while ((first = __atomic_fetch_add(&a->next, 8, __ATOMIC_RELAXED)) < tasks)
      for (int64_t task = first; task < MIN(first + 8, tasks); task++) {
        int64_t row = task / a->pairs, pair = task % a->pairs;
        if (a->width == 32) decode(a, row, pair, scratch, 32);
        else if (a->width == 64) decode(a, row, pair, scratch, 64);
        else if (a->width == 128) decode(a, row, pair, scratch, 128);
        else decode(a, row, pair, scratch, a->width);
    }
}

/* ------------------------------------------------------------------ adapters' gradients */

#define SLICES 16  /* of the tokens, added up in their order whatever the number of threads */
#define PART 48    /* tokens that are read again and again, from the cache */
#define RANKS 8    /* that are added up side by side */

typedef struct {
    int64_t next; /* task: a slice of the tokens */
    int64_t tokens, inputs, outputs, ranks;
    int64_t adapters;
    const int64_t *columns; /* (adapters, 2): first of an adapter's outputs, and how many */
    const int64_t *ranked;  /* (adapters, 2): first of its ranks, and how many */
    const float *g;         /* (tokens, outputs) */
    const float *x;         /* (tokens, inputs) */
    const float *down;      /* (inputs, ranks): A transposed, of all adapters */
    const float *up;        /* B of all adapters, one behind the other: (outputs, rank) each */
    float *parts;           /* (SLICES, inputs * ranks + numbers of up) */
    float *to_down;         /* (ranks, inputs) */
    float *to_up;           /* (rank, outputs) each: B's transposed */
    int64_t ups;            /* numbers of up */
} adapters;

int64_t adapters_room(int64_t inputs, int64_t ranks, int64_t ups) {
    return SLICES * (inputs * ranks + ups);
}

/* total (ranks, columns) += a (count, a_step)^T . b (count, b_step). */
INLINE void outer(const float *a, int64_t a_step, int64_t ranks, const float *b, int64_t b_step,
                  int64_t columns, int64_t count, float *total) {
    for (int64_t r = 0; r < ranks; r += RANKS)
        for (int64_t at = 0; at < columns; at += 2 * LANES) {
            int both = at + LANES < columns;
            vec one[RANKS], two[RANKS];
            float *out = total + r * columns + at;
            for (int i = 0; i < RANKS; i++) {
                one[i] = load(out + i * columns);
                two[i] = both ? load(out + i * columns + LANES) : one[i];
            }
            for (int64_t t = 0; t < count; t++) {
                const float *line = b + t * b_step + at, *factor = a + t * a_step + r;
                vec first = load(line), second = both ? load(line + LANES) : first;
                for (int i = 0; i < RANKS; i++) {
                    one[i] += factor[i] * first;
                    two[i] += factor[i] * second;
                }
            }
            for (int i = 0; i < RANKS; i++) {
                store(out + i * columns, one[i]);
                if (both) store(out + i * columns + LANES, two[i]);
            }
        }
}

#define SIDE 8 /* tokens that are computed side by side */

/* out (count, out_step) = x (count, step) . y (inner, width). Where there are fewer than SIDE tokens
 * left, the last is computed again. */
INLINE void thin(const float *x, int64_t step, int64_t count, const float *y, int64_t inner,
                 float *out, int64_t out_step, int64_t width) {
    for (int64_t t = 0; t < count; t += SIDE)
        for (int64_t at = 0; at < width; at += LANES) {
            vec total[SIDE] = {{0}};
            const float *line[SIDE];
            for (int i = 0; i < SIDE; i++) line[i] = x + MIN(t + i, count - 1) * step;
            for (int64_t p = 0; p < inner; p++) {
                vec z = load(y + p * width + at);
                for (int i = 0; i < SIDE; i++) total[i] += line[i][p] * z;
            }
            for (int i = 0; i < SIDE; i++)
                store(out + MIN(t + i, count - 1) * out_step + at, total[i]);
        }
}

/* With read = A.x and thin = B^T.g: dA = thin.x^T, dB = g.read^T (Hu et al. 2021, arXiv 2106.09685,
 * equation 3). */
void adapters_sums(adapters *a) {
    float read[PART * WIDEST], narrow[PART * WIDEST];
    int64_t slice, size = a->inputs * a->ranks + a->ups;
    while ((slice = __atomic_fetch_add(&a->next, 1, __ATOMIC_RELAXED)) < SLICES) {
        int64_t first = a->tokens * slice / SLICES, end = a->tokens * (slice + 1) / SLICES;
        float *to_down = a->parts + slice * size, *to_up = to_down + a->inputs * a->ranks;
        memset(to_down, 0, sizeof(float) * size);
        for (int64_t t = first; t < end; t += PART) {
            int64_t count = MIN(PART, end - t);
            const float *x = a->x + t * a->inputs, *g = a->g + t * a->outputs, *up = a->up;
            float *into = to_up;
            thin(x, a->inputs, count, a->down, a->inputs, read, a->ranks, a->ranks);
            for (int64_t i = 0; i < a->adapters; i++) {
                int64_t column = a->columns[2 * i], outputs = a->columns[2 * i + 1];
                int64_t rank = a->ranked[2 * i], ranks = a->ranked[2 * i + 1];
                thin(g + column, a->outputs, count, up, outputs, narrow + rank, a->ranks, ranks);
                outer(read + rank, a->ranks, ranks, g + column, a->outputs, outputs, count, into);
                up += outputs * ranks;
                into += outputs * ranks;
            }
            outer(narrow, a->ranks, a->ranks, x, a->inputs, a->inputs, count, to_down);
        }
    }
}

/* The slices together, by one thread. */
void adapters_total(adapters *a) {
    int64_t down = a->inputs * a->ranks, size = down + a->ups;
    memcpy(a->to_down, a->parts, sizeof(float) * down);
    memcpy(a->to_up, a->parts + down, sizeof(float) * a->ups);
    for (int64_t slice = 1; slice < SLICES; slice++) {
        const float *part = a->parts + slice * size;
        for (int64_t i = 0; i < down; i++) a->to_down[i] += part[i];
        for (int64_t i = 0; i < a->ups; i++) a->to_up[i] += part[down + i];
    }
}

/* ------------------------------------------------------------------ norms */

typedef struct {
    int64_t next; /* token */
    int64_t tokens, width;
    const float *x;        /* (tokens, width) */
    float *normed, *scale; /* (tokens, width), (tokens): x r and r */
    const float *g, *plus; /* (tokens, width); backward only, plus may be none */
    float *out;            /* (tokens, width); backward only */
    float eps;
} norm;

float sqrtf(float);

INLINE void normalise(const norm *a, int64_t token) {
    const float *x = a->x + token * a->width;
    float *out = a->normed + token * a->width;
    vec squares = {0};
    for (int64_t at = 0; at < a->width; at += LANES) squares += load(x + at) * load(x + at);
    float r = 1 / sqrtf(sum(squares) / a->width + a->eps);
    a->scale[token] = r;
    for (int64_t at = 0; at < a->width; at += LANES) store(out + at, load(x + at) * r);
}

/* r (g - normed mean(g normed)), and what is added. */
INLINE void normalise_backward(const norm *a, int64_t token) {
    const float *x = a->normed + token * a->width, *g = a->g + token * a->width;
    const float *plus = a->plus ? a->plus + token * a->width : 0;
    float *out = a->out + token * a->width, r = a->scale[token];
    vec along = {0};
    for (int64_t at = 0; at < a->width; at += LANES) along += load(g + at) * load(x + at);
    float mean = sum(along) / a->width;
    for (int64_t at = 0; at < a->width; at += LANES) {
        vec found = (load(g + at) - load(x + at) * mean) * r;
        if (plus) found += load(plus + at);
        store(out + at, found);
    }
}

#define BY_TOKEN(name, kind, one)                                                                  \
    void name(kind *a) {                                                                           \
        int64_t first;                                                                             \
        while ((first = __atomic_fetch_add(&a->next, TOKENS, __ATOMIC_RELAXED)) < a->tokens)       \
            for (int64_t t = first; t < MIN(first + TOKENS, a->tokens); t++) one(a, t);            \
    }

BY_TOKEN(norm_forward, norm, normalise)
BY_TOKEN(norm_backward, norm, normalise_backward)

/* ------------------------------------------------------------------ gated units */

typedef struct {
    int64_t next; /* token */
    int64_t tokens, width;
    const float *gate_up; /* (tokens, 2 width) */
    float *product;       /* (tokens, width): silu(gate) up; in the backward its gradient */
    float *to_gate_up;    /* as gate_up; backward only */
} gated;

INLINE void gate(const gated *a, int64_t token) {
    const float *x = a->gate_up + token * 2 * a->width, *up = x + a->width;
    float *out = a->product + token * a->width;
    for (int64_t at = 0; at < a->width; at += LANES) {
        vec y = load(x + at);
        store(out + at, y * sigmoid(y) * load(up + at));
    }
}

INLINE void gate_backward(const gated *a, int64_t token) {
    const float *x = a->gate_up + token * 2 * a->width, *up = x + a->width;
    const float *g = a->product + token * a->width;
    float *out = a->to_gate_up + token * 2 * a->width;
    for (int64_t at = 0; at < a->width; at += LANES) {
        vec y = load(x + at), s = sigmoid(y), to = load(g + at);
        store(out + at, to * load(up + at) * (s * (1.0f + y * (1.0f - s))));
        store(out + a->width + at, to * y * s);
    }
}

BY_TOKEN(gated_forward, gated, gate)
BY_TOKEN(gated_backward, gated, gate_backward)

/* ------------------------------------------------------------------ log-probabilities */

typedef struct {
    int64_t next; /* token: a place that is predicted */
    int64_t tokens, width; /* width: words */
    float *logits;          /* (tokens, width): probabilities afterwards, or their slopes */
    const int64_t *targets; /* (tokens) */
    float *chosen;          /* (tokens): the targets' log-probabilities; or slopes to them */
    float *entropy;         /* (tokens), or none */
    float divisor;          /* of the logits */
} words;

INLINE void log_softmax(const words *a, int64_t token) {
    float *x = a->logits + token * a->width, by = 1 / a->divisor;
    vec tops = all(DEAD), total = {0}, along = {0};
    int64_t whole = a->width / LANES * LANES;
    float rest = 0, inner = 0;
    for (int64_t at = 0; at < whole; at += LANES) {
        vec y = load(x + at);
        tops = pick(y > tops, y, tops);
    }
    float top = largest(tops);
    for (int64_t at = whole; at < a->width; at++) top = x[at] > top ? x[at] : top;
    float known = (x[a->targets[token]] - top) * by;
    for (int64_t at = 0; at < whole; at += LANES) {
        vec y = (load(x + at) - top) * by, e = exponential(y);
        e = pick(y < -87.0f, all(0), e);
        /* 0 log 0 = 0, also of a word that cannot be */
        along += pick(y < -87.0f, all(0), e * y);
        total += e;
        store(x + at, e);
    }
    for (int64_t at = whole; at < a->width; at++) {
        float y = (x[at] - top) * by, e = y < -87.0f ? 0 : exponential(all(y))[0];
        inner += y < -87.0f ? 0 : e * y;
        rest += e;
        x[at] = e;
    }
    float sums = sum(total) + rest, inverse = 1 / sums, log_sum = __builtin_logf(sums);
    for (int64_t at = 0; at < whole; at += LANES) store(x + at, load(x + at) * inverse);
    for (int64_t at = whole; at < a->width; at++) x[at] *= inverse;
    a->chosen[token] = known - log_sum;
    if (a->entropy) a->entropy[token] = log_sum - (sum(along) + inner) * inverse;
}

BY_TOKEN(words_forward, words, log_softmax)
