// What sampling asks of rows of logits: the likeliest token, or a draw from all or from a nucleus.
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

// What may be drawn of a row: engine/params.py has the words.
struct Cut {
    double temperature, top_p, min_p;
    int top_k;  // 0: all
};

// Tokens with their weights, likeliest first, ties by id; as many as are needed to find the cut.
class Nucleus {
  public:
    Nucleus(const Row& row, const Cut& cut) : row_(row), cut_(cut), tops_((row.size + PIECE - 1) / PIECE) {
        for (int p = 0; p < (int)tops_.size(); p++) {
            const int start = p * PIECE, end = std::min(row.size, start + PIECE);
            tops_[p] = row.value(start);
            for (int i = start + 1; i < end; i++) tops_[p] = std::max(tops_[p], row.value(i));
            total_ += row.weights(start, cut.temperature);
        }
        // What top-p is a share of: the tokens that top-k leaves.
        const int top = cut.top_k > 0 ? std::min(cut.top_k, row.size) : row.size;
        for (int number = std::min(row.size, std::max(128, top < row.size ? top : 0));; number *= 8) {
            number = std::min(number, row.size);
            rank(number);
            if (keep(number, top)) return;
        }
    }

    int64_t draw(double uniform) {
        std::sort(kept_.begin(), kept_.end());
        double total = 0, sum = 0;
        for (const auto& [id, weight] : kept_) total += weight;
        const double goal = std::min(uniform * total, std::nextafter(total, 0.0));
        int64_t last = kept_[0].first;
        for (const auto& [id, weight] : kept_) {
            if (weight <= 0) continue;
            sum += weight, last = id;
            if (sum > goal) break;
        }
        return last;
    }

  private:
    // The likeliest `number` tokens.
    void rank(int number) {
        // So many pieces have a token at least this likely, so no fewer tokens are.
        float bound = -std::numeric_limits<float>::infinity();
        if ((int)tops_.size() > number) {
            std::vector<float> sorted(tops_);
            std::nth_element(sorted.begin(), sorted.begin() + number - 1, sorted.end(), std::greater<float>());
            bound = sorted[number - 1];
        }
        found_.clear();
        for (int p = 0; p < (int)tops_.size(); p++) {
            if (tops_[p] < bound) continue;
            for (int i = p * PIECE; i < std::min(row_.size, (p + 1) * PIECE); i++)
                if (row_.value(i) >= bound) found_.emplace_back(-row_.value(i), i);
        }
        if ((int)found_.size() > number) std::nth_element(found_.begin(), found_.begin() + number - 1, found_.end());
        std::sort(found_.begin(), found_.begin() + number);
    }

    // Keeps what the cut leaves of them; false if it may lie further on.
    bool keep(int number, int top) {
        constexpr double rounding = 1e-9;  // engine/sampling.py
        double share = 0;
        std::vector<double> weights(number);
        for (int i = 0; i < number; i++) {
            const double far = (-(double)found_[i].first - (double)row_.most) / cut_.temperature;
            weights[i] = std::exp(far);
            if (i < top) share += weights[i];
        }
        const double all = top < row_.size ? share : total_;
        const double goal = cut_.top_p < 1 ? (cut_.top_p - rounding) * all : std::numeric_limits<double>::infinity();
        double before = 0;
        kept_.clear();
        int i = 0;
        for (; i < std::min(number, top); i++) {
            if (-found_[i].first == -std::numeric_limits<float>::infinity()) break;
            if (i && (before >= goal || weights[i] < cut_.min_p * (1 - rounding))) break;
            kept_.emplace_back(found_[i].second, weights[i]);
            before += weights[i];
        }
        return i < number || number == row_.size || i == top;
    }

    const Row& row_;
    const Cut& cut_;
    double total_ = 0;
    std::vector<float> tops_;
    std::vector<std::pair<float, int>> found_;  // minus the logit, and the token
    std::vector<std::pair<int64_t, double>> kept_;
};

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

// Rows of logits at hand, and how to choose from them; pointers are null where they are not needed.
extern "C" struct StrettoChoice {
    int32_t rows, size;     // queries, V
    const float* logits;    // (rows of all, V)
    const int64_t* which;   // (rows): index of each row
    const double *temperature, *top_k, *top_p, *min_p, *uniforms;  // (rows)
    int64_t* tokens;        // (rows)
};

namespace STRETTO_ISA {

// A choice at work. It must outlive the run: a thread that comes late still looks at it.
struct Choosing {
    int kind;  // 0: the likeliest, 1: a draw from what cuts leave, 2: from all
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
            c.tokens[i] = Nucleus(row, {c.temperature[i], c.top_p[i], c.min_p[i], (int)c.top_k[i]}).draw(c.uniforms[i]);
        else
            c.tokens[i] = draw(row, c.temperature[i], c.uniforms[i]);
    }
};

}  // namespace STRETTO_ISA
