// The tensors that one launch of the proposal step reads and writes, and the particle that a row is moved from.
#pragma once
#include "../include/models.h"
#include "collective.h"
#include "normals.h"

namespace edmfast {

template <class S>
struct ArithmeticOf {
  using type = float;  // for the half precisions
};
template <>
struct ArithmeticOf<double> {
  using type = double;
};

template <class S>
struct PropagateJob {
  using T = typename ArithmeticOf<S>::type;
  const S* x;
  const S* scores[kMaxModels];
  int models;
  const int32_t* ancestors;
  const double* coefficients;  // for each population, or for each particle: the drift of each score, v_M, v_L
  bool each;                   // whether every particle has a row of coefficients, which its children read
  const uint8_t* mask;         // [P, d], or null
  const int64_t* rng;          // seed, step
  S* moved;
  T* ratio;
  int64_t first_population, first_particle, rows, particles, elements;
};

// Rows, and the bytes of one row, are counted in 32 bits, in which a division is not a function call.
constexpr int64_t kMostRows = int64_t{1} << 31, kMostElements = int64_t{1} << 28;

// The part that the counters of a row have in common.
struct Stream {
  uint64_t seed;
  uint32_t step, particle, word;
};

// The particle that a row is moved from, and the row of its coefficients.
struct Parent {
  uint32_t population;
  int64_t index;
  bool named;
  const double* coefficients;
};

// An ancestor that names no particle must not be read through; its R becomes NaN, which the weights report.
template <class S>
__device__ __forceinline__ Parent parent_of(const PropagateJob<S>& job, uint32_t row, Stream& stream) {
  const uint32_t particles = static_cast<uint32_t>(job.particles), population = row / particles;
  stream = {static_cast<uint64_t>(job.rng[0]), static_cast<uint32_t>(job.rng[1]),
            static_cast<uint32_t>(job.first_particle) + (row - population * particles),
            stream_word(0, job.first_population + population)};
  const uint32_t ancestor = static_cast<uint32_t>(job.ancestors[row]);
  const bool named = ancestor < particles;
  const int64_t index = population * int64_t{particles} + (named ? ancestor : 0);
  return {population, index, named,
          job.coefficients + (job.models + 2) * (job.each ? index : population)};
}

}  // namespace edmfast
