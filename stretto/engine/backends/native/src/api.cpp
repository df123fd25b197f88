// The library's doors. One is built for each kind of processor; Python opens the one that fits.
// What may run out of memory returns 0 (or null) when it has, for no exception may leave here.
#include <chrono>
#include <cstdlib>

#include "choose.h"
#include "decoder.h"
#include "draft.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace STRETTO_ISA;

// Reads a buffer once: the machine's side of the roofline.
struct Reading {
    const float* data;
    std::atomic<int> pieces;
    std::atomic<float> total;
    static constexpr int64_t PIECE = 16384;

    static void program(stretto::Team& team, stretto::Team::Place place, void* context) {
        Reading& self = *(Reading*)context;
        team.phase(place, 0, self.pieces, [&](int i) {
            Floats sums[4] = {};
            const float* p = self.data + i * PIECE;
            for (int64_t k = 0; k < PIECE; k += 4 * LANES)
                for (int j = 0; j < 4; j++) sums[j] += load<Floats>(p + k + j * LANES);
            const float all = sum(sums[0] + sums[1] + sums[2] + sums[3]);
            if (all == 12345.678f) self.total = all;  // or nothing would have to be read
        });
    }
};

struct Handle {
    Choosing choosing;
    Reading reading;
    const stretto::Team::Task choose = {Choosing::program, &choosing}, read = {Reading::program, &reading};
    Decoder decoder;  // last, so that its threads are gone before what they look at

    Handle(const StrettoSizes& sizes, int threads) : choosing(threads), reading(), decoder(sizes, threads) {}
};

Handle& of(void* handle) { return *(Handle*)handle; }

template <class Work>
int worked(Work work) {
    try {
        work();
        return 1;
    } catch (const std::bad_alloc&) {
        return 0;
    }
}

}  // namespace

EXPORT void* stretto_new(const StrettoSizes* sizes, int threads) {
    void* made = nullptr;
    worked([&] { made = new Handle(*sizes, threads); });
    return made;
}

EXPORT int stretto_set_layer(void* handle, int index, const StrettoLayer* layer) {
    return worked([&] { of(handle).decoder.set_layer(index, *layer); });
}

EXPORT int stretto_set_head(void* handle, const float* norm, const float* unembed, const float* bias) {
    return worked([&] { of(handle).decoder.set_head(norm, unembed, bias); });
}

EXPORT int stretto_set_exit(void* handle, int layer, const StrettoExit* exit) {
    return worked([&] { of(handle).decoder.set_exit(layer, *exit); });
}

EXPORT int64_t stretto_weight_bytes(void* handle) { return of(handle).decoder.weight_bytes(); }

EXPORT int64_t stretto_block_bytes(void* handle) { return of(handle).decoder.block_bytes(); }

EXPORT int stretto_forward(void* handle, const StrettoPass* pass) {
    return worked([&] { of(handle).decoder.forward(*pass); });
}

EXPORT int stretto_draft(void* handle, const StrettoDraft* draft) {
    return worked([&] { Drafting(of(handle).decoder, *draft).run(); });
}

EXPORT int stretto_choose(void* handle, int kind, const StrettoChoice* choice) {
    of(handle).choosing.begin(kind, *choice);
    of(handle).decoder.team().run(of(handle).choose);
    return !of(handle).choosing.no_memory;
}

EXPORT double stretto_read_seconds(void* handle, const float* data, int64_t number) {
    const auto start = std::chrono::steady_clock::now();
    of(handle).reading.data = data;
    of(handle).reading.pieces = (int)(number / Reading::PIECE);
    of(handle).decoder.team().run(of(handle).read);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

EXPORT void stretto_delete(void* handle) { delete &of(handle); }
