// Systematic resampling of P populations of N log-weights, with the bits of the CPU, since every sum is an exact
// integer.
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "../include/arguments.h"
#include "../include/library.h"
#include "resample_launch.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> systematic_resample(Tensor log_weights, Tensor uniform,
                                                                       double ess_threshold) {
  check_log_weights(log_weights);
  check_threshold(ess_threshold);
  check_same_device(uniform, log_weights, "uniform");
  const torch::stable::accelerator::DeviceGuard guard(log_weights.get_device_index());
  uniform = taken(uniform, "uniform", ScalarType::Double, {log_weights.size(0)}, log_weights);
  log_weights = taken(log_weights, "log_weights", log_weights.scalar_type(),
                      {log_weights.size(0), log_weights.size(1)}, log_weights);
  const int64_t populations = log_weights.size(0), particles = log_weights.size(1);
  Tensor ancestors = torch::stable::new_empty(log_weights, {populations, particles}, ScalarType::Int);
  Tensor log_mean = torch::stable::new_empty(log_weights, {populations}, ScalarType::Double);
  Tensor ess = torch::stable::new_empty(log_weights, {populations}, ScalarType::Double);
  Tensor resampled = torch::stable::new_empty(log_weights, {populations}, ScalarType::Bool);
  Tensor degenerate = torch::stable::new_empty(log_weights, {populations}, ScalarType::Int);
  if (populations == 0) return {ancestors, log_mean, ess, resampled, degenerate};

  const auto run = [&](auto sample) {
    using T = decltype(sample);
    const ResampleJob<T> job{static_cast<const T*>(log_weights.data_ptr()),
                             static_cast<const double*>(uniform.data_ptr()),
                             ess_threshold,
                             static_cast<int32_t*>(ancestors.data_ptr()),
                             static_cast<double*>(log_mean.data_ptr()),
                             static_cast<double*>(ess.data_ptr()),
                             static_cast<bool*>(resampled.data_ptr()),
                             static_cast<int32_t*>(degenerate.data_ptr()),
                             populations,
                             particles,
                             {}};
    launch_resample(job, Given<T>{job.log_weights, particles}, log_weights);
    check_launch("systematic_resample");
  };
  if (log_weights.scalar_type() == ScalarType::Float) {
    run(float{});
  } else if (log_weights.scalar_type() == ScalarType::Double) {
    run(double{});
  } else {
    STD_TORCH_CHECK(false, "log_weights must be float32 or float64, got ", log_weights.scalar_type());
  }
  return {ancestors, log_mean, ess, resampled, degenerate};
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CUDA, m) {
  m.impl("systematic_resample", TORCH_BOX(&edmfast::systematic_resample));
}
