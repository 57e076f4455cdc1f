// Proposal step: reads x and score through the ancestors, adds noise, writes x_u and the kernel log-ratio R.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "noise_tile.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kLanes = 16;

struct Moments {
  double noise = 0, cross = 0, shift = 0;  // |z|^2, <m, z>, |m|^2
};

template <class T>
EDMFAST_HD void step_body(const T* x, const T* score, const float* normals, T drift, T scale, T* moved, int64_t n,
                          Moments& moments) {
  // fixed lanes: the order of summation does not depend on the instruction set
  T zz[kLanes] = {}, mz[kLanes] = {}, mm[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) {
      const T z = static_cast<T>(normals[i + lane]);
      const T m = drift * score[i + lane];
      moved[i + lane] = x[i + lane] + m + scale * z;
      zz[lane] += z * z;
      mz[lane] += m * z;
      mm[lane] += m * m;
    }
  }
  for (; i < n; ++i) {
    const T z = static_cast<T>(normals[i]);
    const T m = drift * score[i];
    moved[i] = x[i] + m + scale * z;
    zz[0] += z * z;
    mz[0] += m * z;
    mm[0] += m * m;
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    moments.noise += zz[lane];
    moments.cross += mz[lane];
    moments.shift += mm[lane];
  }
}

EDMFAST_MULTIVERSION void step(const float* x, const float* score, const float* normals, float drift, float scale,
                               float* moved, int64_t n, Moments& moments) {
  step_body(x, score, normals, drift, scale, moved, n, moments);
}
EDMFAST_MULTIVERSION void step(const double* x, const double* score, const float* normals, double drift, double scale,
                               double* moved, int64_t n, Moments& moments) {
  step_body(x, score, normals, drift, scale, moved, n, moments);
}

struct Kernel {
  double drift, scale, noise_factor, cross_factor, shift_factor, constant;

  Kernel(const double* c, int64_t elements) : drift(c[0]), scale(std::sqrt(c[1])) {
    noise_factor = 0.5 * (1.0 - c[1] / c[2]);
    cross_factor = -scale / c[2];
    shift_factor = -0.5 / c[2];
    constant = 0.5 * static_cast<double>(elements) * std::log(c[1] / c[2]);
  }

  double ratio(const Moments& m) const {
    return noise_factor * m.noise + cross_factor * m.cross + shift_factor * m.shift + constant;
  }
};

template <class T>
struct Job {
  const T* x;
  const T* score;
  const int32_t* ancestors;
  const double* coefficients;
  int64_t particles, elements;
  T* moved;
  T* ratio;
};

template <class T>
void gather(const T* from, const int32_t* ancestors, int64_t rows, int64_t elements, T* to) {
  const auto copy = [&](auto size) {
    for (int64_t r = 0; r < rows; ++r) std::copy_n(from + ancestors[r] * int64_t{size}, int{size}, to + r * size);
  };
  switch (elements) {
    case 1: return copy(std::integral_constant<int, 1>{});
    case 2: return copy(std::integral_constant<int, 2>{});
    case 3: return copy(std::integral_constant<int, 3>{});
    default: return copy(std::integral_constant<int, 4>{});
  }
}

// Samples of at most four elements, already gathered: one block each, word j is element j.
template <int kElements, class T>
EDMFAST_HD void points_body(const T* x, const T* score, const float* normals, const Kernel& kernel, int64_t rows,
                            T* moved, T* ratio) {
  const T drift = static_cast<T>(kernel.drift), scale = static_cast<T>(kernel.scale);
  for (int64_t r = 0; r < rows; ++r) {
    Moments moments;
    for (int j = 0; j < kElements; ++j) {
      const T z = static_cast<T>(normals[j * kTile + r]);
      const T m = drift * score[r * kElements + j];
      moved[r * kElements + j] = x[r * kElements + j] + m + scale * z;
      moments.noise += static_cast<double>(z) * z;
      moments.cross += static_cast<double>(m) * z;
      moments.shift += static_cast<double>(m) * m;
    }
    ratio[r] = static_cast<T>(kernel.ratio(moments));
  }
}

template <class T>
EDMFAST_HD void points_any(const T* x, const T* score, const float* normals, const Kernel& kernel, int64_t rows,
                           int64_t elements, T* moved, T* ratio) {
  switch (elements) {
    case 1: return points_body<1>(x, score, normals, kernel, rows, moved, ratio);
    case 2: return points_body<2>(x, score, normals, kernel, rows, moved, ratio);
    case 3: return points_body<3>(x, score, normals, kernel, rows, moved, ratio);
    default: return points_body<4>(x, score, normals, kernel, rows, moved, ratio);
  }
}

EDMFAST_MULTIVERSION void points(const float* x, const float* score, const float* normals, const Kernel& kernel,
                                 int64_t rows, int64_t elements, float* moved, float* ratio) {
  points_any(x, score, normals, kernel, rows, elements, moved, ratio);
}
EDMFAST_MULTIVERSION void points(const double* x, const double* score, const float* normals, const Kernel& kernel,
                                 int64_t rows, int64_t elements, double* moved, double* ratio) {
  points_any(x, score, normals, kernel, rows, elements, moved, ratio);
}

template <class T>
void move_points(const Job<T>& job, int64_t row, int64_t rows, const float* normals) {
  const int64_t d = job.elements;
  T x[4 * kTile], score[4 * kTile];
  for (int64_t r = 0; r < rows;) {
    const int64_t population = (row + r) / job.particles;
    const int64_t count = std::min(rows - r, (population + 1) * job.particles - row - r);
    gather(job.x + population * job.particles * d, job.ancestors + row + r, count, d, x);
    gather(job.score + population * job.particles * d, job.ancestors + row + r, count, d, score);
    const Kernel kernel(job.coefficients + 3 * population, d);
    points(x, score, normals + r, kernel, count, d, job.moved + (row + r) * d, job.ratio + row + r);
    r += count;
  }
}

// One piece of one larger sample; its moments are kept until the last piece.
template <class T>
void move_piece(const Job<T>& job, const Kernel& kernel, int64_t row, int64_t population, int64_t first_block,
                int64_t size, const float* normals, Moments& moments) {
  const int64_t blocks = blocks_of(job.elements);
  const int64_t source = (population * job.particles + job.ancestors[row]) * job.elements;
  for (int64_t j = 0; j < 4; ++j) {
    const int64_t start = j * blocks + first_block;
    const int64_t count = std::min(size, job.elements - start);
    if (count > 0)
      step(job.x + source + start, job.score + source + start, normals + j * kTile, static_cast<T>(kernel.drift),
           static_cast<T>(kernel.scale), job.moved + row * job.elements + start, count, moments);
  }
  if (first_block + size == blocks) {
    job.ratio[row] = static_cast<T>(kernel.ratio(moments));
    moments = Moments{};
  }
}

template <class T>
void run(const Job<T>& job, int64_t populations, const int64_t* rng, int64_t first_population) {
  const int64_t particles = job.particles, elements = job.elements;
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, elements));
  torch::stable::parallel_for(0, populations * particles, grain, [&](int64_t begin, int64_t end) {
    Moments moments;
    int64_t population = begin / particles;
    Kernel kernel(job.coefficients + 3 * population, elements);
    for_each_tile(begin, end, particles, elements, rng, 0, first_population, 0,
                  [&](int64_t row, int64_t rows, int64_t first_block, int64_t size, const float* normals) {
                    if (blocks_of(elements) == 1) return move_points(job, row, rows, normals);
                    for (int64_t r = 0; r < rows; ++r) {
                      const int64_t now = (row + r) / particles;
                      if (now != population) kernel = Kernel(job.coefficients + 3 * now, elements);
                      population = now;
                      move_piece(job, kernel, row + r, population, first_block, size, normals + r * size, moments);
                    }
                  });
  });
}

std::tuple<Tensor, Tensor> propagate(Tensor x, Tensor score, Tensor ancestors, Tensor coefficients, Tensor rng,
                                     int64_t first_population) {
  STD_TORCH_CHECK(x.dim() == 3 && score.dim() == 3 && ancestors.dim() == 2, "x, score [P, N, d]; ancestors [P, N]");
  STD_TORCH_CHECK(x.scalar_type() == score.scalar_type(), "x and score must have one dtype");
  STD_TORCH_CHECK(ancestors.scalar_type() == ScalarType::Int, "ancestors must be int32");
  STD_TORCH_CHECK(coefficients.scalar_type() == ScalarType::Double, "coefficients must be float64");
  STD_TORCH_CHECK(rng.scalar_type() == ScalarType::Long, "rng must be int64");
  x = torch::stable::contiguous(x);
  score = torch::stable::contiguous(score);
  ancestors = torch::stable::contiguous(ancestors);
  coefficients = torch::stable::contiguous(coefficients);
  rng = torch::stable::contiguous(rng);
  const int64_t populations = x.size(0), particles = x.size(1), elements = x.size(2);
  Tensor moved = torch::stable::new_empty(x, {populations, particles, elements});
  Tensor ratio = torch::stable::new_empty(x, {populations, particles});
  const auto launch = [&](auto sample) {
    using T = decltype(sample);
    const Job<T> job{static_cast<const T*>(x.data_ptr()),
                     static_cast<const T*>(score.data_ptr()),
                     static_cast<const int32_t*>(ancestors.data_ptr()),
                     static_cast<const double*>(coefficients.data_ptr()),
                     particles,
                     elements,
                     static_cast<T*>(moved.data_ptr()),
                     static_cast<T*>(ratio.data_ptr())};
    run(job, populations, static_cast<const int64_t*>(rng.data_ptr()), first_population);
  };
  if (x.scalar_type() == ScalarType::Float) {
    launch(float{});
  } else if (x.scalar_type() == ScalarType::Double) {
    launch(double{});
  } else {
    STD_TORCH_CHECK(false, "x must be float32 or float64");
  }
  return {moved, ratio};
}

}  // namespace
}  // namespace edmfast

STABLE_TORCH_LIBRARY_IMPL(edmfast, CPU, m) { m.impl("propagate", TORCH_BOX(&edmfast::propagate)); }
