// The four normals of one Philox counter, element j * blocks_of(d) + block of a sample for word j. Short samples need
// no second pair of them.
#pragma once
#include "../include/normal.h"
#include "../include/philox.h"

namespace edmfast {

EDMFAST_HD int64_t blocks_of(int64_t elements) { return (elements + 3) / 4; }

struct Normals {
  float word[4];
};

EDMFAST_HD Normals normals_of(uint32_t block, uint32_t step, uint32_t particle, uint32_t stream_and_population,
                              uint64_t seed, bool second_pair = true) {
  const Philox4 bits = philox({block, step, particle, stream_and_population}, seed);
  const NormalPair first = box_muller(bits.a, bits.b);
  const NormalPair second = second_pair ? box_muller(bits.c, bits.d) : NormalPair{0.0f, 0.0f};
  return {{first.first, first.second, second.first, second.second}};
}

}  // namespace edmfast
