// Random signs from counters: like [P, N, d] -> [P, N, count, d] in the dtype of `like`, with the bits of the CPU.
#include "../include/library.h"
#include "../include/signs_arguments.h"
#include "launch.h"
#include "signs_kernel.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
void launch_signs(const SignsJob<T>& job, cudaStream_t stream) {
  const unsigned grid = grid_of(job.samples * ((job.draws * job.elements + 3) / 4), kSignThreads);
  if (job.rows > 0) {
    signs_kernel<T, true><<<grid, kSignThreads, 0, stream>>>(job);
  } else {
    signs_kernel<T, false><<<grid, kSignThreads, 0, stream>>>(job);
  }
  check_launch("signs");
}

Tensor signs(Tensor like, Tensor rng, int64_t count, int64_t rows, int64_t columns, int64_t stream,
             int64_t first_population, int64_t first_particle) {
  check_same_device(rng, like, "rng");
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  const SignsArguments in(like, rng, count, rows, columns, stream, first_population, first_particle);
  Tensor out = torch::stable::new_empty(like, {in.populations, in.particles, count, in.elements});
  if (in.populations * in.particles * in.elements == 0) return out;
  const auto run = [&](auto one) {
    using T = decltype(one);
    launch_signs(SignsJob<T>{static_cast<const int64_t*>(in.rng.data_ptr()), static_cast<T*>(out.data_ptr()), one,
                             in.populations * in.particles, in.particles, in.elements, count, in.draws, rows, columns,
                             stream, first_population, first_particle},
                 current_stream(like));
  };
  switch (in.dtype) {
    case ScalarType::Float: run(uint32_t{0x3f800000}); break;
    case ScalarType::Double: run(uint64_t{0x3ff0000000000000}); break;
    case ScalarType::Half: run(uint16_t{0x3c00}); break;
    default: run(uint16_t{0x3f80}); break;
  }
  return out;
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CUDA, m) { m.impl("signs", TORCH_BOX(&edmfast::signs)); }
