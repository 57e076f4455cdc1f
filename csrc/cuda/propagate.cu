// The proposal step: reads x and the scores through the ancestors, adds noise, and writes x_u and the kernel log-ratio
// R. x_u has the bits of the CPU; the sums in R are taken in another order.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <optional>
#include <tuple>
#include <vector>

#include "../include/arguments.h"
#include "../include/library.h"
#include "launch.h"
#include "propagate_kernel.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class S, int kModels, int kTeam, int kWidth>
void launch_kernel(const PropagateJob<S>& job, cudaStream_t stream) {
  const unsigned grid = grid_of(job.rows, kThreads / kTeam);
  propagate_kernel<S, kModels, kTeam, kWidth><<<grid, kThreads, 0, stream>>>(job);
}

// Long rows are read in packs where all packs are whole and aligned.
template <class S, int kModels, int kTeam>
void launch_long(const PropagateJob<S>& job, cudaStream_t stream) {
  constexpr int kWidth = kModels == kAny ? 1 : kNeighbours<S>;
  if constexpr (kWidth > 1) {
    const auto aligned = [](const S* tensor) { return reinterpret_cast<uintptr_t>(tensor) % (kWidth * sizeof(S)) == 0; };
    bool packs = job.elements % (4 * kWidth) == 0 && aligned(job.x) && aligned(job.moved);
    for (int k = 0; k < kModels; ++k) packs = packs && aligned(job.scores[k]);
    if (packs) return launch_kernel<S, kModels, kTeam, kWidth>(job, stream);
  }
  launch_kernel<S, kModels, kTeam, 1>(job, stream);
}

// The threads of a row depend on its length alone, so that a particle gets the same R in every batch.
template <class S, int kModels>
void launch_models(const PropagateJob<S>& job, cudaStream_t stream) {
  const int64_t blocks = blocks_of(job.elements);
  if (blocks <= 2) {
    launch_kernel<S, kModels, 1, 1>(job, stream);
  } else if (blocks <= 16) {
    launch_kernel<S, kModels, 4, 1>(job, stream);
  } else if (blocks <= 512) {
    launch_long<S, kModels, kWarp>(job, stream);
  } else {
    launch_long<S, kModels, kThreads>(job, stream);
  }
}

template <class S>
void launch_propagate(const PropagateJob<S>& job, cudaStream_t stream) {
  if (job.mask == nullptr && job.models == 1) {
    launch_models<S, 1>(job, stream);
  } else if (job.mask == nullptr && job.models == 2) {
    launch_models<S, 2>(job, stream);
  } else {
    launch_models<S, kAny>(job, stream);
  }
  check_launch("propagate");
}

std::tuple<Tensor, Tensor> propagate(Tensor x, std::vector<Tensor> scores, Tensor ancestors, Tensor coefficients,
                                     Tensor rng, std::optional<Tensor> mask, int64_t first_population,
                                     int64_t first_particle) {
  check_same_device(ancestors, x, "ancestors");
  check_same_device(coefficients, x, "coefficients");
  check_same_device(rng, x, "rng");
  if (mask) check_same_device(*mask, x, "mask");
  for (const Tensor& score : scores) check_same_device(score, x, "score");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const PropagateArguments in(x, std::move(scores), ancestors, coefficients, rng, std::move(mask), first_population,
                              first_particle);
  Tensor moved = torch::stable::new_empty(x, {in.populations, in.particles, in.elements});
  Tensor ratio = torch::stable::new_empty(x, {in.populations, in.particles}, in.ratio_dtype());
  const int64_t rows = in.populations * in.particles;
  if (rows == 0) return {moved, ratio};
  STD_TORCH_CHECK(rows < kMostRows, "too many particles for one launch: ", rows);
  STD_TORCH_CHECK(in.elements < kMostElements, "a particle must have fewer than 2^28 elements on CUDA, got ",
                  in.elements);

  const auto run = [&](auto sample) {
    using S = decltype(sample);
    PropagateJob<S> job{static_cast<const S*>(in.x.data_ptr()),
                        {},
                        static_cast<int>(in.models),
                        static_cast<const int32_t*>(in.ancestors.data_ptr()),
                        static_cast<const double*>(in.coefficients.data_ptr()),
                        in.each,
                        in.mask_data(),
                        static_cast<const int64_t*>(in.rng.data_ptr()),
                        static_cast<S*>(moved.data_ptr()),
                        static_cast<typename PropagateJob<S>::T*>(ratio.data_ptr()),
                        first_population,
                        first_particle,
                        rows,
                        in.particles,
                        in.elements};
    for (int64_t k = 0; k < in.models; ++k) job.scores[k] = static_cast<const S*>(in.scores[k].data_ptr());
    launch_propagate(job, current_stream(x));
  };
  switch (in.x.scalar_type()) {
    case ScalarType::Float: run(float{}); break;
    case ScalarType::Double: run(double{}); break;
    case ScalarType::Half: run(__half{}); break;
    case ScalarType::BFloat16: run(__nv_bfloat16{}); break;
    default:
      STD_TORCH_CHECK(false, "x must be float16, bfloat16, float32 or float64, got ", in.x.scalar_type());
  }
  return {moved, ratio};
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CUDA, m) { m.impl("propagate", TORCH_BOX(&edmfast::propagate)); }
