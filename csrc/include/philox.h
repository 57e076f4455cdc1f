// Philox4x32-10 (Salmon et al. 2011) makes 128 random bits of a counter and a key, without any state. The counter of
// edmfast is (element block, step, particle, stream << 28 | population), and the key is the 64-bit seed.
#pragma once
#include "portable.h"

namespace edmfast {

struct Philox4 {
  uint32_t a, b, c, d;
};

constexpr uint32_t kPhiloxFirst = 0xD2511F53u, kPhiloxSecond = 0xCD9E8D57u;
constexpr uint32_t kPhiloxKey0 = 0x9E3779B9u, kPhiloxKey1 = 0xBB67AE85u;

EDMFAST_HD uint32_t stream_word(int64_t stream, int64_t population) {
  return (static_cast<uint32_t>(stream) << 28) | static_cast<uint32_t>(population);
}

EDMFAST_HD Philox4 philox(Philox4 counter, uint64_t seed) {
  uint32_t key0 = static_cast<uint32_t>(seed);
  uint32_t key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = wide_product(counter.a, kPhiloxFirst);
    const uint64_t second = wide_product(counter.c, kPhiloxSecond);
    counter = {static_cast<uint32_t>(second >> 32) ^ counter.b ^ key0, static_cast<uint32_t>(second),
               static_cast<uint32_t>(first >> 32) ^ counter.d ^ key1, static_cast<uint32_t>(first)};
    key0 += kPhiloxKey0;
    key1 += kPhiloxKey1;
  }
  return counter;
}

}  // namespace edmfast
