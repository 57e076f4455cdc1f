// The kernels of curvature and curvature_matched. They need no torch, so that the host can run them in a test.
#pragma once
#include "../include/curvature.h"
#include "reversal_kernel.h"

namespace edmfast {

template <class S>
struct CurvatureJob {
  const S* products;        // [rows, d]
  const S* probes;          // [rows, d]
  const double* exponents;  // [P], or null where all have the same
  double exponent;
  double* out;  // [rows]
  int64_t rows, particles, elements;
};

// A team of kTeam threads takes a row: one thread, a warp, or the block.
template <class S, int kTeam>
__global__ void __launch_bounds__(kThreads) curvature_kernel(CurvatureJob<S> job) {
  const int64_t row = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kTeam;
  if (row >= job.rows) return;  // whole teams only leave here
  __shared__ double shared[kWarp];
  double sum = 0;
#pragma unroll 4
  for (int64_t k = threadIdx.x % kTeam; k < job.elements; k += kTeam)
    sum += widen(job.probes[row * job.elements + k]) * widen(job.products[row * job.elements + k]);
  sum = team_sum<kTeam>(sum, shared);
  if (threadIdx.x % kTeam != 0) return;
  const double exponent = job.exponents != nullptr ? job.exponents[row / job.particles] : job.exponent;
  job.out[row] = scaled_curvature(sum, job.elements, exponent);
}

constexpr int kFolds = 5, kMostThreads = 1024;

struct MatchedJob {
  const double* values;      // [P, n]: curvatures, or sums of them
  const int32_t* ancestors;  // [P, n], or null where the sums were gathered before
  const double* exponents;   // [P], or null where all have the same
  double exponent;
  const double* levels;  // s, u
  double* out;           // [P, ceil(n / 2^kLevels)] sums, or [P, 3] coefficients
  int64_t populations, n, particles;

  // The number of a slot. An ancestor that names no particle gives NaN.
  __device__ double operator()(int64_t population, int64_t slot) const {
    if (ancestors == nullptr) return values[population * n + slot];
    const uint32_t ancestor = static_cast<uint32_t>(ancestors[population * n + slot]);
    return ancestor < static_cast<uint64_t>(n) ? values[population * n + ancestor] : bits_to_double(0x7ff8000000000000);
  }
};

// How many numbers are left of n after so many folds.
template <int kLevels>
__device__ __forceinline__ int64_t width_of(int64_t n) {
  return (n + (int64_t{1} << kLevels) - 1) >> kLevels;
}

// Number i after kLevels folds. A fold adds the second half of the numbers to the first, and the last of an odd number
// of them waits for the next one, as in edmfast/ops/_shared/sums.py.
template <int kLevels>
__device__ __forceinline__ double folded(const MatchedJob& job, int64_t population, int64_t i) {
  if constexpr (kLevels == 0) {
    return job(population, i);
  } else {
    const int64_t half = width_of<kLevels - 1>(job.n) / 2;
    // both are read without a branch, so that all reads are under way at once
    const double left = folded<kLevels - 1>(job, population, i);
    const double right = folded<kLevels - 1>(job, population, i + half);
    return i < half ? add(left, right) : right;
  }
}

// Folds large populations kFolds times; each thread makes one of the numbers that are left.
__global__ void __launch_bounds__(kThreads) fold_kernel(MatchedJob job) {
  const int64_t width = width_of<kFolds>(job.n);
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index < job.populations * width) job.out[index] = folded<kFolds>(job, index / width, index % width);
}

// A block takes a population. Its threads fold kLevels times on their own, until there is a thread for each number.
template <int kLevels>
__global__ void __launch_bounds__(kMostThreads) matched_kernel(MatchedJob job) {
  __shared__ double rooms[2][kMostThreads];
  const int64_t population = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  int width = static_cast<int>(width_of<kLevels>(job.n)), room = 0;
  if (thread < width) rooms[0][thread] = folded<kLevels>(job, population, thread);
  __syncthreads();
  while (width > 1) {
    const int half = width / 2;
    if (thread < width - half) {
      const double right = rooms[room][thread + half];
      rooms[1 - room][thread] = thread < half ? add(rooms[room][thread], right) : right;
    }
    room = 1 - room;
    width -= half;
    __syncthreads();
  }
  if (thread != 0) return;
  const double mean = divide(rooms[room][0], static_cast<double>(job.particles));
  const double exponent = job.exponents != nullptr ? job.exponents[population] : job.exponent;
  store_matched(mean, job.levels, exponent, job.out + 3 * population);
}

}  // namespace edmfast
