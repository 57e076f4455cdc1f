// Chooses and launches the kernels of systematic resampling: a warp, a block or many blocks for each population.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "launch.h"
#include "resample_slots.h"
#include "resample_small.h"

namespace edmfast {

// Beyond this size a single block is slower than three launches.
constexpr int64_t kSmallParticles = 8192;
// The blocks of the maximum: enough to fill a device, few enough for their atomics not to queue.
constexpr int64_t kMaximumBlocks = 2048;

template <class T, class Source>
void launch_small(const ResampleJob<T>& job, const Source& source, cudaStream_t stream) {
  if (job.particles <= kWarp) {
    const unsigned grid = grid_of(job.populations, kTinyThreads / kWarp);
    resample_warp_kernel<T><<<grid, kTinyThreads, 0, stream>>>(job, source);
  } else {
    const int64_t warps = (std::min<int64_t>(job.particles, kSmallThreads) + kWarp - 1) / kWarp;
    const auto threads = static_cast<unsigned>(warps * kWarp);
    resample_kernel<T><<<grid_of(job.populations, 1), threads, 0, stream>>>(job, source);
  }
}

template <class T>
void launch_first(const LargeJob<T>& job, const Given<T>&, cudaStream_t stream) {
  const int64_t wanted = std::clamp<int64_t>(kMaximumBlocks / job.populations, 1, tiles_of(job.particles));
  const auto blocks = static_cast<unsigned>(wanted);
  maximum_kernel<T><<<grid_of(job.populations * blocks, 1), kThreads, 0, stream>>>(job, blocks);
}

// `like` is any tensor on the device. The scratch memory may go back to the allocator once all is on the stream.
template <class T, class Source>
void launch_resample(const ResampleJob<T>& job, const Source& source, const torch::stable::Tensor& like) {
  const cudaStream_t stream = current_stream(like);
  if (job.particles <= kSmallParticles) return launch_small(job, source, stream);
  const int64_t words = scratch_words(job.populations, job.particles);
  const torch::stable::Tensor scratch =
      torch::stable::new_empty(like, {words}, torch::headeronly::ScalarType::Long);
  const LargeJob<T> large = large_job(job, static_cast<int64_t*>(scratch.data_ptr()));
  const cudaError_t error = cudaMemsetAsync(large.state, 0, job.populations * sizeof(Population), stream);
  STD_TORCH_CHECK(error == cudaSuccess, "cannot clear scratch memory: ", cudaGetErrorString(error));
  const unsigned grid = grid_of(job.populations * tiles_of(job.particles), 1);
  launch_first(large, source, stream);
  const int64_t sums = job.populations * sums_of(tiles_of(job.particles), large.together);
  sum_kernel<T><<<grid_of(sums, 1), kThreads, 0, stream>>>(large);
  slots_kernel<Source::kSpreads><<<grid, kThreads, 0, stream>>>(large);
}

}  // namespace edmfast
