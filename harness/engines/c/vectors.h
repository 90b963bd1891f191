/* Vectors, and what all functions of this folder share. ``building.py`` makes one library of them for
 * the machine at hand, ``compiled.py`` calls it; the tests hold every function against torch.
 *
 * A function is run by all threads at once. They take tasks by a shared counter; a task writes
 * numbers that no other task writes and adds them in an order of its own, so the result does not
 * depend on the number of threads. All is float32.
 *
 * Vectors are the compiler's own (GCC and Clang), without intrinsics of one processor.
 */

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define COLUMNS 2 /* vectors of keys whose scores are summed up at a time, in registers */
#elif defined(__AVX2__)
#define LANES 8
#define COLUMNS 2
#else
#define LANES 4
#define COLUMNS 2
#endif

#define WIDEST 256    /* of a head, and of all adapters' ranks together */
#define DEAD (-3e38f) /* a masked score */

#define INLINE static inline __attribute__((always_inline))
#define MIN(a, b) ((a) < (b) ? (a) : (b))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *from) { return *(const vec *)from; }
INLINE void store(float *to, vec x) { *(vec *)to = x; }
INLINE vec all(float x) { return x - (vec){0}; }

INLINE vec pick(ivec yes, vec a, vec b) { return (vec)(((ivec)a & yes) | ((ivec)b & ~yes)); }

typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t four_ints __attribute__((vector_size(16), aligned(4), may_alias));

#ifdef __clang__
#define MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else /* GCC knows that builtin since 12 */
#define MIX(a, b, ...) __builtin_shuffle(a, b, (four_ints){__VA_ARGS__})
#endif

INLINE float sum(vec x) {
    const four *parts = (const four *)&x;
    four total = parts[0];
    for (int i = 1; i < LANES / 4; i++) total += parts[i];
    return (total[0] + total[1]) + (total[2] + total[3]);
}

INLINE float largest(vec x) {
    const four *parts = (const four *)&x;
    four top = parts[0];
    for (int i = 1; i < LANES / 4; i++) {
        four_ints more = parts[i] > top;
        top = (four)(((four_ints)parts[i] & more) | ((four_ints)top & ~more));
    }
    float one = top[0] > top[1] ? top[0] : top[1], two = top[2] > top[3] ? top[2] : top[3];
    return one > two ? one : two;
}

/* The first four columns of across (width, stride) = the transpose of x (4, step). Compilers would
 * scatter number by number. */
INLINE void transpose(const float *x, int64_t step, float *across, int64_t stride, int64_t width) {
    for (int64_t i = 0; i < width; i += 4) {
        four a = *(const four *)(x + i), b = *(const four *)(x + step + i);
        four c = *(const four *)(x + 2 * step + i), d = *(const four *)(x + 3 * step + i);
        four ab = MIX(a, b, 0, 4, 1, 5), cd = MIX(c, d, 0, 4, 1, 5);
        four ba = MIX(a, b, 2, 6, 3, 7), dc = MIX(c, d, 2, 6, 3, 7);
        float *out = across + i * stride;
        *(four *)out = MIX(ab, cd, 0, 1, 4, 5);
        *(four *)(out + stride) = MIX(ab, cd, 2, 3, 6, 7);
        *(four *)(out + 2 * stride) = MIX(ba, dc, 0, 1, 4, 5);
        *(four *)(out + 3 * stride) = MIX(ba, dc, 2, 3, 6, 7);
    }
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

/* normed = x r, and r = 1 / sqrt(mean x^2 + eps). */
INLINE float normalise(const float *x, int64_t width, float eps, float *normed) {
    vec squares = {0};
    for (int64_t at = 0; at < width; at += LANES) squares += load(x + at) * load(x + at);
    float r = 1 / sqrtf(sum(squares) / width + eps);
    for (int64_t at = 0; at < width; at += LANES) store(normed + at, load(x + at) * r);
    return r;
}

/* out = r (g - normed mean(g normed)) + plus, if any. */
INLINE void normalise_backward(const float *g, int64_t width, const float *normed, float r,
                               const float *plus, float *out) {
    vec along = {0};
    for (int64_t at = 0; at < width; at += LANES) along += load(g + at) * load(normed + at);
    float mean = sum(along) / width;
    for (int64_t at = 0; at < width; at += LANES) {
        vec found = (load(g + at) - load(normed + at) * mean) * r;
        if (plus) found += load(plus + at);
        store(out + at, found);
    }
}

/* Gradients of silu(y) up, of which g is. */
INLINE void gate_backward(vec g, vec y, vec up, float *to_gate, float *to_up) {
    vec s = sigmoid(y);
    store(to_gate, g * up * (s * (1.0f + y * (1.0f - s))));
    store(to_up, g * y * s);
}

/* The first of the next tasks, of which so many are taken together. */
INLINE int64_t taken(int64_t *next, int64_t tasks) {
    return __atomic_fetch_add(next, tasks, __ATOMIC_RELAXED);
}

/* Lines that lie a multiple of 4 kB apart would drive each other out of the cache. */
INLINE int64_t padded(int64_t length) { return ((length + 15) / 16 | 1) * 16; }
