// What sampling asks of rows of logits: the likeliest, the likeliest few and the sum of all, a draw.
//
// Weights are exp((x - largest) / temperature) in double precision, as in engine/sampling.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "simd.h"
#include "team.h"

namespace STRETTO_ISA {

typedef double Doubles __attribute__((vector_size(64)));
typedef int64_t Longs __attribute__((vector_size(64)));
typedef float Eight __attribute__((vector_size(32)));

// e^x for x <= 0, to about 1e-15 of its size; 0 below -700.
inline Doubles exponential(Doubles x) {
    const Longs tiny = x < -700.0;
    x = tiny ? Doubles{} - 700.0 : x;
    const Doubles magic = Doubles{} + 6755399441055744.0;  // 1.5 * 2^52
    const Doubles shifted = x * 1.4426950408889634 + magic, n = shifted - magic;
    Doubles r = x - n * 0.693147180369123816490;
    r = r - n * 1.90821492927058770002e-10;
    Doubles p = Doubles{} + 1.0 / 6227020800.0;
    for (double factor : {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
                          1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0})
        p = p * r + factor;
    const Doubles power = (Doubles)(((Longs)shifted + 1023) << 52);
    return tiny ? Doubles{} : p * power;
}

constexpr int PIECE = 64;  // logits that are looked at together

struct Row {
    const float* logits;
    int size;
    float most;

    Row(const float* x, int n) : logits(x), size(n) {
        Floats top = all(-std::numeric_limits<float>::infinity());
        int i = 0;
        for (; i + LANES <= n; i += LANES) top = larger(load<Floats>(x + i), top);
        most = largest(top);
        for (; i < n; i++) most = std::max(most, x[i]);
    }

    // What is no number is never chosen.
    float value(int i) const {
        const float x = logits[i];
        return x == x ? x : -std::numeric_limits<float>::infinity();
    }

    // Sum of the weights of up to PIECE tokens from `start` on.
    double weights(int start, double temperature, double* out = nullptr) const {
        alignas(64) double held[PIECE];
        double* to = out ? out : held;
        const int end = std::min(size, start + PIECE);
        alignas(32) float x[PIECE];
        const float* from = logits + start;
        if (end - start < PIECE) {
            std::fill(x, x + PIECE, -std::numeric_limits<float>::infinity());
            std::copy(from, from + (end - start), x);
            from = x;
        }
        Doubles sums = {};
        for (int i = 0; i < PIECE; i += 8) {
            const Doubles far = (__builtin_convertvector(load<Eight>(from + i), Doubles) - (double)most) / temperature;
            const Doubles weight = exponential(far);
            sums += weight;
            if (out) store(to + i, weight);
        }
        double total = 0;
        for (int i = 0; i < 8; i++) total += sums[i];
        return total;
    }
};

inline int64_t likeliest(const Row& row) {
    for (int i = 0; i < row.size; i += LANES) {
        if (i + LANES <= row.size) {
            Ints found = load<Floats>(row.logits + i) == row.most;
            if (!fold(found, [](Ints a, Ints b) { return a | b; })[0]) continue;
        }
        for (int j = i; j < std::min(row.size, i + LANES); j++)
            if (row.logits[j] == row.most) return j;
    }
    return 0;  // all are NaN
}

// The `number` likeliest, ties by id, and the sum of all weights.
inline void rank(const Row& row, double temperature, int number, int64_t* ids, float* values, double* total) {
    const int pieces = (row.size + PIECE - 1) / PIECE;
    std::vector<float> tops(pieces);
    *total = 0;
    for (int p = 0; p < pieces; p++) {
        const int start = p * PIECE, end = std::min(row.size, start + PIECE);
        tops[p] = row.value(start);
        for (int i = start + 1; i < end; i++) tops[p] = std::max(tops[p], row.value(i));
        *total += row.weights(start, temperature);
    }
    // So many pieces have a token at least this likely, so no fewer tokens are.
    float bound = -std::numeric_limits<float>::infinity();
    if (pieces > number) {
        std::vector<float> sorted(tops);
        std::nth_element(sorted.begin(), sorted.begin() + number - 1, sorted.end(), std::greater<float>());
        bound = sorted[number - 1];
    }
    std::vector<std::pair<float, int>> found;
    for (int p = 0; p < pieces; p++) {
        if (tops[p] < bound) continue;
        for (int i = p * PIECE; i < std::min(row.size, (p + 1) * PIECE); i++)
            if (row.value(i) >= bound) found.emplace_back(-row.value(i), i);
    }
    if ((int)found.size() > number) std::nth_element(found.begin(), found.begin() + number - 1, found.end());
    std::sort(found.begin(), found.begin() + number);
    for (int i = 0; i < number; i++) values[i] = -found[i].first, ids[i] = found[i].second;
}

// One token by inverse CDF in the order of ids; one of weight 0 is never drawn.
inline int64_t draw(const Row& row, double temperature, double uniform) {
    const int pieces = (row.size + PIECE - 1) / PIECE;
    std::vector<double> before(pieces + 1);
    for (int p = 0; p < pieces; p++) before[p + 1] = before[p] + row.weights(p * PIECE, temperature);
    const double total = before[pieces];
    const double goal = std::min(uniform * total, std::nextafter(total, 0.0));
    int p = (int)(std::upper_bound(before.begin() + 1, before.end(), goal) - before.begin()) - 1;
    p = std::min(p, pieces - 1);
    alignas(64) double weights[PIECE];
    row.weights(p * PIECE, temperature, weights);
    double sum = before[p];
    int last = 0;
    for (int i = 0; i < PIECE; i++) {
        if (weights[i] <= 0) continue;
        sum += weights[i], last = i;
        if (sum > goal) break;
    }
    return (int64_t)p * PIECE + last;
}

}  // namespace STRETTO_ISA

// Rows of logits at hand, and what is wanted of them; pointers are null where they are not needed.
extern "C" struct StrettoChoice {
    int32_t rows, size, number;      // queries, V, how many of the likeliest
    const float* logits;             // (rows of all, V)
    const int64_t* which;            // (rows): index of each row
    const double *temperature, *uniforms;  // (rows)
    int64_t* tokens;                 // (rows), or (rows, number) of rank
    float* values;                   // (rows, number)
    double* totals;                  // (rows)
};

namespace STRETTO_ISA {

// A choice at work. It must outlive the run: a thread that comes late still looks at it.
struct Choosing {
    int kind;  // 0: likeliest, 1: rank, 2: draw
    StrettoChoice choice;
    std::atomic<int> rows;
    std::atomic<bool> no_memory;

    void begin(int wanted, const StrettoChoice& among) {
        kind = wanted, choice = among, rows = among.rows, no_memory = false;
    }

    static void program(stretto::Team& team, stretto::Team::Place place, void* context) {
        Choosing& self = *(Choosing*)context;
        team.phase(place, 0, self.rows, [&](int i) {
            try {
                self.row(i);
            } catch (const std::bad_alloc&) {
                self.no_memory = true;
            }
        });
    }

    void row(int i) const {
        const StrettoChoice& c = choice;
        const Row row(c.logits + c.which[i] * c.size, c.size);
        if (kind == 0)
            c.tokens[i] = likeliest(row);
        else if (kind == 1)
            rank(row, c.temperature[i], c.number, c.tokens + (size_t)i * c.number,
                 c.values + (size_t)i * c.number, c.totals + i);
        else
            c.tokens[i] = draw(row, c.temperature[i], c.uniforms[i]);
    }
};

}  // namespace STRETTO_ISA
