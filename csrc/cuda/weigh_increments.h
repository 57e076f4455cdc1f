// Increments of log-weights on a GPU: one particle at a time for small populations, tiles of large ones.
#pragma once
#include "../include/models.h"
#include "resample_large.h"

namespace edmfast {

// Writes the log-weight of a particle when it is first read.
template <class E>
struct Increments {
  static constexpr bool kSpreads = true;
  const double* log_weights;  // those of the level before
  const bool* reset;          // per population: the last decision
  const int32_t* ancestors;   // the last ones
  const E* ratio;
  const E* energies[kMaxModels];
  const E* energies_before[kMaxModels];
  const double* exponents;  // [P, models], or null where all are 1
  int models;
  int64_t particles;
  bool weigh;
  double* out;

  __device__ __forceinline__ double increment(int64_t p, int64_t i) const {
    const int64_t row = p * particles, at = row + i, ancestor = reset[p] ? ancestors[at] : i;
    // an ancestor that names no particle must not be read through; a weight of NaN reports it
    const bool named = ancestor >= 0 && ancestor < particles;
    const int64_t parent = row + (named ? ancestor : 0);
    double value = named || models == 0 ? static_cast<double>(ratio[at]) : bits_to_double(0x7ff8000000000000);
    // the indices are constant, so that the pointers are read from the parameters
#pragma unroll
    for (int k = 0; k < kMaxModels; ++k) {
      if (k >= models) break;
      const double change = add(static_cast<double>(energies[k][at]), -static_cast<double>(energies_before[k][parent]));
      value = add(value, -mul(exponents == nullptr ? 1.0 : exponents[p * models + k], change));
    }
    return value;
  }

  // The increment of the first particle of the population, where it is finite.
  __device__ __forceinline__ double centre(int64_t p) const {
    const double first = increment(p, 0);
    return first - first == 0.0 ? first : 0.0;
  }

  __device__ __forceinline__ double weight(int64_t p, int64_t i, double centre, Spread& spread) const {
    const double own = increment(p, i), off = own - centre;
    if (off - off == 0.0) spread = combined(spread, {off, off * off, 1.0});
    const double kept = reset[p] ? 0.0 : log_weights[p * particles + i];
    // a particle of weight zero keeps it: behind a wall, energies are infinite before and after a move
    const double value = weigh && kept != -kInfinity ? add(kept, own) : kept;
    out[p * particles + i] = value;
    return value;
  }

  __device__ __forceinline__ double operator()(int64_t p, int64_t i, Spread& spread) const {
    return weight(p, i, centre(p), spread);
  }
};

// The first launch for large populations, in place of maximum_kernel, with one block for every tile. Threads take
// neighbouring particles, so that all reads but those through the ancestors are coalesced.
template <class E>
__global__ void __launch_bounds__(kThreads) weigh_kernel(LargeJob<double> job, Increments<E> source) {
  __shared__ Maximum shared[kWarp];
  __shared__ Spread shared_spreads[kWarp];
  const unsigned tiles = static_cast<unsigned>(tiles_of(job.particles));
  const int64_t n = job.particles, p = blockIdx.x / tiles, first = int64_t{blockIdx.x % tiles} * kTile;
  const double centre = source.centre(p);
  Maximum own{-kInfinity, 0};
  Spread spread{0.0, 0.0, 0.0};
  for (int64_t i = first + threadIdx.x; i < first + kTile && i < n; i += kThreads) {
    const double value = source.weight(p, i, centre, spread);
    own.value = value > own.value ? value : own.value;
    own.has_nan |= value != value ? 1 : 0;
  }
  own = block_reduce(own, Maximum{-kInfinity, 0}, [](const Maximum& a, const Maximum& b) { return larger(a, b); },
                     shared);
  spread = block_reduce(spread, Spread{0.0, 0.0, 0.0}, [](const Spread& a, const Spread& b) { return combined(a, b); },
                        shared_spreads);
  if (threadIdx.x > 0) return;
  job.spreads[blockIdx.x] = spread;
  note_maximum(job.state[p], own);
}

}  // namespace edmfast
