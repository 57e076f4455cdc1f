// Reversal-matched proposals and log-weights: the trace, the curvatures, their product and its normalisation for each
// particle, in one pass over scores, products and probes. Sums are float64 as on the CPU, in another order.
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "../include/library.h"
#include "../include/reversal_arguments.h"
#include "launch.h"
#include "reversal_kernel.h"

namespace edmfast {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <int kModels, int kTeam, class S>
void launch_team(const ReversalJob<S>& job, cudaStream_t stream) {
  const unsigned grid = grid_of(job.rows, kThreads / kTeam);
  reversal_kernel<S, kModels, kTeam><<<grid, kThreads, 0, stream>>>(job);
}

template <int kModels, class S>
void launch_models(const ReversalJob<S>& job, cudaStream_t stream) {
  const int64_t longest = job.elements * std::max<int64_t>(1, job.count);
  if (longest <= 8) {
    launch_team<kModels, 1>(job, stream);
  } else if (longest <= 2048) {
    launch_team<kModels, kWarp>(job, stream);
  } else {
    launch_team<kModels, kThreads>(job, stream);
  }
  check_launch("reversal");
}

template <class S>
void launch_reversal(const ReversalJob<S>& job, cudaStream_t stream) {
  if (job.models == 1) {
    launch_models<1>(job, stream);
  } else if (job.models == 2) {
    launch_models<2>(job, stream);
  } else if (job.models <= 4) {
    launch_models<4>(job, stream);
  } else {
    launch_models<kMaxModels>(job, stream);
  }
}

std::tuple<Tensor, Tensor> reversal(std::vector<Tensor> scores, Tensor exponents, Tensor levels,
                                    std::optional<Tensor> traces, std::vector<Tensor> products,
                                    std::optional<Tensor> probes) {
  STD_TORCH_CHECK(!scores.empty(), "1 to 8 scores are needed, got 0");
  const Tensor like = scores[0];
  check_same_device(exponents, like, "exponents");
  check_same_device(levels, like, "levels");
  if (traces) check_same_device(*traces, like, "traces");
  if (probes) check_same_device(*probes, like, "probes");
  for (const Tensor& score : scores) check_same_device(score, like, "score");
  for (const Tensor& product : products) check_same_device(product, like, "product");
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  const ReversalArguments in(std::move(scores), exponents, levels, std::move(traces), std::move(products),
                             std::move(probes));
  Tensor coefficients =
      torch::stable::new_empty(like, {in.populations, in.particles, in.models + 2}, ScalarType::Double);
  Tensor log_weights = torch::stable::new_empty(like, {in.populations, in.particles}, ScalarType::Double);
  if (in.populations * in.particles == 0) return {coefficients, log_weights};

  const auto run = [&](auto sample) {
    using S = decltype(sample);
    ReversalJob<S> job{};
    in.fill(job);
    job.coefficients = static_cast<double*>(coefficients.data_ptr());
    job.log_weights = static_cast<double*>(log_weights.data_ptr());
    launch_reversal(job, current_stream(like));
  };
  switch (in.dtype) {
    case ScalarType::Float: run(float{}); break;
    case ScalarType::Double: run(double{}); break;
    case ScalarType::Half: run(Half{}); break;
    case ScalarType::BFloat16: run(BFloat16{}); break;
    default: STD_TORCH_CHECK(false, "scores must be float16, bfloat16, float32 or float64, got ", in.dtype);
  }
  return {coefficients, log_weights};
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CUDA, m) { m.impl("reversal", TORCH_BOX(&edmfast::reversal)); }
