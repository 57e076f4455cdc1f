// The kernel of reversal. It needs no torch, so that the host can run it in a test.
#pragma once
#include <cstdint>

#include "../include/models.h"
#include "../include/reversal.h"
#include "collective.h"

namespace edmfast {

constexpr int kThreads = 256;

template <class S>
struct ReversalJob {
  const S* scores[kMaxModels];    // [rows, d]
  const S* products[kMaxModels];  // [rows, K d]
  const S* probes;                // [rows, K d], or null where traces are given
  const double* traces;           // [M, rows], or null
  const double* exponents;        // [P, M]
  const double* levels;           // s, u
  int64_t models, rows, particles, elements, count;
  double* coefficients;  // [rows, M + 2]
  double* log_weights;   // [rows]
};

__device__ __forceinline__ double widen(double value) { return value; }
// float32 and the half precisions, which are first converted to it.
template <class S>
__device__ __forceinline__ double widen(S value) {
  return static_cast<float>(value);
}

// The sum over a team; every thread of it gets the same bits. `shared` is used by whole blocks only.
template <int kTeam>
__device__ __forceinline__ double team_sum(double value, double* shared) {
  const auto add = [](double a, double b) { return a + b; };
  if constexpr (kTeam == 1) return value;
  if constexpr (kTeam == kWarp) return warp_reduce(value, add);
  if constexpr (kTeam > kWarp) return block_reduce(value, 0.0, add, shared);
}

// The traces of one row; models beyond the last have none.
template <int kModels, int kTeam, class S>
__device__ __forceinline__ void traces_of(const ReversalJob<S>& job, int64_t row, double* shared,
                                          double (&traces)[kModels]) {
  const int models = static_cast<int>(job.models);
#pragma unroll
  for (int i = 0; i < kModels; ++i) traces[i] = job.traces != nullptr && i < models ? job.traces[i * job.rows + row] : 0;
  if (job.traces != nullptr) return;
  const int64_t n = job.count * job.elements;
  for (int64_t k = threadIdx.x % kTeam; k < n; k += kTeam) {
    const int64_t at = row * n + k;
    const double probe = widen(job.probes[at]);
#pragma unroll
    for (int i = 0; i < kModels; ++i)
      if (i < models) traces[i] += probe * widen(job.products[i][at]);
  }
#pragma unroll
  for (int i = 0; i < kModels; ++i)
    if (i < models) traces[i] = team_sum<kTeam>(traces[i], shared) / static_cast<double>(job.count);
}

// The share of this thread in sum_i b_i |s_i - m|^2, from every kTeam-th element.
template <int kModels, int kTeam, class S>
__device__ __forceinline__ double spread_of(const ReversalJob<S>& job, const ReversalProduct<kModels>& product,
                                            int64_t row) {
  const int models = static_cast<int>(job.models);
  double spread = 0;
  for (int64_t k = threadIdx.x % kTeam; k < job.elements; k += kTeam) {
    const int64_t at = row * job.elements + k;
    double score[kModels], mean = 0;
#pragma unroll
    for (int i = 0; i < kModels; ++i) {
      score[i] = i < models ? widen(job.scores[i][at]) : 0;
      mean += product.share[i] * score[i];
    }
#pragma unroll
    for (int i = 0; i < kModels; ++i) {
      const double gap = score[i] - mean;
      spread += i < models ? product.weight[i] * (gap * gap) : 0;
    }
  }
  return spread;
}

// A team of kTeam threads takes a row: one thread, a warp, or the block.
template <class S, int kModels, int kTeam>
__global__ void __launch_bounds__(kThreads, 2) reversal_kernel(ReversalJob<S> job) {
  const int64_t row = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kTeam;
  if (row >= job.rows) return;  // whole teams only leave here
  __shared__ double shared[kWarp];
  const int models = static_cast<int>(job.models);
  const ReversalStep step(job.levels, job.elements);
  double traces[kModels];
  traces_of<kModels, kTeam>(job, row, shared, traces);
  const ReversalPowers powers(job.exponents + row / job.particles * models, models);
  const ReversalProduct<kModels> product(step, powers, traces);
  const double spread = team_sum<kTeam>(spread_of<kModels, kTeam>(job, product, row), shared);
  if (threadIdx.x % kTeam != 0) return;
  job.log_weights[row] = product.log_weight(step, spread);
  product.store(step, powers, job.coefficients + row * (models + 2));
}

}  // namespace edmfast
