// Standard normals from counters: like [P, N, d] -> normals of its shape and dtype, the bits of the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "launch.h"
#include "normals.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kThreads = 256;

template <class T>
struct NoiseJob {
  const int64_t* rng;  // seed, step
  T* out;
  int64_t stream, first_population, first_particle;
  int64_t rows, particles, elements;
};

// One thread per (row, block of four elements).
template <class T>
__global__ void __launch_bounds__(kThreads) noise_kernel(NoiseJob<T> job) {
  const int64_t blocks = blocks_of(job.elements);
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= job.rows * blocks) return;
  const int64_t row = index / blocks, block = index % blocks;
  const int64_t population = row / job.particles, particle = row % job.particles;
  const Normals normals = normals_of(static_cast<uint32_t>(block), static_cast<uint32_t>(job.rng[1]),
                                     static_cast<uint32_t>(job.first_particle + particle),
                                     stream_word(job.stream, job.first_population + population),
                                     static_cast<uint64_t>(job.rng[0]));
  T* sample = job.out + row * job.elements;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t element = j * blocks + block;
    if (element < job.elements) sample[element] = static_cast<T>(normals.word[j]);
  }
}

template <class T>
void launch_noise(const NoiseJob<T>& job, cudaStream_t stream) {
  const unsigned grid = grid_of(job.rows * blocks_of(job.elements), kThreads);
  noise_kernel<T><<<grid, kThreads, 0, stream>>>(job);
  check_launch("noise");
}

Tensor noise(Tensor like, Tensor rng, int64_t stream, int64_t first_population, int64_t first_particle) {
  STD_TORCH_CHECK(like.dim() == 3, "like must be [P, N, d]");
  STD_TORCH_CHECK(rng.scalar_type() == ScalarType::Long && rng.dim() == 1 && rng.size(0) == 2, "rng must be int64 [2]");
  check_same_device(rng, like, "rng");
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  rng = torch::stable::contiguous(rng);
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
    STD_TORCH_CHECK(false, "noise is made in float32 or float64");
  }
  return out;
}

}  // namespace
}  // namespace edmfast

STABLE_TORCH_LIBRARY_IMPL(edmfast, CUDA, m) { m.impl("noise", TORCH_BOX(&edmfast::noise)); }
