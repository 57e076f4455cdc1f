// Inner products of M scores with each other and with a displacement, per particle, in one pass over memory.
// Products and sums are float64 as on the CPU; the sums are taken in another order, which depends on d alone.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <optional>
#include <tuple>

#include "collective.h"
#include "launch.h"

namespace edmfast {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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
__device__ __forceinline__ double widen(float value) { return value; }
__device__ __forceinline__ double widen(Half value) { return static_cast<float>(value); }
__device__ __forceinline__ double widen(BFloat16 value) { return static_cast<float>(value); }

// pair[i (2 kScores + 1 - i) / 2 + j - i] for i <= j < kScores, then the products with the displacement
template <int kScores>
struct Sums {
  static constexpr int kPairs = kScores * (kScores + 1) / 2;
  double value[kPairs + kScores];
};

// This thread's share of one row: every kTeam-th element. Scores beyond the last are zero.
template <int kScores, int kTeam, class T>
__device__ __forceinline__ Sums<kScores> sum_row(const GramJob<T>& job, int64_t row) {
  Sums<kScores> sums{};
  const int64_t stride = job.rows * job.elements;
  for (int64_t k = threadIdx.x % kTeam; k < job.elements; k += kTeam) {
    const int64_t at = row * job.elements + k;
    T score[kScores];
    // a walking pointer: eight offsets kept over the loop would cost more registers than there are
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

// A team of kTeam threads per row: one thread, a warp, or the block.
template <class T, int kScores, int kTeam>
__global__ void __launch_bounds__(kThreads, 2) score_gram_kernel(GramJob<T> job) {
  const int64_t row = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kTeam;
  if (row >= job.rows) return;  // whole teams only
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
    // a thread for each place of the upper triangle and the displacement's column
    const int i = threadIdx.x / (kScores + 1), j = threadIdx.x % (kScores + 1);
    if (i >= kScores || j < i) return;
    const int slot = j < kScores ? i * (2 * kScores + 1 - i) / 2 + j - i : Sums<kScores>::kPairs + i;
    double value = 0;
    for (int warp = 0; warp < kWarps; ++warp) value += shared[slot][warp];
    store<kScores>(job, row, i, j, value);
  }
}

template <int kScores, int kTeam, class T>
void launch_team(const GramJob<T>& job, cudaStream_t stream) {
  const unsigned grid = grid_of(job.rows, kThreads / kTeam);
  score_gram_kernel<T, kScores, kTeam><<<grid, kThreads, 0, stream>>>(job);
}

template <int kScores, class T>
void launch_scores(const GramJob<T>& job, cudaStream_t stream) {
  if (job.elements <= 8) {
    launch_team<kScores, 1>(job, stream);
  } else if (job.elements <= 2048) {
    launch_team<kScores, kWarp>(job, stream);
  } else {
    launch_team<kScores, kThreads>(job, stream);
  }
  check_launch("score_gram");
}

template <class T>
void launch_score_gram(const GramJob<T>& job, cudaStream_t stream) {
  if (job.count <= 2) {
    launch_scores<2>(job, stream);
  } else if (job.count <= 4) {
    launch_scores<4>(job, stream);
  } else {
    launch_scores<kMaxScores>(job, stream);
  }
}

std::tuple<Tensor, Tensor> score_gram(Tensor scores, std::optional<Tensor> displacement) {
  STD_TORCH_CHECK(scores.dim() == 4, "scores must be [M, P, N, d]");
  const int64_t count = scores.size(0), populations = scores.size(1), particles = scores.size(2),
                elements = scores.size(3);
  STD_TORCH_CHECK(count >= 1 && count <= kMaxScores, "between 1 and ", kMaxScores, " scores, got ", count);
  const torch::stable::accelerator::DeviceGuard guard(scores.get_device_index());
  scores = torch::stable::contiguous(scores);
  Tensor moved = scores;
  if (displacement.has_value()) {
    STD_TORCH_CHECK(displacement->scalar_type() == scores.scalar_type(), "scores and displacement must have one dtype");
    STD_TORCH_CHECK(displacement->dim() == 3 && displacement->size(0) == populations &&
                        displacement->size(1) == particles && displacement->size(2) == elements,
                    "displacement must be [P, N, d]");
    check_same_device(*displacement, scores, "displacement");
    moved = torch::stable::contiguous(*displacement);
  }
  Tensor gram = torch::stable::new_empty(scores, {populations, particles, count, count}, ScalarType::Double);
  Tensor along = torch::stable::new_empty(scores, {populations, particles, displacement ? count : 0},
                                          ScalarType::Double);
  if (populations * particles == 0) return {gram, along};

  const auto run = [&](auto sample) {
    using T = decltype(sample);
    launch_score_gram(GramJob<T>{static_cast<const T*>(scores.data_ptr()), static_cast<const T*>(moved.data_ptr()),
                                 static_cast<double*>(gram.data_ptr()), static_cast<double*>(along.data_ptr()),
                                 populations * particles, elements, static_cast<int>(count), displacement.has_value()},
                      current_stream(scores));
  };
  switch (scores.scalar_type()) {
    case ScalarType::Float: run(float{}); break;
    case ScalarType::Double: run(double{}); break;
    case ScalarType::Half: run(Half{}); break;
    case ScalarType::BFloat16: run(BFloat16{}); break;
    default: STD_TORCH_CHECK(false, "scores must be float32, float64, float16 or bfloat16");
  }
  return {gram, along};
}

}  // namespace
}  // namespace edmfast

STABLE_TORCH_LIBRARY_IMPL(edmfast, CUDA, m) { m.impl("score_gram", TORCH_BOX(&edmfast::score_gram)); }
