/* A Llama layer's matrix products, with what precedes and follows them: a few tokens at a time go
 * through several matrices while they are in the cache of one core. For layers whose matrices fit
 * beside them.
 */

#include "products.h"

/* ------------------------------------------------------------------ weights */

/* A matrix laid out for ``multiply``: panels (inputs, PANEL) of its outputs, one behind the other,
 * zero where there are no more. Of a gated pair, half of a panel is gate and half is up. */
typedef struct {
    int64_t next; /* task: a panel */
    int64_t inputs, outputs;
    int64_t across;      /* whether the weight is (inputs, outputs) */
    int64_t gated;       /* whether its outputs are gates and, as many, what passes them */
    const float *weight; /* (outputs, inputs) */
    const float *gain;   /* (columns of the weight): by which they are multiplied, if any */
    float *packed;
} packing;

INLINE int64_t panels(int64_t outputs, int64_t gated) {
    int64_t width = gated ? PANEL / 2 : PANEL;
    return ((gated ? outputs / 2 : outputs) + width - 1) / width;
}

int64_t packed_room(int64_t inputs, int64_t outputs, int64_t gated) {
    return panels(outputs, gated) * inputs * PANEL;
}

/* The transpose of so many rows of the weight, a multiple of 4, into columns of a panel. */
INLINE void stand(const packing *a, int64_t row, int64_t rows, float *panel) {
    for (int64_t i = 0; i < rows; i += 4)
        transpose(a->weight + (row + i) * a->inputs, a->inputs, panel + i, PANEL, a->inputs);
}

void pack(packing *a) {
    int64_t task, half = a->outputs / 2, wide = a->gated ? PANEL / 2 : PANEL;
    while ((task = taken(&a->next, 1)) < panels(a->outputs, a->gated)) {
        float *panel = a->packed + task * a->inputs * PANEL;
        int64_t first = task * wide, width = MIN(wide, (a->gated ? half : a->outputs) - first);
        memset(panel, 0, sizeof(float) * a->inputs * PANEL);
        if (a->across) {
            for (int64_t k = 0; k < a->inputs; k++)
                for (int64_t at = 0; at < width; at += LANES) {
                    vec x = load(a->weight + k * a->outputs + first + at);
                    if (a->gain) x *= load(a->gain + first + at);
                    store(panel + k * PANEL + at, x);
                }
            continue;
        }
        stand(a, first, width, panel);
        if (a->gated) stand(a, half + first, width, panel + PANEL / 2);
        for (int64_t k = 0; a->gain && k < a->inputs; k++)
            for (int64_t at = 0; at < PANEL; at += LANES)
                store(panel + k * PANEL + at, load(panel + k * PANEL + at) * a->gain[k]);
    }
}

/* ------------------------------------------------------------------ a layer, forwards */

typedef struct {
    int64_t next; /* token */
    int64_t tokens, task; /* task: tokens that go through together */
    int64_t inputs, outputs;
    const float *x;        /* (tokens, inputs) */
    const float *packed;
    float *normed, *scale; /* (tokens, inputs), (tokens), if wanted: what is multiplied */
    float *out;            /* (tokens, outputs) */
    float *scratch;
    int64_t room;          /* numbers of scratch for each thread */
    int (*thread)(void);
    float eps;
} first_half;

int64_t first_half_forward_room(int64_t task, int64_t inputs) { return task * (inputs + 1); }

/* The product of the normed input. */
void first_half_forward(first_half *a) {
    float *scratch = a->scratch + a->room * a->thread();
    int64_t t;
    while ((t = taken(&a->next, a->task)) < a->tokens) {
        int64_t count = MIN(a->task, a->tokens - t);
        float *normed = a->normed ? a->normed + t * a->inputs : scratch;
        float *scale = a->scale ? a->scale + t : scratch + a->task * a->inputs;
        norms(a->x + t * a->inputs, count, a->inputs, a->eps, normed, scale);
        product(normed, count, a->inputs, a->packed, 0, a->out + t * a->outputs, a->outputs);
    }
}

typedef struct {
    int64_t next; /* token */
    int64_t tokens, task;
    int64_t heads, hidden, inner; /* widths: of what the heads read, of the states, of the gates */
    const float *read, *x;        /* (tokens, heads), (tokens, hidden) */
    const float *out, *gate_up, *down;
    float *normed, *scale;   /* (tokens, hidden), (tokens), if wanted */
    float *gates, *products; /* (tokens, 2 inner), (tokens, inner), if wanted */
    float *y;                /* (tokens, hidden) */
    float *scratch;
    int64_t room;
    int (*thread)(void);
    float eps;
} second_half;

int64_t second_half_forward_room(int64_t task, int64_t hidden, int64_t inner) {
    return task * (hidden + 1 + inner);
}

/* From what the heads read to the layer's output. */
void second_half_forward(second_half *a) {
    float *scratch = a->scratch + a->room * a->thread();
    int64_t t, hidden = a->hidden, inner = a->inner;
    while ((t = taken(&a->next, a->task)) < a->tokens) {
        int64_t count = MIN(a->task, a->tokens - t);
        float *y = a->y + t * hidden;
        float *normed = a->normed ? a->normed + t * hidden : scratch;
        float *scale = a->scale ? a->scale + t : scratch + a->task * hidden;
        float *products = a->products ? a->products + t * inner : scratch + a->task * (hidden + 1);
        product(a->read + t * a->heads, count, a->heads, a->out, a->x + t * hidden, y, hidden);
        norms(y, count, hidden, a->eps, normed, scale);
        gated_product(normed, count, hidden, a->gate_up, inner,
                      a->gates ? a->gates + t * 2 * inner : 0, products);
        product(products, count, inner, a->down, y, y, hidden);
    }
}

/* ------------------------------------------------------------------ and backwards */

typedef struct {
    int64_t next; /* token */
    int64_t tokens, task;
    int64_t inputs, outputs;      /* of the product, backwards: from outputs to inputs */
    const float *g;               /* (tokens, outputs) */
    const float *packed;          /* the weight across */
    const float *normed, *scale;  /* (tokens, inputs), (tokens) */
    const float *plus;            /* (tokens, inputs): what goes past */
    float *out;                   /* (tokens, inputs) */
    float *scratch;
    int64_t room;
    int (*thread)(void);
} first_half_back;

INLINE void norms_backward(const float *g, int64_t count, int64_t width, const float *normed,
                           const float *scale, const float *plus, float *out) {
    for (int64_t t = 0; t < count; t++) {
        int64_t at = t * width;
        normalise_backward(g + at, width, normed + at, scale[t], plus + at, out + at);
    }
}

int64_t first_half_backward_room(int64_t task, int64_t inputs) { return task * inputs; }

void first_half_backward(first_half_back *a) {
    float *scratch = a->scratch + a->room * a->thread();
    int64_t t;
    while ((t = taken(&a->next, a->task)) < a->tokens) {
        int64_t count = MIN(a->task, a->tokens - t), at = t * a->inputs;
        product(a->g + t * a->outputs, count, a->outputs, a->packed, 0, scratch, a->inputs);
        norms_backward(scratch, count, a->inputs, a->normed + at, a->scale + t, a->plus + at,
                       a->out + at);
    }
}

typedef struct {
    int64_t next; /* token */
    int64_t tokens, task;
    int64_t heads, hidden, inner;
    const float *g;                       /* (tokens, hidden): of the layer's output */
    const float *out, *gate_up, *down;    /* the weights across */
    const float *normed, *scale, *gates;  /* as the forward kept them */
    float *to_gates;                      /* (tokens, 2 inner) */
    float *to_middle;                     /* (tokens, hidden): where the halves meet */
    float *to_read;                       /* (tokens, heads) */
    float *scratch;
    int64_t room;
    int (*thread)(void);
} second_half_back;

int64_t second_half_backward_room(int64_t task, int64_t hidden) { return task * hidden; }

/* to_gates (count, 2 inner) from g (count, hidden) = the gradient of what is added to the states. */
INLINE void gated_backward_product(const float *g, int64_t count, int64_t hidden,
                                   const float *packed, int64_t inner, const float *gates,
                                   float *to_gates) {
    for (int64_t first = 0; first < inner; first += PANEL, packed += hidden * PANEL)
        for (int64_t t = 0; t < count; t += SIDE) {
            vec sums[SIDE][VECTORS];
            multiply(g, hidden, t, count, packed, hidden, sums);
            for (int i = 0; i < MIN(SIDE, count - t); i++)
                for (int v = 0; v < VECTORS && first + v * LANES < inner; v++) {
                    int64_t at = (t + i) * 2 * inner + first + v * LANES;
                    gate_backward(sums[i][v], load(gates + at), load(gates + at + inner),
                                  to_gates + at, to_gates + at + inner);
                }
        }
}

void second_half_backward(second_half_back *a) {
    float *scratch = a->scratch + a->room * a->thread();
    int64_t t, hidden = a->hidden, inner = a->inner;
    while ((t = taken(&a->next, a->task)) < a->tokens) {
        int64_t count = MIN(a->task, a->tokens - t), at = t * hidden;
        float *to_gates = a->to_gates + t * 2 * inner, *middle = a->to_middle + at;
        gated_backward_product(a->g + at, count, hidden, a->down, inner,
                               a->gates + t * 2 * inner, to_gates);
        product(to_gates, count, 2 * inner, a->gate_up, 0, scratch, hidden);
        norms_backward(scratch, count, hidden, a->normed + at, a->scale + t, a->g + at, middle);
        product(middle, count, hidden, a->out, 0, a->to_read + t * a->heads, a->heads);
    }
}
