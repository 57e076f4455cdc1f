// The CUDA kernel of signs, launched on the host as csrc/cuda/signs.cu does.
#include "emulator.h"  // first, since it defines the keywords of the kernel

#include "../../csrc/cuda/signs_kernel.h"

using namespace edmfast;

namespace {

template <class T>
void run(const int64_t* rng, T* out, T one, const int64_t* sizes, const int64_t* first) {
  const int64_t samples = sizes[0] * sizes[1], count = sizes[3], rows = sizes[4];
  const int64_t draws = rows > 0 ? (count + kPatterns - 1) / kPatterns : count;
  const SignsJob<T> job{rng,   out,  one,      samples,  sizes[1], sizes[2], count,
                        draws, rows, sizes[5], first[0], first[1], first[2]};
  const int64_t threads = samples * ((draws * sizes[2] + 3) / 4);
  const auto grid = static_cast<unsigned>((threads + kSignThreads - 1) / kSignThreads);
  if (rows > 0) return emulator::launch(grid, kSignThreads, signs_kernel<T, true>, job);
  emulator::launch(grid, kSignThreads, signs_kernel<T, false>, job);
}

}  // namespace

extern "C" {

// sizes: P, N, d, count, rows, columns; first: stream, population, particle.
void signs_float(const int64_t* rng, uint32_t* out, const int64_t* sizes, const int64_t* first) {
  run(rng, out, uint32_t{0x3f800000}, sizes, first);
}

void signs_double(const int64_t* rng, uint64_t* out, const int64_t* sizes, const int64_t* first) {
  run(rng, out, uint64_t{0x3ff0000000000000}, sizes, first);
}

void signs_bfloat16(const int64_t* rng, uint16_t* out, const int64_t* sizes, const int64_t* first) {
  run(rng, out, uint16_t{0x3f80}, sizes, first);
}
}
