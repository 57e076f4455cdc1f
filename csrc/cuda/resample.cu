// Systematic resampling of P populations of N log-weights: the bits of the CPU, since every sum is an exact
// integer. A warp, a block or many blocks for each population, by its size.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <tuple>

#include "../include/arguments.h"
#include "launch.h"
#include "resample_slots.h"
#include "resample_small.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Beyond it a single block is slower than three launches.
constexpr int64_t kSmallParticles = 8192;
// Blocks of the maximum: enough to fill a device, few enough for their atomics not to queue.
constexpr int64_t kMaximumBlocks = 2048;

template <class T>
void launch_small(const ResampleJob<T>& job, cudaStream_t stream) {
  if (job.particles <= kWarp) {
    resample_warp_kernel<T><<<grid_of(job.populations, kTinyThreads / kWarp), kTinyThreads, 0, stream>>>(job);
  } else {
    const int64_t warps = (std::min<int64_t>(job.particles, kSmallThreads) + kWarp - 1) / kWarp;
    resample_kernel<T><<<grid_of(job.populations, 1), static_cast<unsigned>(warps * kWarp), 0, stream>>>(job);
  }
}

template <class T>
void launch_large(const ResampleJob<T>& job, int64_t* scratch, cudaStream_t stream) {
  const int64_t populations = job.populations, tiles = tiles_of(job.particles);
  const LargeJob<T> large = large_job(job, scratch);
  const cudaError_t error = cudaMemsetAsync(large.state, 0, populations * sizeof(Population), stream);
  STD_TORCH_CHECK(error == cudaSuccess, "cannot clear scratch memory: ", cudaGetErrorString(error));
  const auto blocks = static_cast<unsigned>(std::clamp<int64_t>(kMaximumBlocks / populations, 1, tiles));
  const unsigned grid = grid_of(populations * tiles, 1);
  maximum_kernel<T><<<grid_of(populations * blocks, 1), kThreads, 0, stream>>>(large, blocks);
  sum_kernel<T><<<grid, kThreads, 0, stream>>>(large);
  slots_kernel<T><<<grid, kThreads, 0, stream>>>(large);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> systematic_resample(Tensor log_weights, Tensor uniform,
                                                                       double ess_threshold) {
  check_log_weights(log_weights);
  STD_TORCH_CHECK(uniform.scalar_type() == ScalarType::Double && uniform.dim() == 1 &&
                      uniform.size(0) == log_weights.size(0),
                  "uniform must be float64 [P]");
  check_same_device(uniform, log_weights, "uniform");
  const torch::stable::accelerator::DeviceGuard guard(log_weights.get_device_index());
  log_weights = torch::stable::contiguous(log_weights);
  uniform = torch::stable::contiguous(uniform);
  const int64_t populations = log_weights.size(0), particles = log_weights.size(1);
  Tensor ancestors = torch::stable::new_empty(log_weights, {populations, particles}, ScalarType::Int);
  Tensor log_mean = torch::stable::new_empty(log_weights, {populations}, ScalarType::Double);
  Tensor ess = torch::stable::new_empty(log_weights, {populations}, ScalarType::Double);
  Tensor resampled = torch::stable::new_empty(log_weights, {populations}, ScalarType::Bool);
  Tensor degenerate = torch::stable::new_empty(log_weights, {populations}, ScalarType::Int);
  if (populations == 0) return {ancestors, log_mean, ess, resampled, degenerate};

  const bool large = particles > kSmallParticles;
  Tensor scratch = torch::stable::new_empty(
      log_weights, {large ? scratch_words(populations, particles) : 0}, ScalarType::Long);
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
                             particles};
    const cudaStream_t stream = current_stream(log_weights);
    if (large) {
      launch_large(job, static_cast<int64_t*>(scratch.data_ptr()), stream);
    } else {
      launch_small(job, stream);
    }
    check_launch("systematic_resample");
  };
  if (log_weights.scalar_type() == ScalarType::Float) {
    run(float{});
  } else if (log_weights.scalar_type() == ScalarType::Double) {
    run(double{});
  } else {
    STD_TORCH_CHECK(false, "log_weights must be float32 or float64");
  }
  return {ancestors, log_mean, ess, resampled, degenerate};
}

}  // namespace
}  // namespace edmfast

STABLE_TORCH_LIBRARY_IMPL(edmfast, CUDA, m) {
  m.impl("systematic_resample", TORCH_BOX(&edmfast::systematic_resample));
}
