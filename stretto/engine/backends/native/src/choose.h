// What sampling asks of rows of logits: the likeliest token, or a draw from all or from a nucleus.
#pragma once

#include <atomic>
#include <new>

#include "nucleus.h"
#include "team.h"

namespace STRETTO_ISA {

// The lowest of equals. Of a row where something may be chosen, as what follows.
inline int64_t likeliest(const Row& row) {
    int p = 0;
    while (row.top(p) < row.most) p++;
    const float* x = row.piece(p);
    return p * PIECE + (std::find_if(x, x + PIECE, [&](float x) { return x >= row.most; }) - x);
}

// One token by inverse CDF over all, in the order of ids.
inline int64_t draw(const Row& row, double temperature, double uniform, Room& room) {
    const Scale scale(row.most, temperature);
    const auto weigh = [&](int p, double* out) { return scale.weigh(row.piece(p), out); };
    return draw_from(row.pieces, uniform, room.before, weigh);
}

}  // namespace STRETTO_ISA

// Rows of logits at hand, and how to choose from them; pointers are null where they are not needed.
extern "C" struct StrettoChoice {
    int32_t rows, size;     // queries, V
    const float* logits;    // (rows of all, V)
    const int64_t* which;   // (rows): index of each row
    const double *temperature, *top_k, *top_p, *min_p, *uniforms;  // (rows)
    int64_t* tokens;        // (rows); -1 where nothing may be chosen
};

namespace STRETTO_ISA {

// A choice at work. It must outlive the run: a thread that comes late still looks at it.
struct Choosing {
    int kind;  // 0: the likeliest, 1: a draw from what cuts leave, 2: from all
    StrettoChoice choice;
    std::atomic<int> rows;
    std::atomic<bool> no_memory;
    std::vector<Room> rooms;  // of each thread

    explicit Choosing(int threads) : kind(0), choice(), rows(0), no_memory(false), rooms(threads) {}

    void begin(int wanted, const StrettoChoice& among) {
        kind = wanted, choice = among, rows = among.rows, no_memory = false;
    }

    static void program(stretto::Team& team, stretto::Team::Place place, void* context) {
        Choosing& self = *(Choosing*)context;
        team.phase(place, 0, self.rows, [&](int i) {
            try {
                self.row(i, self.rooms[place.thread]);
            } catch (const std::bad_alloc&) {
                self.no_memory = true;
            }
        });
    }

    Cut cut(int i) const {
        return {choice.temperature[i], choice.top_p[i], choice.min_p[i], (int64_t)choice.top_k[i]};
    }

    void row(int i, Room& room) const {
        const StrettoChoice& c = choice;
        const Row row(c.logits + c.which[i] * c.size, c.size);
        if (row.most == NEVER)
            c.tokens[i] = -1;
        else if (kind == 0)
            c.tokens[i] = likeliest(row);
        else if (kind == 1)
            c.tokens[i] = Nucleus(row, cut(i), room).draw(c.uniforms[i]);
        else
            c.tokens[i] = draw(row, c.temperature[i], c.uniforms[i], room);
    }
};

}  // namespace STRETTO_ISA
