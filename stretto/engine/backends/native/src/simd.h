// Vectors of 16 numbers, whatever the processor: GCC and Clang split them where registers are
// narrower. Only what vector extensions cannot say is written in intrinsics.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace STRETTO_ISA {

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
constexpr int LANES = 16;

// Not 0 + x: that is an addition, for -0 becomes 0 by it.
inline Floats all(float x) { return x - Floats{}; }
inline Ints all(int32_t x) { return x - Ints{}; }
inline void ahead(const void* p) { __builtin_prefetch(p, 0, 3); }

template <class V, class T>
inline V load(const T* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

template <class V, class T>
inline void store(T* p, V v) {
    std::memcpy(p, &v, sizeof v);
}

inline Floats to_floats(Ints x) { return __builtin_convertvector(x, Floats); }

inline Floats fma(Floats a, Floats b, Floats c) {
#ifdef __AVX512F__
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    return a * b + c;  // contracted: see the flags of the build
#endif
}

// IEEE half precision and bfloat16 to float.
inline Floats load_half(const uint16_t* p) {
#ifdef __AVX512F__
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#else
    __m256 parts[2] = {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
                       _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p + 1))};
    return load<Floats>(parts);
#endif
}

inline Floats load_bfloat(const uint16_t* p) {
    return (Floats)(__builtin_convertvector(load<Halves>(p), Words) << 16);
}

inline void store_half(uint16_t* p, Floats x) {
    __m256 parts[2];
    store(parts, x);
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(parts[0], _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i*)p + 1, _mm256_cvtps_ph(parts[1], _MM_FROUND_TO_NEAREST_INT));
}

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

constexpr Ints LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Each lane gets that of the lane S apart.
template <int S, class V>
inline V across(V x) {
#ifdef __clang__
    return __builtin_shufflevector(x, x, 0 ^ S, 1 ^ S, 2 ^ S, 3 ^ S, 4 ^ S, 5 ^ S, 6 ^ S, 7 ^ S, 8 ^ S, 9 ^ S,
                                   10 ^ S, 11 ^ S, 12 ^ S, 13 ^ S, 14 ^ S, 15 ^ S);
#else
    return __builtin_shuffle(x, LANE ^ S);
#endif
}

// All lanes joined into one, halves first.
template <class V, class Join>
inline V fold(V x, Join join) {
    x = join(x, across<8>(x));
    x = join(x, across<4>(x));
    x = join(x, across<2>(x));
    return join(x, across<1>(x));
}

inline float sum(Floats x) {
    return fold(x, [](Floats a, Floats b) { return a + b; })[0];
}

inline float largest(Floats x) { return fold(x, larger)[0]; }

// One stage of a Hadamard transform within 16 numbers: sums and differences of lanes S apart.
template <int S>
inline Floats stage(Floats x) {
    const Floats other = across<S>(x);
    return other + ((LANE & S) ? -x : x);
}

// Turns 64 numbers by the orthonormal Hadamard matrix, which spreads what one of them has over all:
// products of two such vectors stay what they were, and 8 bits lose less of either.
inline void spread(float* x) {
    Floats v[4];
    for (int i = 0; i < 4; i++)
        v[i] = stage<8>(stage<4>(stage<2>(stage<1>(load<Floats>(x + i * LANES)))));
    const Floats a = v[0] + v[1], b = v[0] - v[1], c = v[2] + v[3], d = v[2] - v[3];
    const Floats eighth = all(0.125f);
    store(x, (a + c) * eighth);
    store(x + LANES, (b + d) * eighth);
    store(x + 2 * LANES, (a - c) * eighth);
    store(x + 3 * LANES, (b - d) * eighth);
}

// e^x to about 2e-7 of its size: x = n ln 2 + r, and a polynomial in r.
inline Floats exponential(Floats x) {
    x = larger(x, all(-87.0f));
    x = x < all(88.0f) ? x : all(88.0f);
    const Floats magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    Floats shifted = fma(x, all(1.44269504f), magic);
    Floats n = shifted - magic;
    Floats r = fma(n, all(-0.693145752f), x);
    r = fma(n, all(-1.42860677e-6f), r);
    Floats p = all(1.0f / 720);
    p = fma(p, r, all(1.0f / 120));
    p = fma(p, r, all(1.0f / 24));
    p = fma(p, r, all(1.0f / 6));
    p = fma(p, r, all(0.5f));
    p = fma(p, r, all(1.0f));
    p = fma(p, r, all(1.0f));
    return p * (Floats)(((Ints)shifted + 127) << 23);
}

// Writes those of 16 numbers that are no less than a bound side by side, and their places, the first
// of which is given; how many they are. Behind them it may write too, 16 numbers of each at most.
inline int squeeze(const float* x, float bound, int32_t first, float* to_x, int32_t* to_places) {
#ifdef __AVX512F__
    const __m512 all_x = _mm512_loadu_ps(x);
    const __mmask16 mask = _mm512_cmp_ps_mask(all_x, _mm512_set1_ps(bound), _CMP_GE_OQ);
    _mm512_storeu_ps(to_x, _mm512_maskz_compress_ps(mask, all_x));
    _mm512_storeu_si512(to_places, _mm512_maskz_compress_epi32(mask, (__m512i)(LANE + first)));
    return __builtin_popcount(mask);
#else
    const __m256 bounds = _mm256_set1_ps(bound);
    int mask = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x), bounds, _CMP_GE_OQ));
    mask |= _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + 8), bounds, _CMP_GE_OQ)) << 8;
    int number = 0;
    for (; mask; mask &= mask - 1, number++) {
        const int i = __builtin_ctz(mask);
        to_x[number] = x[i], to_places[number] = first + i;
    }
    return number;
#endif
}

// 16 sums of four products each: lanes += weights (as unsigned, 128 too large) * four bytes.
// The AVX-512 form leaves the 128 in; `OFFSET` says so.
#ifdef __AVX512VNNI__
constexpr bool OFFSET = true;
inline Ints dot4(Ints lanes, const uint8_t* weights, int32_t four) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)lanes, _mm512_loadu_si512(weights),
                                     _mm512_set1_epi32(four));
}
#else
constexpr bool OFFSET = false;
inline Ints dot4(Ints lanes, const uint8_t* weights, int32_t four) {
    const __m256i bytes = _mm256_set1_epi32(four), size = _mm256_abs_epi8(bytes);
    __m256i out[2];
    store(out, lanes);
    for (int half = 0; half < 2; half++) {
        __m256i w = _mm256_loadu_si256((const __m256i*)weights + half);
        w = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
        // At most 2 * 127 * 127: no sum of two saturates.
        __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(w, bytes));
        out[half] = _mm256_add_epi32(out[half], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return load<Ints>(out);
}
#endif

}  // namespace STRETTO_ISA
