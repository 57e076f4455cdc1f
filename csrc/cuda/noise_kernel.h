// The kernel of noise. It needs no torch, so that the host can run it in a test.
#pragma once
#include "normals.h"

namespace edmfast {

constexpr int kThreads = 256;

template <class T>
struct NoiseJob {
  const int64_t* rng;  // seed, step
  T* out;
  int64_t stream, first_population, first_particle;
  int64_t rows, particles, elements;
};

// One thread takes one block of four elements of a row.
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

}  // namespace edmfast
