// Proposal step: reads x and score through the ancestors, adds noise, writes x_u and the kernel log-ratio R.
// x_u has the bits of the CPU; the sums in R are taken in another order.
#include <torch/csrc/stable/library.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "../include/arguments.h"
#include "collective.h"
#include "launch.h"
#include "normals.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kThreads = 256;
// Blocks to a multiprocessor: left to itself, the compiler spills on sm_100 to fit in a fourth.
constexpr int kResident = 3;

// |z|^2, <m, z>, |m|^2. No default member values: shared memory takes no constructors.
struct Moments {
  double noise, cross, shift;
};

template <class S>
struct ArithmeticOf {
  using type = float;  // of the half precisions
};
template <>
struct ArithmeticOf<double> {
  using type = double;
};

template <class S>
struct PropagateJob {
  using T = typename ArithmeticOf<S>::type;
  const S* x;
  const S* scores[kMaxModels];
  int models;
  const int32_t* ancestors;
  const double* coefficients;  // per population: the drift of each score, v_M, v_L
  const uint8_t* mask;         // [P, d], or null
  const int64_t* rng;          // seed, step
  S* moved;
  T* ratio;
  int64_t first_population, first_particle, rows, particles, elements;
};

// This thread's share of one row: every kTeam-th block of four elements. `moving` counts the elements
// that the mask lets move.
template <class S, int kTeam>
__device__ __forceinline__ Moments move_row(const PropagateJob<S>& job, int64_t row, int& moving) {
  using T = typename PropagateJob<S>::T;
  const int64_t blocks = blocks_of(job.elements);
  const int64_t population = row / job.particles;
  const uint32_t particle = static_cast<uint32_t>(job.first_particle + row % job.particles);
  const int64_t source = (population * job.particles + job.ancestors[row]) * job.elements;
  const double* drift = job.coefficients + (job.models + 2) * population;
  const T scale = static_cast<T>(sqrt(drift[job.models]));
  const uint64_t seed = static_cast<uint64_t>(job.rng[0]);
  const uint32_t step = static_cast<uint32_t>(job.rng[1]);
  const uint32_t word = stream_word(0, job.first_population + population);

  Moments moments{0, 0, 0};
  for (int64_t block = threadIdx.x % kTeam; block < blocks; block += kTeam) {
    const Normals normals = normals_of(static_cast<uint32_t>(block), step, particle, word, seed);
    T zz = 0, mz = 0, mm = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t element = j * blocks + block;
      if (element >= job.elements) break;
      const bool moves = job.mask == nullptr || job.mask[population * job.elements + element] != 0;
      T m = mul(static_cast<T>(drift[0]), static_cast<T>(job.scores[0][source + element]));
      for (int k = 1; k < job.models; ++k)
        m = add(m, mul(static_cast<T>(drift[k]), static_cast<T>(job.scores[k][source + element])));
      m = moves ? m : T{0};
      const T z = moves ? static_cast<T>(normals.word[j]) : T{0};
      const T x = static_cast<T>(job.x[source + element]);
      job.moved[row * job.elements + element] = static_cast<S>(add(add(x, m), mul(scale, z)));
      zz += z * z;
      mz += m * z;
      mm += m * m;
      moving += moves;
    }
    // four products in T, the rest in double: the error does not grow with d
    moments.noise += zz;
    moments.cross += mz;
    moments.shift += mm;
  }
  return moments;
}

__device__ double log_ratio(const Moments& moments, double v_m, double v_l, double moving) {
  return 0.5 * (1.0 - v_m / v_l) * moments.noise - sqrt(v_m) / v_l * moments.cross - 0.5 / v_l * moments.shift +
         0.5 * moving * log(v_m / v_l);
}

// A team of kTeam threads per row: part of a warp, a warp, or the block.
template <class S, int kTeam>
__global__ void __launch_bounds__(kThreads, kResident) propagate_kernel(PropagateJob<S> job) {
  struct Share {
    Moments moments;
    int moving, unused;  // whole words, for the shuffles
  };
  const int64_t row = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kTeam;
  const auto sum = [](const Share& a, const Share& b) {
    return Share{{a.moments.noise + b.moments.noise, a.moments.cross + b.moments.cross,
                  a.moments.shift + b.moments.shift},
                 a.moving + b.moving,
                 0};
  };
  Share share{{0, 0, 0}, 0, 0};
  // threads beyond the last row still take part in the shuffles
  if (row < job.rows) share.moments = move_row<S, kTeam>(job, row, share.moving);
  if constexpr (kTeam <= kWarp) {
    share = warp_reduce<kTeam>(share, sum);
  } else {
    static_assert(kTeam == kThreads);
    __shared__ Share shared[kWarp];
    share = block_reduce(share, Share{{0, 0, 0}, 0, 0}, sum, shared);
  }
  if (row < job.rows && threadIdx.x % kTeam == 0) {
    const double* v = job.coefficients + (job.models + 2) * (row / job.particles) + job.models;
    job.ratio[row] = static_cast<typename PropagateJob<S>::T>(log_ratio(share.moments, v[0], v[1], share.moving));
  }
}

template <int kTeam, class S>
void launch_team(const PropagateJob<S>& job, cudaStream_t stream) {
  const unsigned grid = grid_of(job.rows, kThreads / kTeam);
  propagate_kernel<S, kTeam><<<grid, kThreads, 0, stream>>>(job);
}

template <class S>
void launch_propagate(const PropagateJob<S>& job, cudaStream_t stream) {
  const int64_t blocks = blocks_of(job.elements);
  if (blocks <= 2) {
    launch_team<1>(job, stream);
  } else if (blocks <= 16) {
    launch_team<4>(job, stream);
  } else if (blocks <= 512) {
    launch_team<kWarp>(job, stream);
  } else {
    launch_team<kThreads>(job, stream);
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
  const PropagateArguments in(x, std::move(scores), ancestors, coefficients, rng, std::move(mask));
  Tensor moved = torch::stable::new_empty(x, {in.populations, in.particles, in.elements});
  Tensor ratio = torch::stable::new_empty(x, {in.populations, in.particles}, in.ratio_dtype());
  const int64_t rows = in.populations * in.particles;
  if (rows == 0) return {moved, ratio};

  const auto run = [&](auto sample) {
    using S = decltype(sample);
    PropagateJob<S> job{static_cast<const S*>(in.x.data_ptr()),
                        {},
                        static_cast<int>(in.models),
                        static_cast<const int32_t*>(in.ancestors.data_ptr()),
                        static_cast<const double*>(in.coefficients.data_ptr()),
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
    default: STD_TORCH_CHECK(false, "x must be float16, bfloat16, float32 or float64");
  }
  return {moved, ratio};
}

}  // namespace
}  // namespace edmfast

STABLE_TORCH_LIBRARY_IMPL(edmfast, CUDA, m) { m.impl("propagate", TORCH_BOX(&edmfast::propagate)); }
