// Attention over a cache in blocks, a span of keys at a time.
//
// A block holds 32 cells of one line for all layers: for each layer and key head the keys with
// cells side by side, then the values cell by cell. Spans of 256 cells are jobs of their own, each
// with the largest score, the sum of weights and the weighted values so far, merged at the end in
// order; so the result does not depend on how jobs were shared out.
#pragma once

#include "matrix.h"

namespace STRETTO_ISA {

constexpr int BLOCK = 32, SPAN = 256, QUERIES = 6;
constexpr float HIDDEN = -1e30f;

// What queries of one session look at in one layer and key head.
struct Keys {
    const uint8_t* const* blocks;  // of the line
    size_t offset;                 // of this layer and head in a block, in bytes
    const int32_t* rows;           // of the line's cells
    int length;                    // cells, those of this pass included
    int old;                       // cells there were before
    int size;                      // of a head, padded to LANES
};

struct Rule {
    int strict, window;  // window -1: all
};

template <class T>
Floats load_cache(const T* p) {
    if constexpr (sizeof(T) == 2)
        return load_half(p);
    else
        return load<Floats>(p);
}

template <class T>
void store_cache(T* p, Floats x) {
    if constexpr (sizeof(T) == 2)
        store_half(p, x);
    else
        store(p, x);
}

// Whether a query of `row` sees the key at place `key`; `cell` is its own place in the line, or -1
// if it leaves no key.
inline bool sees(const Rule& rule, int key_row, int key, int row, int cell) {
    if (key == cell) return true;
    if (rule.strict ? key_row >= row : key_row > row) return false;
    return rule.window < 0 || key_row > row - rule.window;
}

// Weighted values of a span, V vectors of each from number `part` on.
template <class T, int N, int V>
void mix(const Keys& keys, int start, int end, int part, const float (*weights)[SPAN], float* const* partial) {
    Floats sums[N][V];
#pragma GCC unroll 8
    for (int n = 0; n < N; n++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sums[n][v] = all(0.0f);
    for (int first = start; first < end; first += BLOCK) {
        const T* values = (const T*)(keys.blocks[first / BLOCK] + keys.offset) + (size_t)BLOCK * keys.size + part;
        const int number = std::min(BLOCK, end - first);
        for (int i = 0; i < number; i++, values += keys.size) {
            Floats value[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) value[v] = load_cache(values + v * LANES);
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) {
                const Floats weight = all(weights[n][first - start + i]);
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) sums[n][v] = fma(value[v], weight, sums[n][v]);
            }
        }
    }
    for (int n = 0; n < N; n++)
        for (int v = 0; v < V; v++) store(partial[n] + 2 + part + v * LANES, sums[n][v]);
}

// `number` queries (up to QUERIES) of `keys.size` floats each against the cells from `start` on.
// For each: partial[0] the largest score, partial[1] the sum of weights, then the weighted values.
template <class T, int N>
void span(const Keys& keys, const Rule& rule, int start, const float* const* queries, const int* rows,
          const int* cells, float* const* partial) {
    const int end = std::min(keys.length, start + SPAN), size = keys.size;
    alignas(64) float scores[N][SPAN];
    for (int first = start; first < end; first += BLOCK) {
        const T* block = (const T*)(keys.blocks[first / BLOCK] + keys.offset);
        // Its values, and the next block's keys, are on their way meanwhile.
        const T* next = first + BLOCK < end ? (const T*)(keys.blocks[first / BLOCK + 1] + keys.offset) : block;
        Floats sums[N][2];
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) sums[n][0] = sums[n][1] = all(0.0f);
        for (int e = 0; e < size; e++) {
            for (size_t byte = 0; byte < BLOCK * sizeof(T); byte += 64) {
                ahead((const char*)(block + (size_t)(size + e) * BLOCK) + byte);
                ahead((const char*)(next + e * BLOCK) + byte);
            }
            const Floats left = load_cache(block + e * BLOCK), right = load_cache(block + e * BLOCK + LANES);
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) {
                const Floats q = all(queries[n][e]);
                sums[n][0] = fma(left, q, sums[n][0]);
                sums[n][1] = fma(right, q, sums[n][1]);
            }
        }
        // Cells from before this pass lie in earlier rows, so all may be seen; but a window ends.
        const bool plain = first + BLOCK <= keys.old && rule.window < 0;
        for (int n = 0; n < N; n++) {
            store(scores[n] + first - start, sums[n][0]);
            store(scores[n] + first - start + LANES, sums[n][1]);
            if (plain) continue;
            for (int key = first; key < first + BLOCK; key++)
                if (key >= end || !sees(rule, keys.rows[key], key, rows[n], cells[n]))
                    scores[n][key - start] = HIDDEN;
        }
    }
    const int width = round_up(end - start, BLOCK);
    for (int n = 0; n < N; n++) {
        Floats top = all(HIDDEN);
        for (int i = 0; i < width; i += LANES) top = larger(top, load<Floats>(scores[n] + i));
        const float most = largest(top);
        Floats total = all(0.0f);
        for (int i = 0; i < width; i += LANES) {
            const Floats score = load<Floats>(scores[n] + i);
            Floats weight = exponential(score - all(most));
            weight = score > all(HIDDEN) ? weight : all(0.0f);
            store(scores[n] + i, weight);
            total += weight;
        }
        partial[n][0] = most;
        partial[n][1] = sum(total);
    }
    for (int part = 0; part < size; part += 4 * LANES) {
        switch (std::min(4, (size - part) / LANES)) {
            case 4: mix<T, N, 4>(keys, start, end, part, scores, partial); break;
            case 3: mix<T, N, 3>(keys, start, end, part, scores, partial); break;
            case 2: mix<T, N, 2>(keys, start, end, part, scores, partial); break;
            default: mix<T, N, 1>(keys, start, end, part, scores, partial);
        }
    }
}

template <class T, int N = QUERIES>
void span_of(int number, const Keys& keys, const Rule& rule, int start, const float* const* queries,
             const int* rows, const int* cells, float* const* partial) {
    if (number == N)
        span<T, N>(keys, rule, start, queries, rows, cells, partial);
    else if constexpr (N > 1)
        span_of<T, N - 1>(number, keys, rule, start, queries, rows, cells, partial);
}

}  // namespace STRETTO_ISA
