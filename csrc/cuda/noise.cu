// Standard normals from counters: like [P, N, d] -> normals of its shape and dtype, with the bits of the CPU.
#include <torch/csrc/stable/ops.h>

#include "../include/arguments.h"
#include "../include/library.h"
#include "launch.h"
#include "noise_kernel.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
void launch_noise(const NoiseJob<T>& job, cudaStream_t stream) {
  const unsigned grid = grid_of(job.rows * blocks_of(job.elements), kThreads);
  noise_kernel<T><<<grid, kThreads, 0, stream>>>(job);
  check_launch("noise");
}

Tensor noise(Tensor like, Tensor rng, int64_t stream, int64_t first_population, int64_t first_particle) {
  STD_TORCH_CHECK(like.dim() == 3, "like must be [P, N, d], got ", shape_text(like));
  STD_TORCH_CHECK(stream >= 0 && stream < 16, "stream must be in 0 to 15, got ", stream);
  check_populations(first_population, like.size(0));
  check_particles(first_particle, like.size(1));
  check_same_device(rng, like, "rng");
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  rng = checked_rng(rng, like);
  const int64_t populations = like.size(0), particles = like.size(1), elements = like.size(2);
  Tensor out = torch::stable::new_empty(like, {populations, particles, elements});
  if (populations * particles * elements == 0) return out;

  const auto run = [&](auto sample) {
    using T = decltype(sample);
    launch_noise(NoiseJob<T>{static_cast<const int64_t*>(rng.data_ptr()), static_cast<T*>(out.data_ptr()), stream,
                             first_population, first_particle, populations * particles, particles, elements},
                 current_stream(like));
  };
  if (like.scalar_type() == ScalarType::Float) {
    run(float{});
  } else if (like.scalar_type() == ScalarType::Double) {
    run(double{});
  } else {
    STD_TORCH_CHECK(false, "like must be float32 or float64, got ", like.scalar_type());
  }
  return out;
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CUDA, m) { m.impl("noise", TORCH_BOX(&edmfast::noise)); }
