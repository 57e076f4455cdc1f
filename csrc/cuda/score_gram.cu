// Inner products of M scores with each other and with a displacement, for each particle, in one pass over memory.
// Products and sums are float64 as on the CPU. The sums are taken in another order, which depends on d alone.
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <optional>
#include <tuple>

#include "../include/arguments.h"
#include "../include/library.h"
#include "launch.h"
#include "score_gram_kernel.h"

namespace edmfast {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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
  STD_TORCH_CHECK(scores.dim() == 4, "scores must be [M, P, N, d], got ", shape_text(scores));
  const int64_t count = scores.size(0), populations = scores.size(1), particles = scores.size(2),
                elements = scores.size(3);
  STD_TORCH_CHECK(count >= 1 && count <= kMaxScores, "1 to ", kMaxScores, " scores are needed, got ", count);
  const torch::stable::accelerator::DeviceGuard guard(scores.get_device_index());
  const ScalarType dtype = scores.scalar_type();
  scores = taken(scores, "scores", dtype, {count, populations, particles, elements}, scores);
  Tensor moved = scores;
  if (displacement.has_value()) {
    check_same_device(*displacement, scores, "displacement");
    moved = taken(*displacement, "displacement", dtype, {populations, particles, elements}, scores);
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
    default: STD_TORCH_CHECK(false, "scores must be float32, float64, float16 or bfloat16, got ", scores.scalar_type());
  }
  return {gram, along};
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CUDA, m) { m.impl("score_gram", TORCH_BOX(&edmfast::score_gram)); }
