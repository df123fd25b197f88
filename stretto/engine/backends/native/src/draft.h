// Drafting: rows that the first layers and an exit head expect to follow, read one after the other.
//
// Each session's answers become the cells of its next row, which the same layers read. A session
// stops at a row that is not likely enough, at one in which a stream ends, or when it has enough.
#pragma once

#include "decoder.h"

// Letters besides those of a pass: Q queries of the first pass, R rows at most.
extern "C" struct StrettoDraft {
    StrettoPass pass;  // the first; its logits (Q, K), tokens and shares (Q) are room to work in
    int32_t rows, table_kind, vocab;  // R; 0 float32, 1 bfloat16, 2 half precision; V
    const void* table;                // (V, D) embeddings of tokens
    const float *special, *streams;   // (2, D) of silence and end, added to all (S, D)
    const float *cos, *sin;           // (rows there may be, E)
    const int32_t* asked;             // (B + 1): where a session's queries begin
    const int32_t* query_streams;     // (Q): in the model's inventory
    const int32_t* most;              // (B): rows of a session at most
    double confidence;                // how likely a session's rows have to be, together
    // Results.
    int64_t* tokens;   // (R, Q)
    float* shares;     // (R, Q): how likely they are
    int32_t* places;   // (R, Q): where in `hidden` the cell is, -1 if it was not read
    int32_t* drafted;  // (B): rows
    float* hidden;     // (N + what is read, D): after the last layer, pass by pass
};

namespace STRETTO_ISA {

class Drafting {
  public:
    Drafting(Decoder& decoder, const StrettoDraft& draft) : decoder_(decoder), d_(draft), pass_(draft.pass) {
        const StrettoPass& p = draft.pass;
        for (int b = 0; b < p.sessions; b++) {
            int row = 0;
            for (int n = p.first[b]; n < p.first[b + 1]; n++) row = std::max(row, p.rows[n]);
            sessions_.push_back({b, row, p.length[b], 1.0});
            d_.drafted[b] = 0;
        }
        std::fill(d_.places, d_.places + (size_t)d_.rows * p.queries, -1);
    }

    void run() {
        for (int step = 0;; step++) {
            pass_.hidden = d_.hidden + (size_t)read_ * decoder_.sizes().hidden;
            decoder_.forward(pass_);
            read_ += pass_.cells;
            keep_rows(step);
            if (sessions_.empty()) return;
            next_pass(step);
        }
    }

  private:
    struct Session {
        int index, row, length;
        double chance;
    };

    // Notes the answers; only sessions that read them too stay.
    void keep_rows(int step) {
        std::vector<Session> stay;
        int q = 0;
        for (Session& session : sessions_) {
            const int b = session.index, first = d_.asked[b], number = d_.asked[b + 1] - first, begin = q;
            q += number;
            if (!number || step >= d_.most[b]) continue;
            for (int i = begin; i < q; i++) session.chance *= pass_.shares[i];
            if (!(session.chance >= d_.confidence)) continue;  // also what is no number
            const size_t at = (size_t)step * d_.pass.queries + first;
            std::copy(pass_.tokens + begin, pass_.tokens + q, d_.tokens + at);
            std::copy(pass_.shares + begin, pass_.shares + q, d_.shares + at);
            d_.drafted[b] = step + 1;
            const bool ends = std::count(pass_.tokens + begin, pass_.tokens + q, (int64_t)d_.vocab + 1);
            if (!ends && step + 1 < d_.most[b]) stay.push_back(session);
        }
        sessions_ = stay;
    }

    // The cells of row `step`, each session's visible ones first.
    void next_pass(int step) {
        const int hidden = decoder_.sizes().hidden, size = decoder_.sizes().head_size;
        rows_.clear(), slots_.clear(), old_.clear(), length_.clear(), select_.clear();
        embeds_.clear(), cos_.clear(), sin_.clear(), line_rows_.clear(), blocks_.clear();
        first_.assign(1, 0);
        for (Session& session : sessions_) {
            const int b = session.index, row = ++session.row, queries = (int)select_.size();
            old_.push_back(session.length);
            select_.resize(queries + d_.asked[b + 1] - d_.asked[b]);
            for (const bool silent : {false, true})
                for (int i = 0; i < d_.asked[b + 1] - d_.asked[b]; i++) {
                    const int q = d_.asked[b] + i;
                    const size_t at = (size_t)step * d_.pass.queries + q;
                    if ((d_.tokens[at] == d_.vocab) != silent) continue;
                    d_.places[at] = read_ + (int)rows_.size();
                    select_[queries + i] = (int)rows_.size();
                    rows_.push_back(row);
                    if (!silent) d_.pass.line_rows[b][session.length] = row;
                    slots_.push_back(silent ? -1 : session.length++);
                    embeds_.resize(embeds_.size() + hidden);
                    embed(d_.tokens[at], d_.query_streams[q], embeds_.data() + embeds_.size() - hidden);
                    cos_.insert(cos_.end(), d_.cos + (size_t)row * size, d_.cos + (size_t)(row + 1) * size);
                    sin_.insert(sin_.end(), d_.sin + (size_t)row * size, d_.sin + (size_t)(row + 1) * size);
                }
            first_.push_back((int)rows_.size());
            length_.push_back(session.length);
            line_rows_.push_back(d_.pass.line_rows[b]);
            blocks_.push_back(d_.pass.blocks[b]);
        }
        pass_.cells = (int)rows_.size(), pass_.sessions = (int)sessions_.size(), pass_.queries = (int)select_.size();
        pass_.embeds = embeds_.data(), pass_.cos = cos_.data(), pass_.sin = sin_.data();
        pass_.rows = rows_.data(), pass_.slots = slots_.data(), pass_.first = first_.data();
        pass_.old = old_.data(), pass_.length = length_.data(), pass_.select = select_.data();
        pass_.line_rows = line_rows_.data(), pass_.blocks = blocks_.data();
    }

    // As `embed` of inputs.py.
    void embed(int64_t token, int stream, float* to) const {
        const int hidden = decoder_.sizes().hidden;
        const float* added = d_.streams + (size_t)stream * hidden;
        const size_t at = (size_t)token * hidden;
        auto fill = [&](auto value) {
            for (int i = 0; i < hidden; i++) to[i] = value(i) + added[i];
        };
        if (token >= d_.vocab) {
            const float* own = d_.special + (size_t)(token - d_.vocab) * hidden;
            fill([&](int i) { return own[i]; });
        } else if (d_.table_kind == 0) {
            fill([&](int i) { return ((const float*)d_.table)[at + i]; });
        } else if (d_.table_kind == 1) {
            fill([&](int i) {
                const uint32_t bits = (uint32_t)((const uint16_t*)d_.table)[at + i] << 16;
                float x;
                std::memcpy(&x, &bits, 4);
                return x;
            });
        } else {
            fill([&](int i) { return _cvtsh_ss(((const uint16_t*)d_.table)[at + i]); });
        }
    }

    Decoder& decoder_;
    StrettoDraft d_;
    StrettoPass pass_;
    int read_ = 0;
    std::vector<Session> sessions_;
    std::vector<int32_t> rows_, slots_, first_, old_, length_, select_;
    std::vector<float> embeds_, cos_, sin_;
    std::vector<int32_t*> line_rows_;
    std::vector<uint8_t* const*> blocks_;
};

}  // namespace STRETTO_ISA
