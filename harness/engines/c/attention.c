/* Causal attention of whole rows, and its backward.
 *
 * torch does this by some ten operators, each of which reads and writes memory; here a head's scores
 * never leave the processor's cache, and nothing is computed that causality hides.
 */

#include "vectors.h"

#define QUERIES 8 /* that are computed side by side */

typedef struct {
    int64_t next; /* task: a row of all sides and a key-value head */
    int64_t rows, sides, heads, pairs, width; /* rows: of a side; pairs: key-value heads */
    const float *qkv;         /* (tokens, (heads + 2 pairs) width) */
    const float *cos, *sin;   /* (longest row, width / 2) */
    const int64_t *starts;    /* (sides rows + 1): a row's first token of its own */
    const int64_t *asked;     /* (sides rows + 1): a row's first query */
    const int64_t *shared;    /* (rows): what the others have of the first side's row; or null */
    const int64_t *positions; /* (queries): in its row */
    const int64_t *places;    /* (queries): in read */
    float *read;              /* (queries, heads width); in the backward its gradient */
    float *to_qkv;            /* as qkv; backward only */
    float *scratch;
    int64_t room;             /* numbers of scratch for each thread */
    int (*thread)(void);
    float scale;
} attention;

int64_t attention_room(int64_t longest, int64_t width) {
    return 2 * padded(longest) * (width + QUERIES) + 4 * longest * width;
}

/* A row of any side: the token at position p is number own + p, or first + p before `from`. */
typedef struct {
    int64_t from, length, own, first;
    int64_t asked, end; /* its queries */
} sequence;

INLINE sequence sequence_of(const attention *a, int64_t row, int64_t side) {
    int64_t at = side * a->rows + row, from = side ? a->shared[row] : 0;
    return (sequence){
        .from = from,
        .length = from + a->starts[at + 1] - a->starts[at],
        .own = a->starts[at] - from,
        .first = a->starts[row],
        .asked = a->asked[at],
        .end = a->asked[at + 1],
    };
}

/* The longest of a row's sequences. */
INLINE int64_t longest_of(const attention *a, int64_t row) {
    int64_t found = 0;
    for (int64_t side = 0; side < a->sides; side++) {
        int64_t length = sequence_of(a, row, side).length;
        found = length > found ? length : found;
    }
    return found;
}

INLINE int64_t token(const sequence *s, int64_t position) {
    return (position < s->from ? s->first : s->own) + position;
}

/* Both halves of a head turned together (Su et al. 2021, arXiv 2104.09864), by sign. */
INLINE void turn(const float *restrict x, const attention *a, int64_t position, float sign,
                 float scale, float *restrict out, int64_t width) {
    int64_t half = width / 2;
    const float *restrict cos = a->cos + position * half, *restrict sin = a->sin + position * half;
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

/* out (QUERIES, width) = weights (QUERIES, stride) . y (count, step), width numbers of each row;
 * the rows before `from` are x's. */
INLINE void mixed(const float *weights, int64_t stride, const float *x, int64_t from,
                  const float *y, int64_t step, int64_t count, float *out, int64_t width) {
    for (int64_t at = 0; at < width; at += 2 * LANES) {
        int both = at + LANES < width;
        vec one[QUERIES] = {{0}}, two[QUERIES] = {{0}};
        for (int64_t j = 0; j < count; j++) {
            const float *line = (j < from ? x : y) + j * step + at;
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
INLINE int64_t queries(const attention *a, const sequence *s, int64_t head, int64_t from,
                       float *query, int64_t *last, int64_t *most, int64_t width) {
    int64_t line = (a->heads + 2 * a->pairs) * width;
    int64_t count = MIN(QUERIES, s->end - from);
    *most = 0;
    for (int64_t q = 0; q < QUERIES; q++) {
        int64_t position = last[q] = a->positions[from + MIN(q, count - 1)];
        const float *x = a->qkv + (s->own + position) * line + head * width;
        turn(x, a, position, 1, a->scale, query + q * width, width);
        *most = position > *most ? position : *most;
    }
    return count;
}

/* A row's sequences one after the other: of the keys only those of its own replace the last one's. */
INLINE void attend(const attention *a, int64_t row, int64_t pair, float *scratch, int64_t width) {
    int64_t line = (a->heads + 2 * a->pairs) * width, group = a->heads / a->pairs;
    int64_t stride = padded(longest_of(a, row));
    const float *key = a->qkv + (a->heads + pair) * width, *value = key + a->pairs * width;
    float *keys = scratch, *scores = keys + width * stride; /* keys: (width, stride) */
    float query[QUERIES * WIDEST], read[QUERIES * WIDEST], inverse[QUERIES];

    memset(keys, 0, sizeof(float) * width * stride);
    for (int64_t side = 0; side < a->sides; side++) {
        sequence s = sequence_of(a, row, side);
        for (int64_t t = s.from & ~3; t < s.length; t += 4) {
            for (int64_t i = 0; i < 4; i++) {
                int64_t position = MIN(t + i, s.length - 1);
                const float *x = key + token(&s, position) * line;
                turn(x, a, position, 1, 1, query + i * width, width);
            }
            transpose(query, width, keys + t, stride, width);
        }
        for (int64_t head = pair * group; head < (pair + 1) * group; head++)
            for (int64_t from = s.asked; from < s.end; from += QUERIES) {
                int64_t last[QUERIES], most;
                int64_t count = queries(a, &s, head, from, query, last, &most, width);
                int64_t vectors = most / LANES + 1;
                against(query, keys, scores, stride, vectors, width);
                softmax(scores, stride, vectors, last, inverse);
                mixed(scores, stride, value + s.first * line, s.from, value + s.own * line, line,
                      most + 1, read, width);
                for (int64_t q = 0; q < count; q++) {
                    float *out = a->read + (a->places[from + q] * a->heads + head) * width;
                    for (int64_t i = 0; i < width; i++) out[i] = read[q * width + i] * inverse[q];
                }
            }
    }
}

/* Gradients of the keys and values at a sequence's own tokens, or at those it shares, to where they
 * lie. */
INLINE void put(const attention *a, const float *to_key, const float *to_value, int64_t pair,
                int64_t first, int64_t from, int64_t end, int64_t width) {
    int64_t line = (a->heads + 2 * a->pairs) * width;
    for (int64_t t = from; t < end; t++) {
        float *to = a->to_qkv + (first + t) * line + (a->heads + pair) * width;
        turn(to_key + t * width, a, t, -1, 1, to, width);
        memcpy(to + a->pairs * width, to_value + t * width, sizeof(float) * width);
    }
}

/* With weights p, scores s and outputs o: dp = do.v, ds = p (dp - sum(p dp)), dq = ds.k,
 * dk = ds.q, dv = p.do. The weights are computed again. */
INLINE void attend_backward(const attention *a, int64_t row, int64_t pair, float *scratch,
                            int64_t width) {
    int64_t line = (a->heads + 2 * a->pairs) * width, group = a->heads / a->pairs;
    int64_t length = longest_of(a, row), stride = padded(length), size = length * width;
    const float *key = a->qkv + (a->heads + pair) * width, *value = key + a->pairs * width;
    float *keys = scratch, *values = keys + width * stride; /* (width, stride) */
    float *turned = values + width * stride;                /* keys (length, width) */
    float *to_query = turned + size, *to_key = to_query + size, *to_value = to_key + size;
    float *weights = to_value + size, *slopes = weights + QUERIES * stride;
    float query[QUERIES * WIDEST], g[QUERIES * WIDEST], part[QUERIES * WIDEST], inverse[QUERIES];
    int64_t shared = a->shared ? a->shared[row] : 0; /* whose gradients all sides add to */

    memset(keys, 0, sizeof(float) * 2 * width * stride);
    for (int64_t side = 0; side < a->sides; side++) {
        sequence s = sequence_of(a, row, side);
        int64_t before = s.from * width, own = (s.length - s.from) * width;
        memset(to_key + before, 0, sizeof(float) * own);
        memset(to_value + before, 0, sizeof(float) * own);
        for (int64_t t = s.from & ~3; t < s.length; t += 4) {
            for (int64_t i = 0; i < 4; i++) {
                int64_t position = MIN(t + i, s.length - 1), at = token(&s, position);
                turn(key + at * line, a, position, 1, 1, query + i * width, width);
                memcpy(g + i * width, value + at * line, sizeof(float) * width);
            }
            memcpy(turned + t * width, query, sizeof(float) * MIN(4, s.length - t) * width);
            transpose(query, width, keys + t, stride, width);
            transpose(g, width, values + t, stride, width);
        }
        for (int64_t head = pair * group; head < (pair + 1) * group; head++) {
            memset(to_query + before, 0, sizeof(float) * own);
            for (int64_t from = s.asked; from < s.end; from += QUERIES) {
                int64_t last[QUERIES], most;
                int64_t count = queries(a, &s, head, from, query, last, &most, width);
                int64_t vectors = most / LANES + 1;
                memset(g, 0, sizeof(float) * QUERIES * width);
                for (int64_t q = 0; q < count; q++)
                    memcpy(g + q * width,
                           a->read + (a->places[from + q] * a->heads + head) * width,
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
                mixed(slopes, stride, turned, 0, turned, width, most + 1, part, width);
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
            for (int64_t t = s.from; t < s.length; t++)
                turn(to_query + t * width, a, t, -1, a->scale,
                     a->to_qkv + (s.own + t) * line + head * width, width);
        }
        put(a, to_key, to_value, pair, s.own, shared, s.length, width);
    }
    put(a, to_key, to_value, pair, a->starts[row], 0, shared, width);
}

/* With the usual widths known to the compiler, loops over them unroll. */
#define ATTENTION(name, one)                                                                       \
    void name(attention *a) {                                                                      \
        float *scratch = a->scratch + a->room * a->thread();                                       \
        int64_t task, tasks = a->rows * a->pairs;                                                  \
        while ((task = taken(&a->next, 1)) < tasks) {                                              \
            int64_t row = task / a->pairs, pair = task % a->pairs;                                 \
            if (a->width == 32) one(a, row, pair, scratch, 32);                                    \
            else if (a->width == 64) one(a, row, pair, scratch, 64);                               \
            else if (a->width == 128) one(a, row, pair, scratch, 128);                             \
            else one(a, row, pair, scratch, a->width);                                             \
        }                                                                                          \
    }

ATTENTION(attention_forward, attend)
ATTENTION(attention_backward, attend_backward)
