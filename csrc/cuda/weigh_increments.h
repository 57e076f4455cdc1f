// Increments of log-weights on a GPU: one particle at a time for small populations, batches of large ones.
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

  // The increments of particles first, first + kThreads, ... of population p. Beyond the last particle they repeat it.
  // All loads of a kind are issued before one of them is used.
  template <int kCount>
  __device__ __forceinline__ void increments(int64_t p, int64_t first, double (&value)[kCount]) const {
    const int64_t row = p * particles;
    int64_t at[kCount];
    E own[kCount];
#pragma unroll
    for (int j = 0; j < kCount; ++j) at[j] = row + min(first + j * kThreads, particles - 1);
    int32_t parent[kCount];
    const bool moved = reset[p];
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      own[j] = ratio[at[j]];
      parent[j] = moved ? ancestors[at[j]] : static_cast<int32_t>(at[j] - row);
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      // an ancestor that names no particle must not be read through; a weight of NaN reports it
      const bool named = parent[j] >= 0 && parent[j] < particles;
      value[j] = named || models == 0 ? static_cast<double>(own[j]) : bits_to_double(0x7ff8000000000000);
      parent[j] = named ? parent[j] : 0;
    }
    // the indices are constant, so that the pointers are read from the parameters
#pragma unroll
    for (int k = 0; k < kMaxModels; ++k) {
      if (k >= models) break;
      E now[kCount], before[kCount];
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        now[j] = energies[k][at[j]];
        before[j] = energies_before[k][row + parent[j]];
      }
      const double exponent = exponents == nullptr ? 1.0 : exponents[p * models + k];
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        const double change = add(static_cast<double>(now[j]), -static_cast<double>(before[j]));
        value[j] = add(value[j], -mul(exponent, change));
      }
    }
  }

  // The increment of the first particle of the population, where it is finite.
  __device__ __forceinline__ double centre(int64_t p) const {
    double first[1];
    increments(p, 0, first);
    return first[0] - first[0] == 0.0 ? first[0] : 0.0;
  }

  // The new log-weight of particle i from its increment, which is written.
  __device__ __forceinline__ double weight(int64_t p, int64_t i, double increment, double before) const {
    // a particle of weight zero keeps it: behind a wall, energies are infinite before and after a move
    const double value = weigh && before != -kInfinity ? add(before, increment) : before;
    out[p * particles + i] = value;
    return value;
  }

  __device__ __forceinline__ double kept(int64_t p, int64_t i) const {
    return reset[p] ? 0.0 : log_weights[p * particles + i];
  }

  __device__ __forceinline__ double operator()(int64_t p, int64_t i, Spread& spread) const {
    double own[1];
    increments(p, i, own);
    note_spread(spread, own[0] - centre(p));
    return weight(p, i, own[0], kept(p, i));
  }
};

// The particles of a thread whose loads are issued together. More of them would need more registers.
constexpr int kBatch = 4;

// The first launch for large populations, in place of maximum_kernel, with one block for every tile. Threads take
// neighbouring particles, so that all reads but those through the ancestors are coalesced.
template <class E>
__global__ void __launch_bounds__(kThreads) weigh_kernel(LargeJob<double> job, Increments<E> source) {
  __shared__ unsigned long long keys[kThreads / kWarp];
  __shared__ Spread spreads[kThreads / kWarp];
  const auto [p, tile] = place_of(blockIdx.x, job);
  const int64_t n = job.particles;
  const double centre = source.centre(p);
  double best = -kInfinity;
  bool has_nan = false;
  Spread spread{0.0, 0.0, 0.0};
#pragma unroll
  for (int batch = 0; batch < kItems / kBatch; ++batch) {
    const int64_t first = tile * kTile + batch * kBatch * kThreads + threadIdx.x;
    double increments[kBatch], before[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) before[j] = source.kept(p, min(first + j * kThreads, n - 1));
    source.increments(p, first, increments);
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int64_t i = first + j * kThreads;
      if (i >= n) break;
      note_spread(spread, increments[j] - centre);
      const double value = source.weight(p, i, increments[j], before[j]);
      best = value > best ? value : best;
      has_nan = has_nan || value != value;
    }
  }
  if (has_nan) atomicOr(&job.state[p].has_nan, 1);
  const auto larger_key = [](unsigned long long a, unsigned long long b) { return a > b ? a : b; };
  const auto sum = [](const Spread& a, const Spread& b) { return combined(a, b); };
  const unsigned long long key = warp_reduce(ordered_key(best), larger_key);
  spread = warp_reduce(spread, sum);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  if (lane == 0) {
    keys[warp] = key;
    spreads[warp] = spread;
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
  unsigned long long largest = keys[0];
  Spread all = spreads[0];
  for (int other = 1; other < kThreads / kWarp; ++other) {
    largest = larger_key(largest, keys[other]);
    all = combined(all, spreads[other]);
  }
  job.spreads[blockIdx.x] = all;
  atomicMax(&job.state[p].maximum, largest);
}

}  // namespace edmfast
