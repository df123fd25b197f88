// The library's doors. One is built for each kind of processor; Python opens the one that fits.
#include "decoder.h"

#include <chrono>
#include <cstdlib>

#define EXPORT extern "C" __attribute__((visibility("default")))

using STRETTO_ISA::Decoder;

EXPORT void* stretto_new(const StrettoSizes* sizes, int threads) { return new Decoder(*sizes, threads); }

EXPORT void stretto_set_layer(void* decoder, int index, const StrettoLayer* layer) {
    ((Decoder*)decoder)->set_layer(index, *layer);
}

EXPORT void stretto_set_head(void* decoder, const float* norm, const float* unembed, const float* bias) {
    ((Decoder*)decoder)->set_head(norm, unembed, bias);
}

EXPORT int64_t stretto_weight_bytes(void* decoder) { return ((Decoder*)decoder)->weight_bytes(); }

EXPORT int64_t stretto_block_bytes(void* decoder) { return ((Decoder*)decoder)->block_bytes(); }

EXPORT void stretto_forward(void* decoder, const StrettoPass* pass) { ((Decoder*)decoder)->forward(*pass); }

EXPORT void stretto_delete(void* decoder) { delete (Decoder*)decoder; }

// Seconds in which the decoder's threads read a buffer once: the machine's side of the roofline.
EXPORT double stretto_read_seconds(void* decoder, const float* data, int64_t number) {
    struct Reading {
        const float* data;
        int64_t number;
        std::atomic<float> total;
    } reading = {data, number, {}};
    const auto start = std::chrono::steady_clock::now();
    ((Decoder*)decoder)->team().run(
        [](stretto::Team& team, stretto::Team::Place place, void* context) {
            using namespace STRETTO_ISA;
            Reading& r = *(Reading*)context;
            constexpr int64_t PIECE = 16384;
            const int pieces = (int)(r.number / PIECE);
            team.phase(place, 0, pieces, [&](int i) {
                Floats sums[4] = {};
                const float* p = r.data + i * PIECE;
                for (int64_t k = 0; k < PIECE; k += 4 * LANES)
                    for (int j = 0; j < 4; j++) sums[j] += load<Floats>(p + k + j * LANES);
                const float all = sum(sums[0] + sums[1] + sums[2] + sums[3]);
                if (all == 12345.678f) r.total = all;  // or nothing would have to be read
            });
        },
        &reading);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
