// Philox on a tile of counters. Each counter has a 64-bit lane, in which one multiplication gives both words that a
// round needs of a product. Without this, GCC multiplies 64 by 64 bits there, at three times the cost.
#pragma once
#include <algorithm>
#include <cstdint>

#include "../include/multiversion.h"
#include "../include/philox.h"
#ifdef EDMFAST_HAS_TARGETS
#include <immintrin.h>
#endif

namespace edmfast {

constexpr int64_t kTile = 256;

// The differences between the counters of a tile and its first one.
struct Offsets {
  alignas(64) uint32_t block[kTile], particle[kTile], word[kTile];
};

// The four words of each counter.
struct Bits {
  alignas(64) uint32_t a[kTile], b[kTile], c[kTile], d[kTile];
};

// Memory that is needed after the bits: counter t comes with `bytes` at t * bytes from the start of each stream. Lines
// are fetched one at a time between the rounds, which leave the memory idle; all at once, the fetches would only be
// waited for. Where there are `ancestors`, as many streams again are read through them: the row of counter t lies at
// ancestors[its particle] * row_bytes, and the counter in it at its block * block_bytes.
struct Ahead {
  const char* const* streams = nullptr;
  int64_t count = 0, bytes = 0;
  const int32_t* ancestors = nullptr;
  const char* const* gathered = nullptr;
  int64_t gathered_count = 0, row_bytes = 0, block_bytes = 0;

  // For counters [t, end).
  EDMFAST_HD void fetch(const Offsets& offsets, int64_t t, int64_t end) const {
    for (int64_t s = 0; s < count; ++s) __builtin_prefetch(streams[s] + t * bytes);
    if (ancestors == nullptr) return;
    for (int64_t line = t; line < end; line += 64 / block_bytes) {
      const int64_t at = ancestors[offsets.particle[line]] * row_bytes + offsets.block[line] * block_bytes;
      for (int64_t s = 0; s < gathered_count; ++s) __builtin_prefetch(gathered[s] + at);
    }
  }
};

// The bits of the counters start + offset; c and d only where `pairs` is 2.
#ifdef EDMFAST_HAS_TARGETS

// The intrinsic without a mask makes GCC 12 warn about an undefined variable of its own.
__attribute__((target("avx512f"), always_inline)) inline __m512i multiply_512(__m512i a, __m512i b) {
  return _mm512_maskz_mul_epu32(0xFF, a, b);
}

// Even and odd counters of a vector form two chains, which hide each other's latency. The upper halves of the lanes
// are arbitrary, as a product reads only lower ones. Whole vectors are made, so the last may reach beyond n.
#define EDMFAST_PHILOX_TILE(TARGET, BYTES, VECTOR, MULTIPLY)                                                      \
  __attribute__((target(TARGET))) inline void philox_tile(const Offsets& offsets, Philox4 start, uint64_t seed,   \
                                                          int64_t n, int pairs, const Ahead& ahead, Bits& bits) { \
    typedef uint32_t Words __attribute__((vector_size(BYTES), may_alias));                                        \
    typedef uint64_t Lanes __attribute__((vector_size(BYTES), may_alias));                                        \
    const Lanes low = Lanes{} + 0xFFFFFFFFu;                                                                      \
    for (int64_t t = 0; t < n; t += BYTES / 4) {                                                                  \
      ahead.fetch(offsets, t, std::min(t + BYTES / 4, n));                                                        \
      Lanes a[2], b[2], c[2], d[2];                                                                               \
      a[0] = (Lanes)(*reinterpret_cast<const Words*>(offsets.block + t) + start.a);                               \
      c[0] = (Lanes)(*reinterpret_cast<const Words*>(offsets.particle + t) + start.c);                            \
      d[0] = (Lanes)(*reinterpret_cast<const Words*>(offsets.word + t) + start.d);                                \
      a[1] = a[0] >> 32, c[1] = c[0] >> 32, d[1] = d[0] >> 32;                                                    \
      b[0] = b[1] = Lanes{} + start.b;                                                                            \
      uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);                      \
      _Pragma("GCC unroll 10") for (int round = 0; round < 10; ++round) {                                         \
        _Pragma("GCC unroll 2") for (int odd = 0; odd < 2; ++odd) {                                               \
          const Lanes first = (Lanes)MULTIPLY((VECTOR)a[odd], (VECTOR)(Lanes{} + kPhiloxFirst));                  \
          const Lanes second = (Lanes)MULTIPLY((VECTOR)c[odd], (VECTOR)(Lanes{} + kPhiloxSecond));                \
          a[odd] = (second >> 32) ^ b[odd] ^ (Lanes{} + key0);                                                    \
          b[odd] = second;                                                                                        \
          c[odd] = (first >> 32) ^ d[odd] ^ (Lanes{} + key1);                                                     \
          d[odd] = first;                                                                                         \
        }                                                                                                         \
        key0 += kPhiloxKey0;                                                                                      \
        key1 += kPhiloxKey1;                                                                                      \
      }                                                                                                           \
      *reinterpret_cast<Lanes*>(bits.a + t) = (a[0] & low) | (a[1] << 32);                                        \
      *reinterpret_cast<Lanes*>(bits.b + t) = (b[0] & low) | (b[1] << 32);                                        \
      if (pairs == 1) continue;                                                                                   \
      *reinterpret_cast<Lanes*>(bits.c + t) = (c[0] & low) | (c[1] << 32);                                        \
      *reinterpret_cast<Lanes*>(bits.d + t) = (d[0] & low) | (d[1] << 32);                                        \
    }                                                                                                             \
  }
EDMFAST_PHILOX_TILE("arch=x86-64-v4", 64, __m512i, multiply_512)
EDMFAST_PHILOX_TILE("arch=x86-64-v3", 32, __m256i, _mm256_mul_epu32)
EDMFAST_PHILOX_TILE("default", 16, __m128i, _mm_mul_epu32)
#undef EDMFAST_PHILOX_TILE

#else

inline void philox_tile(const Offsets& offsets, Philox4 start, uint64_t seed, int64_t n, int, const Ahead&,
                        Bits& bits) {
  for (int64_t t = 0; t < n; ++t) {
    const Philox4 words = philox({start.a + offsets.block[t], start.b, start.c + offsets.particle[t],
                                  start.d + offsets.word[t]}, seed);
    bits.a[t] = words.a;
    bits.b[t] = words.b;
    bits.c[t] = words.c;
    bits.d[t] = words.d;
  }
}

#endif

}  // namespace edmfast
