// One forward pass of a decoder of the Llama family over the cells of many sessions.
//
// A pass may run only some of the layers: what goes in is then what comes out of the ones before,
// and queries are answered by the exit head of the layer where it stops.
//
// Letters: N cells of the pass, D hidden, H query heads, G key heads, E size of a head, M inner
// size of the MLP, Q queries, K tokens that an answer is one of: V, or an exit head's shortlist.
#pragma once

#include <algorithm>
#include <vector>

#include "attention.h"
#include "exit.h"
#include "team.h"

// What the caller hands over; Python knows these by ctypes, so only plain types.
extern "C" {
struct StrettoSizes {
    int32_t layers, hidden, heads, kv_heads, head_size, inner, outputs, kind, strict, window;
    float eps, scale;
};
struct StrettoLayer {
    const float *norm_attention, *qkv, *qkv_bias, *norm_query, *norm_key, *out, *out_bias, *norm_mlp,
        *gate_up, *gate_up_bias, *down, *down_bias;
};
struct StrettoPass {
    int32_t cells, sessions, queries, from, to;  // layers `from` to `to`, the latter not included
    const float *embeds, *cos, *sin;  // (N, D) into the first of them, (N, E), (N, E)
    const int32_t* rows;              // (N)
    const int32_t* slots;             // (N): place in the line, or -1 for a cell that leaves no key
    const int32_t* first;             // (B + 1): where a session's cells begin
    const int32_t* old;               // (B): cells cached before
    const int32_t* length;            // (B): cells cached after
    int32_t* const* line_rows;        // (B): rows of the line's cells, room for whole blocks
    uint8_t* const* const* blocks;    // (B): blocks of the line
    const int32_t* select;            // (Q)
    float* logits;                    // (Q, K)
    float* hidden;                    // (N, D) out of the last of them, or null
    int64_t* tokens;                  // (Q) the likeliest of an exit head, lowest of equals, or null
    float* shares;                    // (Q) how likely they are
};
}

namespace STRETTO_ISA {

struct Layer {
    std::vector<float> norm_attention, norm_query, norm_key, norm_mlp;
    Matrix qkv, out, gate, up, down;
};

constexpr int MOST_SIZE = 1024;  // of a head; Python refuses more

class Decoder {
  public:
    using Team = stretto::Team;

    Decoder(const StrettoSizes& sizes, int threads)
        : s_(sizes), padded_size_(round_up(sizes.head_size, LANES)), layers_(sizes.layers),
          exits_(sizes.layers), team_(threads, sizes.layers * 10 + 8) {}

    void set_layer(int index, const StrettoLayer& from) {
        Layer& layer = layers_[index];
        auto copied = [](const float* p, int n) { return p ? std::vector<float>(p, p + n) : std::vector<float>(); };
        layer.norm_attention = copied(from.norm_attention, s_.hidden);
        layer.norm_mlp = copied(from.norm_mlp, s_.hidden);
        layer.norm_query = copied(from.norm_query, s_.head_size);
        layer.norm_key = copied(from.norm_key, s_.head_size);
        const int query = s_.heads * s_.head_size, width = query + 2 * s_.kv_heads * s_.head_size;
        pack(layer.qkv, s_.kind, width, s_.hidden, from.qkv, from.qkv_bias);
        pack(layer.out, s_.kind, s_.hidden, query, from.out, from.out_bias);
        const float* up_bias = from.gate_up_bias ? from.gate_up_bias + s_.inner : nullptr;
        pack(layer.gate, s_.kind, s_.inner, s_.hidden, from.gate_up, from.gate_up_bias);
        pack(layer.up, s_.kind, s_.inner, s_.hidden, from.gate_up + (size_t)s_.inner * s_.hidden, up_bias);
        pack(layer.down, s_.kind, s_.hidden, s_.inner, from.down, from.down_bias);
    }

    void set_head(const float* norm, const float* unembed, const float* bias) {
        norm_.assign(norm, norm + s_.hidden);
        pack(unembed_, s_.kind, s_.outputs, s_.hidden, unembed, bias);
    }

    void set_exit(int layer, const StrettoExit& from) { exits_[layer].set(s_.kind, s_.hidden, from); }

    const StrettoSizes& sizes() const { return s_; }
    int exit_size(int layer) const { return exits_[layer].unembed.outputs; }

    int64_t weight_bytes() const {
        size_t total = unembed_.bytes();
        for (const Layer& l : layers_)
            total += l.qkv.bytes() + l.out.bytes() + l.gate.bytes() + l.up.bytes() + l.down.bytes();
        return (int64_t)total;
    }

    int64_t block_bytes() const {
        return (int64_t)s_.layers * s_.kv_heads * 2 * BLOCK * padded_size_ * cache_item();
    }

    void forward(const StrettoPass& pass) {
        pass_ = pass;
        reserve();
        cells_.store(pass.cells, std::memory_order_relaxed);
        asked_.store(pass.queries, std::memory_order_relaxed);
        spans_in_pass_.store((int)jobs_.size(), std::memory_order_relaxed);
        from_.store(pass.from, std::memory_order_relaxed);
        to_.store(pass.to, std::memory_order_relaxed);
        team_.run(task_);
        if (pass.hidden) std::memcpy(pass.hidden, hidden(0), (size_t)pass.cells * s_.hidden * sizeof(float));
    }

    Team& team() { return team_; }

  private:
    struct Job {
        int session, head, start;
    };

    int cache_item() const { return s_.kind == FLOAT32 ? 4 : 2; }
    int qkv_width() const { return (s_.heads + 2 * s_.kv_heads) * s_.head_size; }

    // Room for the pass, and the jobs of attention.
    void reserve() {
        const StrettoPass& p = pass_;
        if (p.cells > room_) {
            const int n = std::max(p.cells, room_ + room_ / 2);
            hidden_ = buffer<float>((size_t)n * s_.hidden);
            qkv_ = buffer<float>((size_t)n * round_up(qkv_width(), LANES));
            queries_ = buffer<float>((size_t)n * s_.heads * padded_size_);
            normed_.resize(n, s_.hidden, s_.kind);
            mixed_.resize(n, s_.heads * s_.head_size, s_.kind);
            attended_ = buffer<float>((size_t)n * mixed_.padded);
            inner_.resize(n, s_.inner, s_.kind);
            chosen_.resize(n, s_.hidden, s_.kind);
            room_ = n;
        }
        if (p.queries > room_) {  // a cell may be asked more than once
            chosen_.resize(p.queries, s_.hidden, s_.kind);
        }
        if (p.to < s_.layers) exits_[p.to].reserve(s_.kind, s_.hidden, p.queries);
        jobs_.clear();
        spans_.assign(p.sessions + 1, 0);
        for (int b = 0; b < p.sessions; b++) {
            const int number = p.first[b + 1] - p.first[b];
            const int spans = (p.length[b] + SPAN - 1) / SPAN;
            spans_[b + 1] = spans_[b] + (size_t)number * s_.heads * spans;
            for (int start = 0; start < p.length[b]; start += SPAN)
                for (int head = 0; head < s_.kv_heads; head++) jobs_.push_back({b, head, start});
        }
        const size_t needed = spans_[p.sessions] * (padded_size_ + 2);
        if (needed > partial_room_) {
            partial_ = buffer<float>(needed + needed / 2);
            partial_room_ = needed + needed / 2;
        }
    }

    // Every thread comes by here; false at any phase means that the run is over.
    void program(Team& team, Team::Place place) {
        // Atomics: a thread that comes late reads them while the next pass is prepared.
        const int cells = cells_.load(std::memory_order_relaxed), asked = asked_.load(std::memory_order_relaxed);
        const int jobs = spans_in_pass_.load(std::memory_order_relaxed);
        const int from = from_.load(std::memory_order_relaxed), to = to_.load(std::memory_order_relaxed);
        int at = 0;
        if (!team.phase(place, at++, cells, [&](int n) {
                std::memcpy(hidden(n), pass_.embeds + (size_t)n * s_.hidden, s_.hidden * sizeof(float));
                norm(hidden(n), layers_[from].norm_attention.data(), normed_, n);
            }))
            return;
        for (int i = from; i < to; i++) {
            const Layer& layer = layers_[i];
            if (i > from && !team.phase(place, at++, cells, [&](int n) {
                    norm(hidden(n), layer.norm_attention.data(), normed_, n);
                }))
                return;
            if (!split(team, place, at++, layer.qkv, normed_, cells, [&](int panel, int n, Floats x) {
                    store(qkv(n) + panel * LANES, x);
                }))
                return;
            if (!team.phase(place, at++, cells, [&](int n) { put_in_place(i, layer, n); })) return;
            if (!team.phase(place, at++, jobs, [&](int j) { attend(i, jobs_[j]); })) return;
            if (!team.phase(place, at++, cells, [&](int n) { merge(n); })) return;
            if (!split(team, place, at++, layer.out, mixed_, cells, [&](int panel, int n, Floats x) {
                    add(hidden(n), panel, x);
                }))
                return;
            if (!team.phase(place, at++, cells, [&](int n) { norm(hidden(n), layer.norm_mlp.data(), normed_, n); }))
                return;
            if (!team.phase(place, at++, round_up(s_.inner, GROUP) / GROUP, [&](int g) {
                    gate(layer.gate, layer.up, normed_, inner_, g, cells);
                }))
                return;
            if (!split(team, place, at++, layer.down, inner_, cells, [&](int panel, int n, Floats x) {
                    add(hidden(n), panel, x);
                }))
                return;
        }
        if (to < s_.layers) return leave(team, place, at, exits_[to], asked);
        if (!team.phase(place, at++, asked, [&](int q) {
                norm(hidden(pass_.select[q]), norm_.data(), chosen_, q);
            }))
            return;
        if (asked) unembed(team, place, at++, unembed_, asked);
    }

    // An exit head's answers; what goes on to the next layers stays as it is.
    void leave(Team& team, Team::Place place, int at, Exit& exit, int asked) {
        if (!asked) return;
        if (!team.phase(place, at++, asked, [&](int q) {
                std::memcpy(exit.state(q), hidden(pass_.select[q]), s_.hidden * sizeof(float));
                norm(exit.state(q), (exit.inner ? exit.norm_in : exit.norm).data(), chosen_, q);
            }))
            return;
        if (exit.inner) {
            if (!team.phase(place, at++, round_up(exit.inner, GROUP) / GROUP, [&](int g) {
                    gate(exit.gate, exit.up, chosen_, exit.between, g, asked);
                }))
                return;
            if (!split(team, place, at++, exit.down, exit.between, asked, [&](int panel, int q, Floats x) {
                    add(exit.state(q), panel, x);
                }))
                return;
            if (!team.phase(place, at++, asked, [&](int q) { norm(exit.state(q), exit.norm.data(), chosen_, q); }))
                return;
        }
        if (!unembed(team, place, at++, exit.unembed, asked)) return;
        team.phase(place, at++, asked, [&](int q) {
            if (!pass_.tokens) return;
            const int found = likeliest(pass_.logits + (size_t)q * exit.unembed.outputs, exit.unembed.outputs,
                                        pass_.shares[q]);
            pass_.tokens[q] = exit.ids[found];
        });
    }

    bool unembed(Team& team, Team::Place place, int at, const Matrix& matrix, int asked) {
        return split<16>(team, place, at, matrix, chosen_, asked, [&](int panel, int q, Floats x) {
            float* out = pass_.logits + (size_t)q * matrix.outputs + panel * LANES;
            if ((panel + 1) * LANES <= matrix.outputs)
                store(out, x);
            else
                for (int lane = 0; lane < matrix.outputs - panel * LANES; lane++) out[lane] = x[lane];
        });
    }

    // Jobs of some ten microseconds: long against handing them out, short against the phase.
    template <int PANELS = 4, class Put>
    bool split(Team& team, Team::Place place, int at, const Matrix& m, const Rows& x, int n, Put put) {
        if (!n) return true;
        return team.phase(place, at, (m.panels + PANELS - 1) / PANELS, [&](int j) {
            multiply(m, j * PANELS, std::min(m.panels, (j + 1) * PANELS), x, 0, n, put);
        });
    }

    float* hidden(int n) { return hidden_.get() + (size_t)n * s_.hidden; }
    float* qkv(int n) { return qkv_.get() + (size_t)n * round_up(qkv_width(), LANES); }
    float* query(int n, int head) { return queries_.get() + ((size_t)n * s_.heads + head) * padded_size_; }

    void add(float* row, int panel, Floats x) const {
        float* to = row + panel * LANES;
        if ((panel + 1) * LANES <= s_.hidden)
            store(to, load<Floats>(to) + x);
        else
            for (int lane = 0; lane < s_.hidden - panel * LANES; lane++) to[lane] += x[lane];
    }

    float inverse_rms(const float* x, int n) const {
        Floats squares = all(0.0f);
        int i = 0;
        for (; i + LANES <= n; i += LANES) {
            const Floats v = load<Floats>(x + i);
            squares = fma(v, v, squares);
        }
        float total = sum(squares);
        for (; i < n; i++) total += x[i] * x[i];
        return 1 / std::sqrt(total / n + s_.eps);
    }

    void norm(const float* x, const float* weight, Rows& to, int row) const {
        const float scale = inverse_rms(x, s_.hidden);
        alignas(64) float group[GROUP];
        for (int start = 0; start < s_.hidden; start += GROUP) {
            const int number = std::min(GROUP, s_.hidden - start);
            for (int i = 0; i < number; i++) group[i] = x[start + i] * scale * weight[start + i];
            for (int i = number; i < GROUP; i++) group[i] = 0;
            to.put(s_.kind, row, start / GROUP, group);
        }
    }

    // Norms and turns a head in place; `scale` 1 for keys.
    void turn(float* __restrict x, const std::vector<float>& weight, int n, float scale) const {
        const int half = s_.head_size / 2;
        if (!weight.empty()) {
            const float inverse = inverse_rms(x, s_.head_size);
            for (int i = 0; i < s_.head_size; i++) x[i] = x[i] * inverse * weight[i];
        }
        const float* __restrict cos = pass_.cos + (size_t)n * s_.head_size;
        const float* __restrict sin = pass_.sin + (size_t)n * s_.head_size;
        for (int i = 0; i < half; i++) {
            const float a = x[i], b = x[i + half];
            x[i] = (a * cos[i] - b * sin[i]) * scale;
            x[i + half] = (b * cos[i + half] + a * sin[i + half]) * scale;
        }
    }

    size_t offset(int layer, int head) const {
        return ((size_t)layer * s_.kv_heads + head) * 2 * BLOCK * padded_size_ * cache_item();
    }

    int session_of(int n) const {
        return (int)(std::upper_bound(pass_.first, pass_.first + pass_.sessions, n) - pass_.first) - 1;
    }

    // Queries and keys get their positions; keys and values that stay go into the line.
    void put_in_place(int index, const Layer& layer, int n) {
        const int size = s_.head_size;
        float* row = qkv(n);
        for (int head = 0; head < s_.heads; head++) {
            turn(row + head * size, layer.norm_query, n, s_.scale);
            std::memcpy(query(n, head), row + head * size, size * sizeof(float));
        }
        const int b = session_of(n), slot = pass_.slots[n];
        alignas(64) float padded[2][MOST_SIZE];
        for (auto& row : padded) std::memset(row, 0, padded_size_ * sizeof(float));
        for (int head = 0; head < s_.kv_heads; head++) {
            float* key = row + (s_.heads + head) * size;
            const float* value = row + (s_.heads + s_.kv_heads + head) * size;
            turn(key, layer.norm_key, n, 1);
            if (slot < 0) continue;
            uint8_t* block = pass_.blocks[b][slot / BLOCK] + offset(index, head);
            std::memcpy(padded[0], key, size * sizeof(float));
            std::memcpy(padded[1], value, size * sizeof(float));
            if (s_.kind == FLOAT32)
                write((float*)block, slot % BLOCK, padded[0], padded[1]);
            else
                write((uint16_t*)block, slot % BLOCK, padded[0], padded[1]);
        }
    }

    template <class T>
    void write(T* block, int cell, const float* key, const float* value) const {
        alignas(64) T turned[LANES];
        for (int e = 0; e < padded_size_; e += LANES) {
            store_cache(turned, load<Floats>(key + e));
            for (int i = 0; i < LANES; i++) block[(size_t)(e + i) * BLOCK + cell] = turned[i];
            store_cache(block + (size_t)BLOCK * padded_size_ + (size_t)cell * padded_size_ + e,
                        load<Floats>(value + e));
        }
    }

    float* partial(int n, int b, int head, int span) {
        const int spans = (pass_.length[b] + SPAN - 1) / SPAN;
        const size_t at = spans_[b] + ((size_t)(n - pass_.first[b]) * s_.heads + head) * spans + span;
        return partial_.get() + at * (padded_size_ + 2);
    }

    void attend(int layer, const Job& job) {
        const StrettoPass& p = pass_;
        const int b = job.session, group = s_.heads / s_.kv_heads;
        const Keys keys = {p.blocks[b], offset(layer, job.head), p.line_rows[b], p.length[b], p.old[b], padded_size_};
        const Rule rule = {s_.strict, s_.window};
        const int total = (p.first[b + 1] - p.first[b]) * group;
        for (int done = 0; done < total;) {
            const float* queries[QUERIES];
            float* partials[QUERIES];
            int rows[QUERIES], cells[QUERIES];
            const int number = std::min(QUERIES, total - done);
            for (int i = 0; i < number; i++) {
                const int n = p.first[b] + (done + i) / group, head = job.head * group + (done + i) % group;
                queries[i] = query(n, head);
                rows[i] = p.rows[n];
                cells[i] = p.slots[n];
                partials[i] = partial(n, b, head, job.start / SPAN);
            }
            if (s_.kind == FLOAT32)
                span_of<float>(number, keys, rule, job.start, queries, rows, cells, partials);
            else
                span_of<uint16_t>(number, keys, rule, job.start, queries, rows, cells, partials);
            done += number;
        }
    }

    // Joins what the spans found, and what a cell that leaves no key sees of itself.
    void merge(int n) {
        const int b = session_of(n), size = s_.head_size, group = s_.heads / s_.kv_heads;
        const int spans = (pass_.length[b] + SPAN - 1) / SPAN;
        const bool alone = pass_.slots[n] < 0;
        float* row = attended_.get() + (size_t)n * mixed_.padded;
        for (int head = 0; head < s_.heads; head++) {
            const float* key = qkv(n) + (s_.heads + head / group) * size;
            const float* value = key + s_.kv_heads * size;
            const float* q = query(n, head);
            float* out = row + head * size;
            float own = HIDDEN;
            if (alone) {
                own = 0;
                for (int e = 0; e < size; e++) own += q[e] * key[e];
            }
            float most = own, total = 0;
            for (int i = 0; i < spans; i++) most = std::max(most, partial(n, b, head, i)[0]);
            for (int e = 0; e < size; e++) out[e] = 0;
            auto join = [&](float score, float weights, const float* from) {
                const float weight = exponential(all(score - most))[0];
                total += weight * weights;
                for (int e = 0; e < size; e++) out[e] += weight * from[e];
            };
            for (int i = 0; i < spans; i++) {
                const float* part = partial(n, b, head, i);
                join(part[0], part[1], part + 2);
            }
            if (alone) join(own, 1, value);
            const float inverse = 1 / total;
            for (int e = 0; e < size; e++) out[e] *= inverse;
        }
        // What was there was spread: the padding is no longer zero.
        std::fill(row + s_.heads * size, row + mixed_.padded, 0.0f);
        for (int g = 0; g < mixed_.padded / GROUP; g++) mixed_.put(s_.kind, n, g, row + g * GROUP);
    }

    // One group of the MLP's inner numbers: silu(gate) * up, ready for the next product.
    void gate(const Matrix& gate, const Matrix& up, const Rows& from, Rows& to, int g, int cells) const {
        constexpr int PANELS = GROUP / LANES, MOST = 48;
        const int first = g * PANELS, last = std::min(first + PANELS, gate.panels);
        alignas(64) float gates[MOST][GROUP], ups[MOST][GROUP];
        for (int start = 0; start < cells; start += MOST) {
            const int number = std::min(MOST, cells - start);
            if (last - first < PANELS) std::memset(gates, 0, sizeof gates), std::memset(ups, 0, sizeof ups);
            multiply(gate, first, last, from, start, number, [&](int panel, int n, Floats x) {
                store(gates[n - start] + (panel - first) * LANES, x);
            });
            multiply(up, first, last, from, start, number, [&](int panel, int n, Floats x) {
                store(ups[n - start] + (panel - first) * LANES, x);
            });
            for (int n = 0; n < number; n++) {
                for (int i = 0; i < GROUP; i += LANES) {
                    const Floats x = load<Floats>(gates[n] + i);
                    store(gates[n] + i, x / (all(1.0f) + exponential(-x)) * load<Floats>(ups[n] + i));
                }
                to.put(s_.kind, start + n, g, gates[n]);
            }
        }
    }

    StrettoSizes s_;
    int padded_size_, room_ = 0;
    size_t partial_room_ = 0;
    std::vector<Layer> layers_;
    std::vector<float> norm_;
    Matrix unembed_;
    std::vector<Exit> exits_;  // by the number of layers before it
    StrettoPass pass_ = {};
    Buffer<float> hidden_, qkv_, queries_, partial_, attended_;
    Rows normed_, mixed_, inner_, chosen_;
    std::vector<Job> jobs_;
    std::vector<size_t> spans_;
    std::atomic<int> cells_{0}, asked_{0}, spans_in_pass_{0}, from_{0}, to_{0};
    const Team::Task task_ = {
        [](Team& team, Team::Place place, void* self) { ((Decoder*)self)->program(team, place); }, this};
    Team team_;
};

}  // namespace STRETTO_ISA
