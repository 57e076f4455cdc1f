// Curvatures from probes, products [P, N, d] and probes -> float64 [P, N], and the coefficients of the curvature-matched
// proposal from them, [P, N] -> float64 [P, 3]. Means have the bits of the CPU, dot products are summed in another
// order.
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <optional>

#include "../include/curvature_arguments.h"
#include "../include/library.h"
#include "curvature_kernel.h"
#include "launch.h"

namespace edmfast {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <int kTeam, class S>
void launch_team(const CurvatureJob<S>& job, cudaStream_t stream) {
  curvature_kernel<S, kTeam><<<grid_of(job.rows, kThreads / kTeam), kThreads, 0, stream>>>(job);
}

template <class S>
void launch_curvature(const CurvatureJob<S>& job, cudaStream_t stream) {
  if (job.elements <= 8) {
    launch_team<1>(job, stream);
  } else if (job.elements <= 2048) {
    launch_team<kWarp>(job, stream);
  } else {
    launch_team<kThreads>(job, stream);
  }
  check_launch("curvature");
}

Tensor curvature(Tensor products, Tensor probes, std::optional<Tensor> exponents, double exponent) {
  check_same_device(probes, products, "probes");
  if (exponents) check_same_device(*exponents, products, "exponents");
  const torch::stable::accelerator::DeviceGuard guard(products.get_device_index());
  const CurvatureArguments in(products, probes, exponents);
  Tensor out = torch::stable::new_empty(products, {in.populations, in.particles}, ScalarType::Double);
  if (in.populations * in.particles == 0) return out;
  const auto run = [&](auto sample) {
    using S = decltype(sample);
    launch_curvature(CurvatureJob<S>{static_cast<const S*>(in.products.data_ptr()),
                                     static_cast<const S*>(in.probes.data_ptr()), doubles_of(in.exponents), exponent,
                                     static_cast<double*>(out.data_ptr()), in.populations * in.particles, in.particles,
                                     in.elements},
                     current_stream(products));
  };
  switch (in.dtype) {
    case ScalarType::Float: run(float{}); break;
    case ScalarType::Double: run(double{}); break;
    case ScalarType::Half: run(Half{}); break;
    default: run(BFloat16{}); break;
  }
  return out;
}

template <int kLevels>
void launch_matched(const MatchedJob& job, cudaStream_t stream) {
  const int64_t width = (job.n + (int64_t{1} << kLevels) - 1) >> kLevels;
  if constexpr (kLevels < kFolds) {
    if (width > kMostThreads) return launch_matched<kLevels + 1>(job, stream);
  }
  const auto threads = static_cast<unsigned>((width + kWarp - 1) / kWarp * kWarp);
  matched_kernel<kLevels><<<grid_of(job.populations, 1), threads, 0, stream>>>(job);
  check_launch("curvature_matched");
}

Tensor curvature_matched(Tensor curvature, Tensor ancestors, std::optional<Tensor> exponents, double exponent,
                         Tensor levels) {
  check_same_device(ancestors, curvature, "ancestors");
  check_same_device(levels, curvature, "levels");
  if (exponents) check_same_device(*exponents, curvature, "exponents");
  const torch::stable::accelerator::DeviceGuard guard(curvature.get_device_index());
  const MatchedArguments in(curvature, ancestors, exponents, levels);
  Tensor out = torch::stable::new_empty(curvature, {in.populations, 3}, ScalarType::Double);
  if (in.populations == 0) return out;
  MatchedJob job{static_cast<const double*>(in.curvature.data_ptr()),
                 static_cast<const int32_t*>(in.ancestors.data_ptr()),
                 doubles_of(in.exponents),
                 exponent,
                 static_cast<const double*>(in.levels.data_ptr()),
                 static_cast<double*>(out.data_ptr()),
                 in.populations,
                 in.particles,
                 in.particles};
  cudaStream_t stream = current_stream(curvature);
  Tensor sums = out;
  while (job.n > int64_t{kMostThreads} << kFolds) {
    const int64_t width = (job.n + (1 << kFolds) - 1) >> kFolds;
    Tensor folded = torch::stable::new_empty(curvature, {in.populations, width}, ScalarType::Double);
    job.out = static_cast<double*>(folded.data_ptr());
    fold_kernel<<<grid_of(in.populations * width, kThreads), kThreads, 0, stream>>>(job);
    check_launch("curvature_matched");
    sums = folded;  // the sums before may go, since no later kernel reads them
    job.values = job.out, job.ancestors = nullptr, job.n = width;
  }
  job.out = static_cast<double*>(out.data_ptr());
  launch_matched<0>(job, stream);
  return out;
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CUDA, m) {
  m.impl("curvature", TORCH_BOX(&edmfast::curvature));
  m.impl("curvature_matched", TORCH_BOX(&edmfast::curvature_matched));
}
