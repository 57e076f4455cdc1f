// Proposal step: reads x and score through the ancestors, adds noise, writes x_u and the kernel log-ratio R.
// x_u has the bits of the CPU; the sums in R are taken in another order.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <tuple>

#include "collective.h"
#include "launch.h"
#include "normals.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kThreads = 256;

// |z|^2, <m, z>, |m|^2. No default member values: shared memory takes no constructors.
struct Moments {
  double noise, cross, shift;
};

template <class T>
struct PropagateJob {
  const T* x;
  const T* score;
  const int32_t* ancestors;
  const double* coefficients;  // per population: drift, v_M, v_L
  const int64_t* rng;          // seed, step
  T* moved;
  T* ratio;
  int64_t first_population, rows, particles, elements;
};

// This thread's share of one row: every kTeam-th block of four elements.
template <class T, int kTeam>
__device__ __forceinline__ Moments move_row(const PropagateJob<T>& job, int64_t row) {
  const int64_t blocks = blocks_of(job.elements);
  const int64_t population = row / job.particles, particle = row % job.particles;
  const int64_t source = (population * job.particles + job.ancestors[row]) * job.elements;
  const T* x = job.x + source;
  const T* score = job.score + source;
  T* moved = job.moved + row * job.elements;
  const T drift = static_cast<T>(job.coefficients[3 * population]);
  const T scale = static_cast<T>(sqrt(job.coefficients[3 * population + 1]));
  const uint64_t seed = static_cast<uint64_t>(job.rng[0]);
  const uint32_t step = static_cast<uint32_t>(job.rng[1]);
  const uint32_t word = stream_word(0, job.first_population + population);

  Moments moments{0, 0, 0};
  for (int64_t block = threadIdx.x % kTeam; block < blocks; block += kTeam) {
    const Normals normals =
        normals_of(static_cast<uint32_t>(block), step, static_cast<uint32_t>(particle), word, seed);
    T zz = 0, mz = 0, mm = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t element = j * blocks + block;
      if (element >= job.elements) break;
      const T z = static_cast<T>(normals.word[j]);
      const T m = mul(drift, score[element]);
      moved[element] = add(add(x[element], m), mul(scale, z));
      zz += z * z;
      mz += m * z;
      mm += m * m;
    }
    // four products in T, the rest in double: the error does not grow with d
    moments.noise += zz;
    moments.cross += mz;
    moments.shift += mm;
  }
  return moments;
}

__device__ double log_ratio(const Moments& moments, const double* coefficients, int64_t elements) {
  const double v_m = coefficients[1], v_l = coefficients[2];
  return 0.5 * (1.0 - v_m / v_l) * moments.noise - sqrt(v_m) / v_l * moments.cross - 0.5 / v_l * moments.shift +
         0.5 * static_cast<double>(elements) * log(v_m / v_l);
}

// A team of kTeam threads per row: part of a warp, a warp, or the block.
template <class T, int kTeam>
__global__ void __launch_bounds__(kThreads) propagate_kernel(PropagateJob<T> job) {
  const int64_t row = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kTeam;
  const auto sum = [](const Moments& a, const Moments& b) {
    return Moments{a.noise + b.noise, a.cross + b.cross, a.shift + b.shift};
  };
  Moments moments{0, 0, 0};
  // threads beyond the last row still take part in the shuffles
  if (row < job.rows) moments = move_row<T, kTeam>(job, row);
  if constexpr (kTeam <= kWarp) {
    moments = warp_reduce<kTeam>(moments, sum);
  } else {
    static_assert(kTeam == kThreads);
    __shared__ Moments shared[kWarp];
    moments = block_reduce(moments, Moments{0, 0, 0}, sum, shared);
  }
  if (row < job.rows && threadIdx.x % kTeam == 0)
    job.ratio[row] =
        static_cast<T>(log_ratio(moments, job.coefficients + 3 * (row / job.particles), job.elements));
}

template <int kTeam, class T>
void launch_team(const PropagateJob<T>& job, cudaStream_t stream) {
  const unsigned grid = grid_of(job.rows, kThreads / kTeam);
  propagate_kernel<T, kTeam><<<grid, kThreads, 0, stream>>>(job);
}

template <class T>
void launch_propagate(const PropagateJob<T>& job, cudaStream_t stream) {
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

std::tuple<Tensor, Tensor> propagate(Tensor x, Tensor score, Tensor ancestors, Tensor coefficients, Tensor rng,
                                     int64_t first_population) {
  STD_TORCH_CHECK(x.dim() == 3 && score.dim() == 3 && ancestors.dim() == 2, "x, score [P, N, d]; ancestors [P, N]");
  STD_TORCH_CHECK(x.scalar_type() == score.scalar_type(), "x and score must have one dtype");
  STD_TORCH_CHECK(ancestors.scalar_type() == ScalarType::Int, "ancestors must be int32");
  STD_TORCH_CHECK(coefficients.scalar_type() == ScalarType::Double, "coefficients must be float64");
  STD_TORCH_CHECK(rng.scalar_type() == ScalarType::Long, "rng must be int64");
  check_same_device(score, x, "score");
  check_same_device(ancestors, x, "ancestors");
  check_same_device(coefficients, x, "coefficients");
  check_same_device(rng, x, "rng");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  x = torch::stable::contiguous(x);
  score = torch::stable::contiguous(score);
  ancestors = torch::stable::contiguous(ancestors);
  coefficients = torch::stable::contiguous(coefficients);
  rng = torch::stable::contiguous(rng);
  const int64_t populations = x.size(0), particles = x.size(1), elements = x.size(2);
  Tensor moved = torch::stable::new_empty(x, {populations, particles, elements});
  Tensor ratio = torch::stable::new_empty(x, {populations, particles});
  if (populations * particles == 0) return {moved, ratio};

  const auto run = [&](auto sample) {
    using T = decltype(sample);
    launch_propagate(
        PropagateJob<T>{static_cast<const T*>(x.data_ptr()), static_cast<const T*>(score.data_ptr()),
                        static_cast<const int32_t*>(ancestors.data_ptr()),
                        static_cast<const double*>(coefficients.data_ptr()),
                        static_cast<const int64_t*>(rng.data_ptr()), static_cast<T*>(moved.data_ptr()),
                        static_cast<T*>(ratio.data_ptr()), first_population, populations * particles, particles,
                        elements},
        current_stream(x));
  };
  if (x.scalar_type() == ScalarType::Float) {
    run(float{});
  } else if (x.scalar_type() == ScalarType::Double) {
    run(double{});
  } else {
    STD_TORCH_CHECK(false, "x must be float32 or float64");
  }
  return {moved, ratio};
}

}  // namespace
}  // namespace edmfast

STABLE_TORCH_LIBRARY_IMPL(edmfast, CUDA, m) { m.impl("propagate", TORCH_BOX(&edmfast::propagate)); }
