/* One more token of every row: attention to the cache, and whole layers where they are small. */

#include "products.h"

/* ------------------------------------------------------------------ attention */

typedef struct {
    int64_t next; /* task: a row and a key-value head */
    int64_t rows, heads, pairs, width; /* pairs: key-value heads */
    int64_t slots, used;      /* of the cache; used before this token */
    float *qkv;               /* (rows, (heads + 2 pairs) width) */
    const float *turns;       /* (positions, width): cosine and sine of each pair of neighbours */
    const int64_t *positions; /* (rows) */
    const int64_t *mask;      /* (rows, used + 1): 0 for slots that are not read */
    float *keys, *values;     /* (rows, pairs, slots, width) */
    float *read;              /* (rows, heads width) */
    float *scratch;
    int64_t room;             /* numbers of scratch for each thread */
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
    const int64_t *mask = a->mask + row * count;
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
            /* A softmax over nothing would be no number: a row that has ended reads itself. */
            weights[j] = mask[j] || j == a->used ? sum(total) : -1.0f / 0.0f;
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

/* With the usual widths known to the compiler, loops over them unroll. */
INLINE void decode_tasks(const decoding *a, int64_t first, int64_t end) {
    float *scratch = a->scratch + a->room * a->thread();
    for (int64_t task = first; task < end; task++) {
        int64_t row = task / a->pairs, pair = task % a->pairs;
        if (a->width == 32) decode(a, row, pair, scratch, 32);
        else if (a->width == 64) decode(a, row, pair, scratch, 64);
        else if (a->width == 128) decode(a, row, pair, scratch, 128);
        else decode(a, row, pair, scratch, a->width);
    }
}

#define TOGETHER 8 /* tasks: a thread reads on where it has read */

void decoding_forward(decoding *a) {
    int64_t first, tasks = a->rows * a->pairs;
    while ((first = taken(&a->next, TOGETHER)) < tasks)
        decode_tasks(a, first, MIN(first + TOGETHER, tasks));
}

/* ------------------------------------------------------------------ all layers */

typedef struct {
    const float *qkv, *out, *gate_up, *down; /* as pack lays them out */
    float *keys, *values;                    /* (rows, pairs, slots, width) */
} decoding_layer;

typedef struct {
    int64_t next; /* row */
    int64_t task; /* rows that go through together */
    int64_t layers, hidden, inner;
    const decoding_layer *layer;
    const int64_t *tokens;   /* (rows) */
    const float *embedding;  /* (words, hidden) */
    float *normed, *scale;   /* (rows, hidden), (rows) */
    float *products;         /* (rows, inner) */
    float *out;              /* (rows, hidden): the last layer's */
    decoding attention;      /* what it is of all layers, without keys and values */
    float eps;
} decoding_step;

/* No row sees another, so none waits for another between two layers. */
void decoding_layers(decoding_step *a) {
    const decoding *all = &a->attention;
    int64_t t, hidden = a->hidden, inner = a->inner, heads = all->heads * all->width;
    int64_t line = heads + 2 * all->pairs * all->width;
    while ((t = taken(&a->next, a->task)) < all->rows) {
        int64_t count = MIN(a->task, all->rows - t);
        float *x = a->out + t * hidden, *normed = a->normed + t * hidden;
        float *products = a->products + t * inner;
        for (int64_t i = 0; i < count; i++)
            memcpy(x + i * hidden, a->embedding + a->tokens[t + i] * hidden,
                   sizeof(float) * hidden);
        for (int64_t number = 0; number < a->layers; number++) {
            const decoding_layer *layer = a->layer + number;
            decoding here = *all;
            here.keys = layer->keys;
            here.values = layer->values;
            norms(x, count, hidden, a->eps, normed, a->scale + t);
            product(normed, count, hidden, layer->qkv, 0, here.qkv + t * line, line);
            decode_tasks(&here, t * all->pairs, (t + count) * all->pairs);
            product(here.read + t * heads, count, heads, layer->out, x, x, hidden);
            norms(x, count, hidden, a->eps, normed, a->scale + t);
            gated_product(normed, count, hidden, layer->gate_up, inner, 0, products);
            product(products, count, inner, layer->down, x, x, hidden);
        }
    }
}

/* ------------------------------------------------------------------ the token */

typedef struct {
    int64_t next; /* row */
    int64_t rows, words;
    const float *logits;       /* (rows, words) */
    const float *temperatures; /* (rows): 0 for the likeliest token */
    const double *numbers;     /* (rows), in [0, 1) */
    int64_t *token;            /* (rows) */
    float *share;              /* (rows): its probability */
    float *scratch;
    int64_t room;
    int (*thread)(void);
} choosing;

#define BLOCK 64 /* words whose shares are summed up first */
#define SUMS 8   /* side by side */

INLINE int64_t blocks_of(int64_t words) { return (words + BLOCK - 1) / BLOCK; }

/* The shares, and of each block their sum, a double. */
int64_t choosing_room(int64_t words) { return blocks_of(words) * (BLOCK + 2); }

INLINE int64_t likeliest(const float *logits, int64_t words) {
    int64_t found = 0;
    for (int64_t word = 1; word < words; word++)
        if (logits[word] > logits[found]) found = word;
    return found;
}

/* Where the cumulative shares pass the number, in the words' order. They are summed up in float64:
 * in float32 the rounding over 100,000 words would exceed the rarest one's share. */
INLINE void draw(const choosing *a, int64_t row, float *shares) {
    const float *x = a->logits + row * a->words;
    float by = 1 / a->temperatures[row];
    int64_t words = a->words, blocks = blocks_of(words), block = 0, word;
    double *sums = (double *)(shares + blocks * BLOCK), total = 0, passed = 0;
    vec tops = all(DEAD);

    memcpy(shares, x, sizeof(float) * words);
    for (word = words; word < blocks * BLOCK; word++) shares[word] = -1.0f / 0.0f;
    for (word = 0; word < blocks * BLOCK; word += LANES) {
        vec y = load(shares + word);
        tops = pick(y > tops, y, tops);
    }
    float top = largest(tops);
    for (; block < blocks; block++) {
        float *own = shares + block * BLOCK;
        double parts[SUMS] = {0};
        for (int i = 0; i < BLOCK; i += LANES) {
            vec y = (load(own + i) - top) * by;
            store(own + i, pick(y < -87.0f, all(0), exponential(y)));
        }
        for (int i = 0; i < BLOCK; i += SUMS)
            for (int part = 0; part < SUMS; part++) parts[part] += own[i + part];
        sums[block] = 0;
        for (int part = 0; part < SUMS; part++) sums[block] += parts[part];
        total += sums[block];
    }
    double bound = a->numbers[row] * total;
    for (block = 0; block < blocks && !(passed + sums[block] > bound); block++)
        passed += sums[block];
    if (block == blocks) { /* the bound was rounded up to the sum: the last word that can be */
        bound = 1.0 / 0.0;
        while (--block >= 0 && !(sums[block] > 0)) {}
    }
    int64_t found = -1;
    for (word = block * BLOCK; block >= 0 && word < (block + 1) * BLOCK; word++) {
        if (!(shares[word] > 0)) continue; /* never a word that cannot be */
        found = word;
        if ((passed += shares[word]) > bound) break;
    }
    if (found < 0) found = likeliest(x, words); /* of numbers that are none */
    a->token[row] = found;
    a->share[row] = shares[found] / total;
}

void choosing_forward(choosing *a) {
    float *scratch = a->scratch + a->room * a->thread();
    int64_t row;
    while ((row = taken(&a->next, 1)) < a->rows) {
        if (a->temperatures[row] > 0) {
            draw(a, row, scratch);
            continue;
        }
        a->token[row] = likeliest(a->logits + row * a->words, a->words);
        a->share[row] = 1;
    }
}
