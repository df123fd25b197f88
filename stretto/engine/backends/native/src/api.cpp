// The library's doors. One is built for each kind of processor; Python opens the one that fits.
// What may run out of memory returns 0 (or null) when it has, for no exception may leave here.
#include "decoder.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using STRETTO_ISA::Decoder;

template <class Work>
static int worked(Work work) {
    try {
        work();
        return 1;
    } catch (const std::bad_alloc&) {
        return 0;
    }
}

EXPORT void* stretto_new(const StrettoSizes* sizes, int threads) {
    void* made = nullptr;
    worked([&] { made = new Decoder(*sizes, threads); });
    return made;
}

EXPORT int stretto_set_layer(void* decoder, int index, const StrettoLayer* layer) {
    return worked([&] { ((Decoder*)decoder)->set_layer(index, *layer); });
}

EXPORT int stretto_set_head(void* decoder, const float* norm, const float* unembed, const float* bias) {
    return worked([&] { ((Decoder*)decoder)->set_head(norm, unembed, bias); });
}

EXPORT int64_t stretto_weight_bytes(void* decoder) { return ((Decoder*)decoder)->weight_bytes(); }

EXPORT int64_t stretto_block_bytes(void* decoder) { return ((Decoder*)decoder)->block_bytes(); }

EXPORT int stretto_forward(void* decoder, const StrettoPass* pass) {
    return worked([&] { ((Decoder*)decoder)->forward(*pass); });
}

EXPORT void stretto_delete(void* decoder) { delete (Decoder*)decoder; }

// Seconds in which the decoder's threads read a buffer once: the machine's side of the roofline.
EXPORT double stretto_read_seconds(void* decoder, const float* data, int64_t number) {
    return ((Decoder*)decoder)->read_seconds(data, number);
}
