// Weights of logits, exp((x - largest) / temperature) in double precision as in engine/rows.py, and
// draws from them.
//
// What is NaN or -inf has weight 0; +inf counts as the largest float.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "simd.h"

namespace STRETTO_ISA {

// As many as a register has: in two halves, compilers choose between numbers one by one.
#ifdef __AVX512F__
constexpr int DOUBLES = 8;
#else
constexpr int DOUBLES = 4;
#endif
typedef double Doubles __attribute__((vector_size(8 * DOUBLES)));
typedef int64_t Longs __attribute__((vector_size(8 * DOUBLES)));
typedef float Few __attribute__((vector_size(4 * DOUBLES)));

constexpr int PIECE = 64;  // logits that are looked at together
constexpr float LARGEST = std::numeric_limits<float>::max();
constexpr float NEVER = -std::numeric_limits<float>::infinity();

inline int pieces_of(int size) { return (size + PIECE - 1) / PIECE; }

inline double sum(Doubles x) {
    double total = 0;
    for (int i = 0; i < DOUBLES; i++) total += x[i];
    return total;
}

// e^x for x <= 0, to about 1e-14 of its size; 0 below -700 and for NaN.
inline Doubles exponential(Doubles x) {
    const Longs counts = x >= -700.0;
    x = counts ? x : Doubles{} - 700.0;
    const Doubles magic = Doubles{} + 6755399441055744.0;  // 1.5 * 2^52: adding it rounds
    const Doubles shifted = x * 1.4426950408889634 + magic, n = shifted - magic;
    Doubles r = x - n * 0.693147180369123816490;
    r = r - n * 1.90821492927058770002e-10;
    Doubles p = Doubles{} + 1.0 / 39916800;
    for (double factor : {1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120,
                          1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0})
        p = p * r + factor;
    const Doubles power = (Doubles)(((Longs)shifted + 1023) << 52);
    return counts ? p * power : Doubles{};
}

// A row of logits in whole pieces: the last is filled up with what is never drawn.
class Row {
  public:
    const int size, pieces;
    float most = NEVER;  // the largest; -inf if nothing may be drawn

    Row(const float* logits, int number) : size(number), pieces(pieces_of(number)), logits_(logits) {
        std::fill(end_, end_ + PIECE, NEVER);
        std::copy(logits + size / PIECE * PIECE, logits + size, end_);
        for (int p = 0; p < pieces; p++) most = std::max(most, top(p));
    }

    const float* piece(int p) const { return (p + 1) * PIECE <= size ? logits_ + p * PIECE : end_; }

    float top(int p) const {
        const float* x = piece(p);
        Few tops = Few{} + NEVER;
        for (int i = 0; i < PIECE; i += DOUBLES) {
            const Few here = load<Few>(x + i);
            tops = here > tops ? here : tops;  // not where it is NaN
        }
        float top = NEVER;
        for (int i = 0; i < DOUBLES; i++) top = std::max(top, tops[i]);
        return std::min(top, LARGEST);
    }

  private:
    const float* logits_;
    alignas(64) float end_[PIECE];
};

// How logits become weights; the largest has 1.
struct Scale {
    double most, cold;  // cold: 1 / temperature, but finite, for 0 times it is 0

    Scale(float largest, double temperature)
        : most(largest), cold(std::min(1 / temperature, std::numeric_limits<double>::max())) {}

    Doubles weights(Few x) const {
        x = x > LARGEST ? Few{} + LARGEST : x;
        return exponential((__builtin_convertvector(x, Doubles) - most) * cold);
    }

    // Weights of a piece; their sum.
    double weigh(const float* piece, double* out) const {
        Doubles sums = {};
        for (int i = 0; i < PIECE; i += DOUBLES) {
            const Doubles weight = weights(load<Few>(piece + i));
            sums += weight;
            store(out + i, weight);
        }
        return sum(sums);
    }
};

// A place by inverse CDF, where some weight is above 0; one of weight 0 is never drawn. `weigh(p, out)` writes the weights of
// piece p and returns their sum; it is asked again for the piece where the draw falls. `before` is
// room for sums.
template <class Weigh>
int draw_from(int pieces, double uniform, std::vector<double>& before, Weigh weigh) {
    alignas(64) double weights[PIECE];
    before.assign(pieces + 1, 0.0);
    for (int p = 0; p < pieces; p++) before[p + 1] = before[p] + weigh(p, weights);
    const double total = before[pieces];
    // uniform * total may round up to the total, behind which there is nothing.
    const double goal = std::min(uniform * total, std::nextafter(total, 0.0));
    const int p = (int)(std::upper_bound(before.begin() + 1, before.end(), goal) - before.begin()) - 1;
    weigh(p, weights);
    double share = before[p];
    int last = 0;
    for (int i = 0; i < PIECE; i++) {
        if (weights[i] <= 0) continue;
        share += weights[i], last = p * PIECE + i;
        if (share > goal) break;
    }
    return last;
}

}  // namespace STRETTO_ISA
