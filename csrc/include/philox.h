// Philox4x32-10 (Salmon et al. 2011): a counter and a key in, 128 random bits out, no state.
// Counter of edmfast: (element block, step, particle, stream << 28 | population); key: the 64-bit seed.
#pragma once
#include "portable.h"

namespace edmfast {

struct Philox4 {
  uint32_t a, b, c, d;
};

EDMFAST_HD uint32_t stream_word(int64_t stream, int64_t population) {
  return (static_cast<uint32_t>(stream) << 28) | static_cast<uint32_t>(population);
}

EDMFAST_HD Philox4 philox(Philox4 counter, uint64_t seed) {
  uint32_t key0 = static_cast<uint32_t>(seed);
  uint32_t key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = static_cast<uint64_t>(0xD2511F53u) * counter.a;
    const uint64_t second = static_cast<uint64_t>(0xCD9E8D57u) * counter.c;
    counter = {static_cast<uint32_t>(second >> 32) ^ counter.b ^ key0, static_cast<uint32_t>(second),
               static_cast<uint32_t>(first >> 32) ^ counter.d ^ key1, static_cast<uint32_t>(first)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

}  // namespace edmfast
