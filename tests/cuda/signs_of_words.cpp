// Counts the words whose signs differ from those of the normals that Box-Muller makes of them.
#include <cstdint>

#include "../../csrc/include/normal.h"
#include "../../csrc/include/signs.h"

using namespace edmfast;

namespace {

uint32_t differ(NormalPair normals, SignPair signs) {
  const uint32_t first = static_cast<uint32_t>(float_to_bits(normals.first)) >> 31;
  const uint32_t second = static_cast<uint32_t>(float_to_bits(normals.second)) >> 31;
  return (first ^ static_cast<uint32_t>(signs.first)) | (second ^ static_cast<uint32_t>(signs.second));
}

}  // namespace

// Takes the words [2^24 part, 2^24 (part + 1)) as angles, and as radii.
extern "C" int64_t wrong_signs(int part, uint32_t radius, uint32_t angle) {
  constexpr uint32_t kWords = 1u << 24, kTile = 4096;
  int64_t wrong = 0;
  for (uint32_t start = 0; start < kWords; start += kTile) {
    uint32_t here = 0;
#pragma omp simd reduction(+ : here)
    for (uint32_t i = 0; i < kTile; ++i) {
      const uint32_t word = static_cast<uint32_t>(part) * kWords + start + i;
      here += differ(box_muller(radius, word), signs_of(radius, word));
      here += differ(box_muller(word, angle), signs_of(word, angle));
    }
    wrong += here;
  }
  return wrong;
}
