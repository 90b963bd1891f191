/* What is done token by token: norms, gated units, log-probabilities; one pass over memory each. */

#include "vectors.h"

#define TOKENS 32 /* of a task */

#define BY_TOKEN(name, kind, one)                                                                  \
    void name(kind *a) {                                                                           \
        int64_t first;                                                                             \
        while ((first = taken(&a->next, TOKENS)) < a->tokens)                                      \
            for (int64_t t = first; t < MIN(first + TOKENS, a->tokens); t++) one(a, t);            \
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

INLINE void norm_of(const norm *a, int64_t token) {
    int64_t at = token * a->width;
    a->scale[token] = normalise(a->x + at, a->width, a->eps, a->normed + at);
}

INLINE void norm_back(const norm *a, int64_t token) {
    int64_t at = token * a->width;
    normalise_backward(a->g + at, a->width, a->normed + at, a->scale[token],
                       a->plus ? a->plus + at : 0, a->out + at);
}

BY_TOKEN(norm_forward, norm, norm_of)
BY_TOKEN(norm_backward, norm, norm_back)

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

INLINE void gate_back(const gated *a, int64_t token) {
    const float *x = a->gate_up + token * 2 * a->width, *up = x + a->width;
    const float *g = a->product + token * a->width;
    float *out = a->to_gate_up + token * 2 * a->width;
    for (int64_t at = 0; at < a->width; at += LANES)
        gate_backward(load(g + at), load(x + at), load(up + at), out + at, out + a->width + at);
}

BY_TOKEN(gated_forward, gated, gate)
BY_TOKEN(gated_backward, gated, gate_back)

/* ------------------------------------------------------------------ log-probabilities */

typedef struct {
    int64_t next; /* token: a place that is predicted */
    int64_t tokens, width; /* width: words */
    float *logits;          /* (tokens, width); probabilities afterwards */
    const int64_t *targets; /* (tokens) */
    float *chosen;          /* (tokens): the targets' log-probabilities */
    float *entropy;         /* (tokens) */
    uint8_t *likeliest;     /* (tokens): whether no word is likelier than the target */
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
    a->likeliest[token] = known == 0;
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
    float sums = sum(total) + rest, inverse = 1 / sums, log_sum = logf(sums);
    for (int64_t at = 0; at < whole; at += LANES) store(x + at, load(x + at) * inverse);
    for (int64_t at = whole; at < a->width; at++) x[at] *= inverse;
    a->chosen[token] = known - log_sum;
    a->entropy[token] = log_sum - (sum(along) + inner) * inverse;
}

BY_TOKEN(words_forward, words, log_softmax)
