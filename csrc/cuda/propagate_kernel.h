// The kernel of the proposal step. It needs no torch, so that the host can run it in a test.
#pragma once
#include <cmath>

#include "../include/models.h"
#include "collective.h"
#include "normals.h"

namespace edmfast {

constexpr int kThreads = 256;
// The blocks of a multiprocessor. Without this bound the compiler spills registers on sm_100 to fit a fourth one, and
// on sm_90 it would spill those of float64 states to fit a third one.
template <class S>
constexpr int kResident = sizeof(S) == 8 ? 2 : 3;

// |z|^2, <m, z>, |m|^2. Members have no default values, because shared memory takes no constructors.
struct Moments {
  double noise, cross, shift;
};

template <class S>
struct ArithmeticOf {
  using type = float;  // for the half precisions
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
  const double* coefficients;  // for each population, or for each particle: the drift of each score, v_M, v_L
  bool each;                   // whether every particle has a row of coefficients, which its children read
  const uint8_t* mask;         // [P, d], or null
  const int64_t* rng;          // seed, step
  S* moved;
  T* ratio;
  int64_t first_population, first_particle, rows, particles, elements;
};

// The particle that a row is moved from, and the row of its coefficients.
struct Parent {
  int64_t index;
  bool named;
  const double* coefficients;
};

// An ancestor that names no particle must not be read through; its R becomes NaN, which the weights report.
template <class S>
__device__ __forceinline__ Parent parent_of(const PropagateJob<S>& job, int64_t row) {
  const int64_t population = row / job.particles, ancestor = job.ancestors[row];
  const bool named = ancestor >= 0 && ancestor < job.particles;
  const int64_t index = population * job.particles + (named ? ancestor : 0);
  return {index, named, job.coefficients + (job.models + 2) * (job.each ? index : population)};
}

// The share of this thread in one row: every kTeam-th block of four elements. `moving` counts the elements that the
// mask lets move.
template <class S, int kTeam>
__device__ __forceinline__ Moments move_row(const PropagateJob<S>& job, int64_t row, int& moving) {
  using T = typename PropagateJob<S>::T;
  const int64_t blocks = blocks_of(job.elements);
  const int64_t population = row / job.particles;
  const uint32_t particle = static_cast<uint32_t>(job.first_particle + row % job.particles);
  const Parent parent = parent_of(job, row);
  const int64_t source = parent.index * job.elements;
  const double* drift = parent.coefficients;
  const T scale = static_cast<T>(sqrt(drift[job.models]));
  const uint64_t seed = static_cast<uint64_t>(job.rng[0]);
  const uint32_t step = static_cast<uint32_t>(job.rng[1]);
  const uint32_t word = stream_word(0, job.first_population + population);

  Moments moments{parent.named ? 0.0 : bits_to_double(0x7ff8000000000000), 0, 0};
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
    // four products are summed in T, the rest in double, so that the error does not grow with d
    moments.noise += zz;
    moments.cross += mz;
    moments.shift += mm;
  }
  return moments;
}

__device__ __forceinline__ double log_ratio(const Moments& moments, double v_m, double v_l, double moving) {
  return 0.5 * (1.0 - v_m / v_l) * moments.noise - sqrt(v_m) / v_l * moments.cross - 0.5 / v_l * moments.shift +
         0.5 * moving * log(v_m / v_l);
}

// A team of kTeam threads takes a row: part of a warp, a warp, or the block.
template <class S, int kTeam>
__global__ void __launch_bounds__(kThreads, kResident<S>) propagate_kernel(PropagateJob<S> job) {
  struct Share {
    Moments moments;
    int moving, unused;  // `unused` fills the struct to whole words, for the shuffles
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
    const double* v = parent_of(job, row).coefficients + job.models;
    job.ratio[row] = static_cast<typename PropagateJob<S>::T>(log_ratio(share.moments, v[0], v[1], share.moving));
  }
}

}  // namespace edmfast
