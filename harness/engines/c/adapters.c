/* Gradients of the LoRA adapters of layers that read the same input. */

#include "vectors.h"

#define SLICES 16  /* of the tokens, added up in their order whatever the number of threads */
#define PART 48    /* tokens that are read again and again, from the cache */
#define ROWS (LANES == 16 ? 16 : 8) /* of a sum, in registers */
#define CHUNK 4096 /* numbers of a task that adds slices up */

typedef struct {
    int64_t next; /* task: a slice of the tokens; of the total: numbers */
    int64_t tokens, inputs, outputs, ranks;
    int64_t adapters;
    const int64_t *columns; /* (adapters, 2): first of an adapter's outputs, and how many */
    const int64_t *ranked;  /* (adapters, 2): first of its ranks, and how many */
    const float *g;         /* (tokens, outputs) */
    const float *x;         /* (tokens, inputs) */
    const float *down;      /* (inputs, ranks): A transposed, of all adapters */
    const float *up;        /* B of all adapters, one behind the other: (outputs, rank) each */
    const float *gain;      /* (inputs): by which to_down is multiplied, if any */
    float *parts;           /* (SLICES, inputs * ranks + numbers of up) */
    float *to_down;         /* (ranks, inputs) */
    float *to_up;           /* as up */
    int64_t ups;            /* numbers of up */
} adapters;

int64_t adapters_room(int64_t inputs, int64_t ranks, int64_t ups) {
    return SLICES * (inputs * ranks + ups);
}

/* total (rows, columns) += a (count, a_step)^T . b (count, b_step). */
INLINE void outer(const float *a, int64_t a_step, int64_t rows, const float *b, int64_t b_step,
                  int64_t columns, int64_t count, float *total) {
    for (int64_t at = 0; at < columns; at += LANES)
        for (int64_t row = 0; row < rows; row += ROWS) {
            float *out = total + row * columns + at;
            vec sums[ROWS];
            for (int i = 0; i < ROWS; i++) sums[i] = load(out + i * columns);
            for (int64_t t = 0; t < count; t++) {
                const float *factor = a + t * a_step + row;
                vec line = load(b + t * b_step + at);
                for (int i = 0; i < ROWS; i++) sums[i] += factor[i] * line;
            }
            for (int i = 0; i < ROWS; i++) store(out + i * columns, sums[i]);
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
    while ((slice = taken(&a->next, 1)) < SLICES) {
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
                outer(g + column, a->outputs, outputs, read + rank, a->ranks, ranks, count, into);
                up += outputs * ranks;
                into += outputs * ranks;
            }
            outer(narrow, a->ranks, a->ranks, x, a->inputs, a->inputs, count, to_down);
        }
    }
}

/* The slices together. */
void adapters_total(adapters *a) {
    int64_t first, down = a->inputs * a->ranks, size = down + a->ups;
    while ((first = taken(&a->next, CHUNK)) < size)
        for (int64_t i = first; i < MIN(first + CHUNK, size); i += LANES) {
            vec total = load(a->parts + i);
            for (int64_t slice = 1; slice < SLICES; slice++)
                total += load(a->parts + slice * size + i);
            if (i < down && a->gain) total *= load(a->gain + i % a->inputs);
            store(i < down ? a->to_down + i : a->to_up + i - down, total);
        }
}
