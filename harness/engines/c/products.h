/* Products of a few tokens by a matrix, with what precedes and follows them, while all of it is in the
 * cache of one core. Matrices are laid out by ``pack`` in layers.c.
 */

#pragma once

#include "vectors.h"

#define SIDE 6 /* tokens that are multiplied side by side */
#if LANES == 16
#define VECTORS 4 /* of outputs, likewise: their sums are kept in registers */
#else
#define VECTORS 2
#endif
#define PANEL (VECTORS * LANES)

/* sums (SIDE, VECTORS) = x . panel for SIDE tokens from the t-th on; the last again where there are
 * not as many. */
INLINE void multiply(const float *x, int64_t step, int64_t t, int64_t count, const float *panel,
                     int64_t inputs, vec sums[SIDE][VECTORS]) {
    const float *line[SIDE];
    for (int i = 0; i < SIDE; i++) {
        line[i] = x + MIN(t + i, count - 1) * step;
        for (int v = 0; v < VECTORS; v++) sums[i][v] = (vec){0};
    }
    for (int64_t k = 0; k < inputs; k++) {
        vec y[VECTORS];
        for (int v = 0; v < VECTORS; v++) y[v] = load(panel + k * PANEL + v * LANES);
        for (int i = 0; i < SIDE; i++)
            for (int v = 0; v < VECTORS; v++) sums[i][v] += line[i][k] * y[v];
    }
}

/* out (count, outputs) = x (count, inputs) . packed, with plus (count, outputs) added, if any; out
 * may be plus. */
INLINE void product(const float *x, int64_t count, int64_t inputs, const float *packed,
                    const float *plus, float *out, int64_t outputs) {
    for (int64_t first = 0; first < outputs; first += PANEL, packed += inputs * PANEL)
        for (int64_t t = 0; t < count; t += SIDE) {
            vec sums[SIDE][VECTORS];
            multiply(x, inputs, t, count, packed, inputs, sums);
            for (int i = 0; i < MIN(SIDE, count - t); i++)
                for (int v = 0; v < VECTORS && first + v * LANES < outputs; v++) {
                    int64_t at = (t + i) * outputs + first + v * LANES;
                    if (plus) sums[i][v] += load(plus + at);
                    store(out + at, sums[i][v]);
                }
        }
}

INLINE void norms(const float *x, int64_t count, int64_t width, float eps, float *normed,
                  float *scale) {
    for (int64_t t = 0; t < count; t++)
        scale[t] = normalise(x + t * width, width, eps, normed + t * width);
}

/* products (count, inner) = silu(gate) up, and gates (count, 2 inner), if wanted: both. */
INLINE void gated_product(const float *x, int64_t count, int64_t hidden, const float *packed,
                          int64_t inner, float *gates, float *products) {
    for (int64_t first = 0; first < inner; first += PANEL / 2, packed += hidden * PANEL)
        for (int64_t t = 0; t < count; t += SIDE) {
            vec sums[SIDE][VECTORS];
            multiply(x, hidden, t, count, packed, hidden, sums);
            for (int i = 0; i < MIN(SIDE, count - t); i++)
                for (int v = 0; v < VECTORS / 2 && first + v * LANES < inner; v++) {
                    int64_t at = first + v * LANES;
                    vec gate = sums[i][v], up = sums[i][v + VECTORS / 2];
                    store(products + (t + i) * inner + at, gate * sigmoid(gate) * up);
                    if (gates) {
                        store(gates + (t + i) * 2 * inner + at, gate);
                        store(gates + (t + i) * 2 * inner + inner + at, up);
                    }
                }
        }
}
