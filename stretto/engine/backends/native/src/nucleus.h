// What top-k, top-p and min-p leave of a row: the same tokens as a full sort, without one.
//
// Tokens rank by their logits, ties by their ids; what is kept ends at one of them. First a bound is
// found below which no token can be kept, and only the tokens above it are looked at. They are
// counted and weighed in bins by how far they are from the largest. Only the bin where the end must
// lie is sorted.
#pragma once

#include <functional>

#include "weigh.h"

namespace STRETTO_ISA {

// What may be drawn of a row: engine/params.py has the words.
struct Cut {
    double temperature, top_p, min_p;
    int64_t top_k;  // 0: all
};

// Tokens that lie in one bin.
struct Bin {
    double weight;
    int64_t tokens;
};

// What a thread looks through rows with; the found tokens are in the order of ids.
struct Room {
    std::vector<float> tops, values;
    std::vector<int32_t> ids, bins;
    std::vector<double> weights, before;
    std::vector<Bin> sums;
    std::vector<std::pair<float, int>> ranked;  // minus the logit, and the place among the found
};

// Of a row where something may be drawn. A room has one at a time.
class Nucleus {
  public:
    Nucleus(const Row& row, const Cut& cut, Room& room)
        : scale_(row.most, cut.temperature), least_(cut.min_p * (1 - ROUNDING)), room_(room) {
        const bool is_counted = cut.top_k > 0 && cut.top_k < row.size, is_shared = cut.top_p < 1;
        float bound = -LARGEST;
        if (is_counted) bound = top_k_bound(row, (int)cut.top_k);
        if (is_shared && !is_counted) {
            // Tokens each less likely than this have together less than what top-p leaves out.
            total_ = total(row);
            bound = logit_of((1 - cut.top_p) * total_ / row.size, cut.temperature);
        }
        // Top-p is a share of all that top-k leaves, even of what min-p takes away.
        if (least_ > 0 && !(is_shared && is_counted))
            bound = std::max(bound, logit_of(least_, cut.temperature));
        find(row, bound);
        if (!is_counted && !is_shared) return;
        fill_bins();
        const int top_k = is_counted ? (int)cut.top_k : row.size;
        if (is_counted) total_ = end_at(top_k, std::numeric_limits<double>::infinity());
        if (is_shared) end_at(top_k, (cut.top_p - ROUNDING) * total_);
    }

    int64_t draw(double uniform) const {
        const auto weigh = [&](int p, double* out) { return kept(p, out); };
        return room_.ids[draw_from(pieces_of(number_), uniform, room_.before, weigh)];
    }

  private:
    static constexpr double ROUNDING = 1e-9;  // engine/rows.py
    // Bins are even in the floating-point bits of a distance: 64 to each doubling from 2^-8 to 2^8
    // temperatures; the first and the last take what is nearer or farther.
    static constexpr int SHIFT = 23 - 6, BINS = 16 * 64, FIRST = (127 - 8) * 64;

    double total(const Row& row) const {
        Doubles sums[2] = {};
        for (int p = 0; p < row.pieces; p++)
            for (int i = 0; i < PIECE; i += DOUBLES)
                sums[i / DOUBLES % 2] += scale_.weights(load<Few>(row.piece(p) + i));
        return sum(sums[0] + sums[1]);
    }

    // The logit that has this weight, or a little less.
    float logit_of(double weight, double temperature) const {
        const double x = scale_.most + temperature * std::log(weight);
        return std::max(std::nextafter((float)std::max(x, -(double)LARGEST), NEVER), -LARGEST);
    }

    // No more than the k-th largest logit: so many pieces have one at least this large.
    float top_k_bound(const Row& row, int top_k) const {
        if (top_k > row.pieces) return -LARGEST;
        std::vector<float>& tops = room_.tops;
        tops.resize(row.pieces);
        for (int p = 0; p < row.pieces; p++) tops[p] = row.top(p);
        std::nth_element(tops.begin(), tops.begin() + top_k - 1, tops.end(), std::greater<float>());
        return std::max(tops[top_k - 1], -LARGEST);
    }

    // The tokens whose logits are no less than this, with their weights.
    void find(const Row& row, float bound) {
        const size_t space = (size_t)row.pieces * PIECE + LANES;
        room_.values.resize(space), room_.ids.resize(space);
        room_.weights.resize(space), room_.bins.resize(space);
        for (int p = 0; p < row.pieces; p++)
            for (int i = 0; i < PIECE; i += LANES)
                number_ += squeeze(row.piece(p) + i, bound, p * PIECE + i, &room_.values[number_],
                                   &room_.ids[number_]);
        const int end = pieces_of(number_) * PIECE;
        for (int i = 0; i < number_; i++) room_.values[i] = std::min(room_.values[i], LARGEST);
        std::fill(room_.values.begin() + number_, room_.values.begin() + end, NEVER);
        for (int i = 0; i < end; i += PIECE) scale_.weigh(&room_.values[i], &room_.weights[i]);
    }

    void fill_bins() {
        // Finite, for 0 times it is 0. Rounding never turns an order round.
        const float cold = (float)std::min(scale_.cold, (double)LARGEST), most = (float)scale_.most;
        for (int i = 0; i < number_; i += LANES) {
            const Floats far = (most - load<Floats>(&room_.values[i])) * cold;
            Ints bin = ((Ints)far >> SHIFT) - FIRST;
            bin = bin > 0 ? bin : Ints{};
            store(&room_.bins[i], bin < BINS - 1 ? bin : all(BINS - 1));
        }
        room_.sums.assign(BINS, Bin{});
        for (int i = 0; i < number_; i++) {
            Bin& bin = room_.sums[room_.bins[i]];
            bin.weight += room_.weights[i], bin.tokens++;
        }
    }

    // Ends what is kept after so many tokens, or after the one whose weight brings the sum to the
    // goal; returns the weight of all before and with the end.
    double end_at(int tokens, double goal) {
        double before = 0;
        int64_t count = 0;
        int b = 0;
        for (; b < BINS; b++) {
            const Bin& bin = room_.sums[b];
            if (count + bin.tokens >= tokens || before + bin.weight >= goal) break;
            before += bin.weight, count += bin.tokens;
        }
        if (b == BINS) return before;
        auto& ranked = room_.ranked;
        ranked.clear();
        for (int i = 0; i < number_; i++)
            if (room_.bins[i] == b) ranked.emplace_back(-room_.values[i], i);
        std::sort(ranked.begin(), ranked.end());
        for (const auto& [minus, i] : ranked) {
            // The likeliest is kept always.
            if (count && (count == tokens || before >= goal)) break;
            end_value_ = -minus, end_place_ = i;
            before += room_.weights[i], count++;
        }
        return before;
    }

    // Weights of a piece of the found tokens, 0 for what is cut; their sum.
    double kept(int p, double* out) const {
        const float* x = &room_.values[p * PIECE];
        const double* weights = &room_.weights[p * PIECE];
        for (int i = 0; i < PIECE; i++) {
            const bool is_in = (x[i] > end_value_) | ((x[i] == end_value_) & (p * PIECE + i <= end_place_));
            out[i] = is_in & (weights[i] >= least_) ? weights[i] : 0.0;
        }
        Doubles sums = {};
        for (int i = 0; i < PIECE; i += DOUBLES) sums += load<Doubles>(out + i);
        return sum(sums);
    }

    const Scale scale_;
    const double least_;  // the smallest weight that min-p leaves
    Room& room_;
    int number_ = 0;  // of tokens found
    double total_ = 0;  // what top-p is a share of
    float end_value_ = NEVER;  // the last token kept: its logit, and its place among the found
    int end_place_ = 0;
};

}  // namespace STRETTO_ISA
