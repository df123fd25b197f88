// Exit heads: what makes an answer of the hidden states between two layers.
//
// A head draws from a shortlist of K tokens. It may have a SwiGLU adapter of inner size M, whose
// output is added to the hidden state.
#pragma once

#include <limits>
#include <vector>

#include "matrix.h"

extern "C" struct StrettoExit {
    int32_t size, inner;                      // K, and M or 0 for none
    const float *norm_in, *gate_up, *down;    // (D), (2M, D), (D, M), null without an adapter
    const float *norm, *unembed;              // (D), (K, D)
    const int64_t* ids;                       // (K)
};

namespace STRETTO_ISA {

struct Exit {
    int inner = 0;
    std::vector<float> norm_in, norm;
    Matrix gate, up, down, unembed;
    std::vector<int64_t> ids;
    Rows between;          // what comes out of gate and up
    Buffer<float> states;  // (Q, D)

    void set(int kind, int hidden, const StrettoExit& from) {
        inner = from.inner;
        norm.assign(from.norm, from.norm + hidden);
        ids.assign(from.ids, from.ids + from.size);
        pack(unembed, kind, from.size, hidden, from.unembed, nullptr);
        if (inner) {
            norm_in.assign(from.norm_in, from.norm_in + hidden);
            pack(gate, kind, inner, hidden, from.gate_up, nullptr);
            pack(up, kind, inner, hidden, from.gate_up + (size_t)inner * hidden, nullptr);
            pack(down, kind, hidden, inner, from.down, nullptr);
        }
        room_ = 0, width_ = hidden;
    }

    void reserve(int kind, int hidden, int queries) {
        if (queries <= room_) return;
        states = buffer<float>((size_t)queries * hidden);
        if (inner) between.resize(queries, inner, kind);
        room_ = queries;
    }

    float* state(int q) { return states.get() + (size_t)q * width_; }

  private:
    int room_ = 0, width_ = 0;
};

// Index of the largest of `n` logits, the lowest of equals, and its probability among them, which is
// no number where the largest is none or has no end. What is no number is never chosen.
inline int likeliest(const float* logits, int n, float& share) {
    constexpr float least = -std::numeric_limits<float>::infinity();
    auto part = [&](int i) {
        if (i + LANES <= n) return load<Floats>(logits + i);
        Floats x = all(least);
        for (int lane = 0; lane < n - i; lane++) x[lane] = logits[i + lane];
        return x;
    };
    Floats top = all(least), total = all(0.0f);
    for (int i = 0; i < n; i += LANES) top = larger(part(i), top);
    const float most = largest(top);
    for (int i = 0; i < n; i += LANES) total += exponential(part(i) - all(most));
    share = 1 / sum(total) + (most - most);
    for (int i = 0; i < n; i++)
        if (logits[i] == most) return i;
    return 0;  // all are NaN
}

}  // namespace STRETTO_ISA
