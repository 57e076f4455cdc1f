// The kernel of score_gram. It needs no torch, so that the host can run it in a test.
#pragma once
#include <cstdint>

#include "collective.h"

namespace edmfast {

constexpr int kThreads = 256;
constexpr int kMaxScores = 8;

template <class T>
struct GramJob {
  const T* scores;        // [M, rows, d]
  const T* displacement;  // [rows, d]
  double* gram;           // [rows, M, M]
  double* along;          // [rows, M]
  int64_t rows, elements;
  int count;
  bool displaced;
};

__device__ __forceinline__ double widen(double value) { return value; }
// float32 and the half precisions, which are first converted to it.
template <class T>
__device__ __forceinline__ double widen(T value) {
  return static_cast<float>(value);
}

// pair[i (2 kScores + 1 - i) / 2 + j - i] for i <= j < kScores, then the products with the displacement
template <int kScores>
struct Sums {
  static constexpr int kPairs = kScores * (kScores + 1) / 2;
  double value[kPairs + kScores];
};

// The share of this thread in one row: every kTeam-th element. Scores beyond the last are zero.
template <int kScores, int kTeam, class T>
__device__ __forceinline__ Sums<kScores> sum_row(const GramJob<T>& job, int64_t row) {
  Sums<kScores> sums{};
  const int64_t stride = job.rows * job.elements;
  for (int64_t k = threadIdx.x % kTeam; k < job.elements; k += kTeam) {
    const int64_t at = row * job.elements + k;
    T score[kScores];
    // a pointer that moves, because eight offsets kept over the loop would take more registers than there are
    const T* next = job.scores + at;
#pragma unroll
    for (int i = 0; i < kScores; ++i, next += stride) score[i] = i < job.count ? *next : T(0);
    const double moved = job.displaced ? widen(job.displacement[at]) : 0.0;
    int pair = 0;
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      const double left = widen(score[i]);
#pragma unroll
      for (int j = i; j < kScores; ++j) sums.value[pair++] += left * widen(score[j]);
      sums.value[Sums<kScores>::kPairs + i] += left * moved;
    }
  }
  return sums;
}

template <int kScores, class T>
__device__ __forceinline__ void store(const GramJob<T>& job, int64_t row, int i, int j, double value) {
  const int64_t count = job.count;
  if (j == kScores) {
    if (i < count && job.displaced) job.along[row * count + i] = value;
  } else if (i < count && j < count) {
    job.gram[(row * count + i) * count + j] = value;
    job.gram[(row * count + j) * count + i] = value;
  }
}

// A team of kTeam threads takes a row: one thread, a warp, or the block.
template <class T, int kScores, int kTeam>
__global__ void __launch_bounds__(kThreads, 2) score_gram_kernel(GramJob<T> job) {
  const int64_t row = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kTeam;
  if (row >= job.rows) return;  // whole teams only leave here
  Sums<kScores> sums = sum_row<kScores, kTeam>(job, row);
  const auto add = [](double a, double b) { return a + b; };
  constexpr int kWarps = kThreads / kWarp;
  __shared__ double shared[kTeam == kThreads ? kScores * (kScores + 3) / 2 : 1][kWarps];
  int pair = 0;
#pragma unroll
  for (int i = 0; i < kScores; ++i)
#pragma unroll
    for (int j = i; j <= kScores; ++j) {
      double& value = sums.value[j < kScores ? pair : Sums<kScores>::kPairs + i];
      if constexpr (kTeam > 1) value = warp_reduce(value, add);
      if constexpr (kTeam == kThreads) {
        const int slot = j < kScores ? pair : Sums<kScores>::kPairs + i;
        if (threadIdx.x % kWarp == 0) shared[slot][threadIdx.x / kWarp] = value;
      } else if (threadIdx.x % kTeam == 0) {
        store<kScores>(job, row, i, j, value);
      }
      pair += j < kScores;
    }
  if constexpr (kTeam == kThreads) {
    __syncthreads();
    // a thread for each place of the upper triangle and of the column of the displacement
    const int i = threadIdx.x / (kScores + 1), j = threadIdx.x % (kScores + 1);
    if (i >= kScores || j < i) return;
    const int slot = j < kScores ? i * (2 * kScores + 1 - i) / 2 + j - i : Sums<kScores>::kPairs + i;
    double value = 0;
    for (int warp = 0; warp < kWarps; ++warp) value += shared[slot][warp];
    store<kScores>(job, row, i, j, value);
  }
}

}  // namespace edmfast
