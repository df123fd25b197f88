// Matrices in panels of 16 outputs, and their products with few or many rows of numbers.
//
// A panel holds, input by input, the weights of its 16 outputs side by side, so that one load
// brings what one input means for all 16. For 8-bit weights four inputs lie together, as the dot
// product instructions want them. Inputs are padded with zeros to whole groups of 64.
//
// The sum behind one number runs in the same order whatever else is computed with it. So what a
// session is told does not depend, not in one bit, on who shares its pass.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>

#include "simd.h"

namespace STRETTO_ISA {

constexpr int GROUP = 64;  // inputs that share a scale

enum Kind { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

inline int round_up(int n, int to) { return (n + to - 1) / to * to; }

struct Free {
    void operator()(void* p) const { std::free(p); }
};
template <class T>
using Buffer = std::unique_ptr<T[], Free>;

template <class T>
Buffer<T> buffer(size_t n) {
    const size_t bytes = (n * sizeof(T) + 63) / 64 * 64 + 64;
    void* p = std::aligned_alloc(64, bytes);
    if (!p) throw std::bad_alloc();
    std::memset(p, 0, bytes);
    return Buffer<T>((T*)p);
}

struct Matrix {
    int kind = FLOAT32, outputs = 0, inputs = 0;
    int panels = 0, padded = 0;  // inputs with their padding
    Buffer<uint8_t> data;
    Buffer<uint16_t> scales;  // half precision, (panels, padded / GROUP, LANES)
    Buffer<float> bias;

    size_t panel_bytes() const {
        return (size_t)padded * LANES * (kind == INT8 ? 1 : kind == BFLOAT16 ? 2 : 4);
    }
    size_t bytes() const {
        return panels * panel_bytes() + (kind == INT8 ? (size_t)panels * padded / GROUP * LANES * 2 : 0);
    }
    const uint8_t* panel(int i) const { return data.get() + i * panel_bytes(); }
    const uint16_t* scale(int i) const { return scales.get() + (size_t)i * (padded / GROUP) * LANES; }
};

// What matrices are multiplied with: rows of floats, or of bytes with a scale for each group.
struct Rows {
    int padded = 0;
    Buffer<float> floats;     // (N, padded)
    Buffer<int8_t> bytes;     // (N, padded)
    Buffer<float> scales;     // (N, padded / GROUP)
    Buffer<int32_t> offsets;  // (N, padded / GROUP): what the 128 in the weights adds, negative

    void resize(int n, int inputs, int kind) {
        padded = round_up(inputs, GROUP);
        if (kind == INT8) {
            bytes = buffer<int8_t>((size_t)n * padded);
            scales = buffer<float>((size_t)n * padded / GROUP);
            offsets = buffer<int32_t>((size_t)n * padded / GROUP);
        } else {
            floats = buffer<float>((size_t)n * padded);
        }
    }

    // One group of a row, from floats that nothing else needs.
    void put(int kind, int row, int group, float* x) {
        const size_t at = (size_t)row * padded + group * GROUP;
        if (kind != INT8) {
            std::memcpy(floats.get() + at, x, GROUP * sizeof(float));
            return;
        }
        spread(x);
        Floats top = all(0.0f);
        for (int i = 0; i < GROUP; i += LANES) {
            Floats v = load<Floats>(x + i);
            top = larger(top, v < 0 ? -v : v);
        }
        // Next to nothing is nothing: 127 over it would be infinite.
        const float most = largest(top), scale = most / 127, inverse = most > 1e-30f ? 127 / most : 0;
        const Floats magic = all(12582912.0f);
        int8_t* out = bytes.get() + at;
        Ints total = all(0);
        for (int i = 0; i < GROUP; i += LANES) {
            Floats shifted = fma(load<Floats>(x + i), all(inverse), magic);
            Ints whole = (Ints)shifted - (Ints)magic;
            total += whole;
            typedef int8_t Bytes __attribute__((vector_size(16)));
            store(out + i, __builtin_convertvector(whole, Bytes));
        }
        const int32_t sum = fold(total, [](Ints a, Ints b) { return a + b; })[0];
        const size_t g = (size_t)row * (padded / GROUP) + group;
        scales[g] = scale;
        offsets[g] = OFFSET ? -128 * sum : 0;
    }
};

inline void pack_float(int kind, uint8_t* panel, size_t at, float x) {
    if (kind == FLOAT32) {
        std::memcpy(panel + at * 4, &x, 4);
        return;
    }
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bits += 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even
    const uint16_t upper = (uint16_t)(bits >> 16);
    std::memcpy(panel + at * 2, &upper, 2);
}

// One output's group of weights; `scales` are those of the panel's 16 outputs.
inline void pack_bytes(uint8_t* panel, uint16_t* scales, int lane, int group, float* x) {
    spread(x);
    float most = 0;
    for (int k = 0; k < GROUP; k++) most = std::max(most, std::fabs(x[k]));
    // The scale that will be read back is the one to divide by. Half precision has few digits for
    // small ones: rounded up, none makes a weight larger than 127.
    scales[lane] = _cvtss_sh(most / 127, _MM_FROUND_TO_POS_INF);
    const float scale = _cvtsh_ss(scales[lane]), inverse = scale > 0 ? 1 / scale : 0;
    for (int k = 0; k < GROUP; k++) {
        const float whole = std::min(127.0f, std::max(-127.0f, std::nearbyint(x[k] * inverse)));
        panel[(size_t)(group * GROUP + k) / 4 * 64 + lane * 4 + k % 4] = (uint8_t)((int)whole + 128);
    }
}

// Packs a matrix (outputs, inputs) of floats.
inline void pack(Matrix& m, int kind, int outputs, int inputs, const float* from, const float* bias) {
    m.kind = kind, m.outputs = outputs, m.inputs = inputs;
    m.panels = (outputs + LANES - 1) / LANES, m.padded = round_up(inputs, GROUP);
    m.data = buffer<uint8_t>(m.panels * m.panel_bytes());
    const int groups = m.padded / GROUP;
    if (kind == INT8) m.scales = buffer<uint16_t>((size_t)m.panels * groups * LANES);
    if (bias) {
        m.bias = buffer<float>((size_t)m.panels * LANES);
        std::memcpy(m.bias.get(), bias, outputs * sizeof(float));
    }
    for (int p = 0; p < m.panels; p++) {
        uint8_t* panel = m.data.get() + p * m.panel_bytes();
        if (kind == INT8) std::memset(panel, 128, m.panel_bytes());
        for (int lane = 0; lane < LANES && p * LANES + lane < outputs; lane++)
            for (int g = 0; g < groups; g++) {
                const int number = std::min(GROUP, inputs - g * GROUP);
                alignas(64) float x[GROUP] = {};
                std::memcpy(x, from + (size_t)(p * LANES + lane) * inputs + g * GROUP, number * sizeof(float));
                if (kind == INT8)
                    pack_bytes(panel, m.scales.get() + ((size_t)p * groups + g) * LANES, lane, g, x);
                else
                    for (int k = 0; k < GROUP; k++) pack_float(kind, panel, (g * GROUP + k) * LANES + lane, x[k]);
            }
    }
}

// Products of P panels with T rows from `row` on; out[p * T + t] has 16 outputs.
template <int KIND, int P, int T>
void tile(const Matrix& m, int panel, const Rows& x, int row, Floats* out) {
    Floats sums[P][T];
#pragma GCC unroll 12
    for (int p = 0; p < P; p++)
#pragma GCC unroll 12
        for (int t = 0; t < T; t++) sums[p][t] = all(0.0f);
    const int padded = m.padded, groups = padded / GROUP;
    // Where this thread reads next: the processor's own foresight ends with each page.
    const size_t further = P * m.panel_bytes();
    const uint8_t* w[P];
#pragma GCC unroll 12
    for (int p = 0; p < P; p++) w[p] = m.panel(panel + p);
    if constexpr (KIND == INT8) {
        const int8_t* bytes = x.bytes.get() + (size_t)row * padded;
        const float* scales = x.scales.get() + (size_t)row * groups;
        const int32_t* offsets = x.offsets.get() + (size_t)row * groups;
        const uint16_t* of = m.scale(panel);
        for (int g = 0; g < groups; g++) {
            Ints lanes[P][T];
#pragma GCC unroll 12
            for (int p = 0; p < P; p++)
#pragma GCC unroll 12
                for (int t = 0; t < T; t++) lanes[p][t] = all(offsets[t * groups + g]);
#pragma GCC unroll 4
            for (int k = 0; k < GROUP / 4; k++)
                {
#pragma GCC unroll 4
                for (int p = 0; p < P; p++) ahead(w[p] + further + (size_t)(g * (GROUP / 4) + k) * 64);
#pragma GCC unroll 12
                for (int t = 0; t < T; t++) {
                    int32_t four;
                    std::memcpy(&four, bytes + (size_t)t * padded + g * GROUP + k * 4, 4);
#pragma GCC unroll 12
                    for (int p = 0; p < P; p++)
                        lanes[p][t] = dot4(lanes[p][t], w[p] + (size_t)(g * (GROUP / 4) + k) * 64, four);
                }
                }
#pragma GCC unroll 12
            for (int p = 0; p < P; p++) {
                const Floats scale = load_half(of + ((size_t)p * groups + g) * LANES);
#pragma GCC unroll 12
                for (int t = 0; t < T; t++)
                    sums[p][t] = fma(to_floats(lanes[p][t]), scale * all(scales[t * groups + g]), sums[p][t]);
            }
        }
    } else {
        const float* floats = x.floats.get() + (size_t)row * padded;
#pragma GCC unroll 4
        for (int k = 0; k < padded; k++)
#pragma GCC unroll 12
            for (int p = 0; p < P; p++) {
                constexpr size_t width = LANES * (KIND == BFLOAT16 ? 2 : 4);
                ahead(w[p] + further + k * width);
                Floats weights;
                if constexpr (KIND == BFLOAT16)
                    weights = load_bfloat((const uint16_t*)w[p] + (size_t)k * LANES);
                else
                    weights = load<Floats>((const float*)w[p] + (size_t)k * LANES);
#pragma GCC unroll 12
                for (int t = 0; t < T; t++)
                    sums[p][t] = fma(weights, all(floats[(size_t)t * padded + k]), sums[p][t]);
            }
    }
#pragma GCC unroll 12
    for (int p = 0; p < P; p++)
#pragma GCC unroll 12
        for (int t = 0; t < T; t++) {
            out[p * T + t] = sums[p][t];
            if (m.bias) out[p * T + t] += load<Floats>(m.bias.get() + (size_t)(panel + p) * LANES);
        }
}

constexpr int MOST_ROWS = 12;
using Tile = void (*)(const Matrix&, int, const Rows&, int, Floats*);

// How many panels at a time: as many sums as registers hold, enough to hide latencies.
constexpr int panels_for(int rows) { return rows <= 3 ? 4 : rows <= 6 ? 2 : 1; }

// The tile for so many rows and panels; panels are 1, or panels_for of this many rows or one more.
template <int KIND, int T = MOST_ROWS>
Tile tile_for(int rows, int panels) {
    if (rows == T)
        return panels == 1               ? tile<KIND, 1, T>
               : panels == panels_for(T) ? tile<KIND, panels_for(T), T>
                                         : tile<KIND, panels_for(T + 1), T>;
    if constexpr (T > 1) return tile_for<KIND, T - 1>(rows, panels);
    return nullptr;
}

// Panels first to last, `n` rows from `row` on: put(panel, row, 16 outputs) for each.
template <class Put>
void multiply(const Matrix& m, int first, int last, const Rows& x, int row, int n, Put put) {
    Floats out[MOST_ROWS];
    // Few rows of bytes in one go, so that each weight comes from memory while others are at work;
    // many, or floats, in the shape that computes fastest. Equal shares: 7 are 4 and 3, not 6 and 1.
    const int most = m.kind == INT8 && n <= MOST_ROWS ? MOST_ROWS : MOST_ROWS / 2;
    const int parts = (n + most - 1) / most, width = panels_for((n + parts - 1) / parts);
    auto share = [&](int i) { return (int)((int64_t)n * i / parts); };
    auto part = [&](int panel, int panels, int start, int rows) {
        const Tile run = m.kind == INT8       ? tile_for<INT8>(rows, panels)
                         : m.kind == BFLOAT16 ? tile_for<BFLOAT16>(rows, panels)
                                              : tile_for<FLOAT32>(rows, panels);
        run(m, panel, x, row + start, out);
        for (int p = 0; p < panels; p++)
            for (int t = 0; t < rows; t++) put(panel + p, row + start + t, out[p * rows + t]);
    };
    // All rows before the next panels, which are on their way meanwhile; with many rows all panels
    // of a few, because each row's outputs lie in memory pages of their own.
    if (parts <= 4)
        for (int panel = first, panels; panel < last; panel += panels) {
            panels = panel + width > last ? 1 : width;
            for (int i = 0; i < parts; i++) part(panel, panels, share(i), share(i + 1) - share(i));
        }
    else
        for (int i = 0; i < parts; i++)
            for (int panel = first, panels; panel < last; panel += panels) {
                panels = panel + width > last ? 1 : width;
                part(panel, panels, share(i), share(i + 1) - share(i));
            }
}

}  // namespace STRETTO_ISA
