// The CUDA kernel of noise, launched on the host as csrc/cuda/noise.cu does.
#include "emulator.h"  // first, since it defines the keywords of the kernel

#include "../../csrc/cuda/noise_kernel.h"

using namespace edmfast;

namespace {

template <class T>
void run(const int64_t* rng, T* out, int64_t stream, int64_t first_population, int64_t first_particle,
         int64_t populations, int64_t particles, int64_t elements) {
  const int64_t rows = populations * particles, threads = rows * blocks_of(elements);
  const NoiseJob<T> job{rng, out, stream, first_population, first_particle, rows, particles, elements};
  emulator::launch(static_cast<unsigned>((threads + kThreads - 1) / kThreads), kThreads, noise_kernel<T>, job);
}

}  // namespace

extern "C" {

void noise_float(const int64_t* rng, float* out, int64_t stream, int64_t first_population, int64_t first_particle,
                 int64_t populations, int64_t particles, int64_t elements) {
  run(rng, out, stream, first_population, first_particle, populations, particles, elements);
}

void noise_double(const int64_t* rng, double* out, int64_t stream, int64_t first_population, int64_t first_particle,
                  int64_t populations, int64_t particles, int64_t elements) {
  run(rng, out, stream, first_population, first_particle, populations, particles, elements);
}
}
