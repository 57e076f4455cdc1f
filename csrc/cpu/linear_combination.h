// A linear combination on plain memory, for the operator and for calls from Python that pass by the dispatcher.
#pragma once
#include <torch/headeronly/core/ScalarType.h>

#include "../include/philox.h"

namespace edmfast {

constexpr int kMaxTerms = 8;

// The normals of a call: sample b has the counter index first_sample + b, or, where every sample has its own seed, the
// index 0.
struct CombinationNoise {
  const int64_t* seeds;
  const int64_t* nodes;
  const double* weights;
  int64_t count, stream, first_sample;
  bool each;

  uint64_t key(int64_t row) const { return static_cast<uint64_t>(seeds[each ? row : 0]); }
  Philox4 start(int64_t node, int64_t row, int64_t block) const {
    const uint64_t bits = static_cast<uint64_t>(nodes[node]);
    constexpr uint64_t kPopulations = (uint64_t{1} << 28) - 1;
    return {static_cast<uint32_t>(block), static_cast<uint32_t>(bits),
            static_cast<uint32_t>(each ? 0 : first_sample + row),
            stream_word(stream, static_cast<int64_t>(bits >> 32 & kPopulations))};
  }
};

// The tensors and the result are [rows, elements], alike in memory, and contiguous where there is noise.
struct Combination {
  const void* tensors[kMaxTerms];
  double coefficients[kMaxTerms];
  int terms;
  torch::headeronly::ScalarType dtype;
  int64_t rows, elements;
  const CombinationNoise* noise;  // or null
  void* out;
};

// Throws for a dtype that is not float16, bfloat16, float32 or float64.
void combine(const Combination& combination);

// Returns whether the elements fill a block of memory, each place once.
bool fills_memory(int64_t dims, const int64_t* sizes, const int64_t* strides);

}  // namespace edmfast
