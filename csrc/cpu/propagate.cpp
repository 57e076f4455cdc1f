// Proposal step: reads x and the scores through the ancestors, adds noise, writes x_u and the kernel log-ratio R.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "../include/arguments.h"
#include "allocate.h"
#include "propagate_kernels.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class S>
struct Job {
  using T = typename ArithmeticOf<S>::type;
  const S* x;
  const S* scores[kMaxModels];
  int64_t models;
  const int32_t* ancestors;
  const double* coefficients;
  const uint8_t* mask;  // [P, d], or null
  int64_t particles, elements;
  S* moved;
  T* ratio;

  const double* row_of(int64_t population) const { return coefficients + (models + 2) * population; }
  const uint8_t* mask_of(int64_t population) const {
    return mask == nullptr ? nullptr : mask + population * elements;
  }
  Kernel kernel(int64_t population) const {
    int64_t moving = elements;
    if (mask != nullptr) moving -= std::count(mask_of(population), mask_of(population) + elements, uint8_t{0});
    return Kernel(row_of(population), models, moving);
  }
};

// Samples of at most four elements: one block each, word j is element j.
template <class S>
void move_points(const Job<S>& job, int64_t row, int64_t rows, const float* normals) {
  using T = typename Job<S>::T;
  const int64_t d = job.elements;
  S x[4 * kTile], score[4 * kTile];
  T shift[4 * kTile];
  for (int64_t r = 0; r < rows;) {
    const int64_t population = (row + r) / job.particles;
    const int64_t count = std::min(rows - r, (population + 1) * job.particles - row - r);
    const int64_t first = population * job.particles * d;
    const int32_t* ancestors = job.ancestors + row + r;
    const double* drift = job.row_of(population);
    gather_points(job.x + first, ancestors, count, d, x);
    for (int64_t k = 0; k < job.models; ++k) {
      gather_points(job.scores[k] + first, ancestors, count, d, score);
      add_shift(score, static_cast<T>(drift[k]), k == 0, shift, count * d);
    }
    points(x, shift, normals + r, job.mask_of(population), job.kernel(population), count, d,
           job.moved + (row + r) * d, job.ratio + row + r);
    r += count;
  }
}

// One piece of one larger sample; its moments are kept until the last piece.
template <class S>
void move_piece(const Job<S>& job, const Kernel& kernel, int64_t row, int64_t population, int64_t first_block,
                int64_t size, const float* normals, Moments& moments) {
  using T = typename Job<S>::T;
  const int64_t blocks = blocks_of(job.elements);
  const int64_t source = (population * job.particles + job.ancestors[row]) * job.elements;
  const double* drift = job.row_of(population);
  const uint8_t* mask = job.mask_of(population);
  T shift[kTile];
  for (int64_t j = 0; j < 4; ++j) {
    const int64_t start = j * blocks + first_block;
    const int64_t count = std::min(size, job.elements - start);
    if (count <= 0) break;
    for (int64_t k = 0; k < job.models; ++k)
      add_shift(job.scores[k] + source + start, static_cast<T>(drift[k]), k == 0, shift, count);
    step(job.x + source + start, shift, normals + j * kTile, mask == nullptr ? nullptr : mask + start,
         static_cast<T>(kernel.scale), job.moved + row * job.elements + start, count, moments);
  }
  if (first_block + size == blocks) {
    job.ratio[row] = static_cast<T>(kernel.ratio(moments));
    moments = Moments{};
  }
}

// Where the pieces that begin with `first_block` lie in x, the scores and the result.
template <class S>
Ahead ahead_of(const Job<S>& job, int64_t row, int64_t first_block, const char** streams) {
  const int64_t source = (row / job.particles * job.particles + job.ancestors[row]) * job.elements;
  int64_t count = 0;
  for (int64_t j = 0; j < 4; ++j) {
    const int64_t start = j * blocks_of(job.elements) + first_block;
    streams[count++] = reinterpret_cast<const char*>(job.x + source + start);
    streams[count++] = reinterpret_cast<const char*>(job.moved + row * job.elements + start);
    for (int64_t k = 0; k < job.models; ++k)
      streams[count++] = reinterpret_cast<const char*>(job.scores[k] + source + start);
  }
  return {streams, count, sizeof(S)};
}

template <class S>
void run(const Job<S>& job, int64_t populations, const int64_t* rng, int64_t first_population,
         int64_t first_particle) {
  const int64_t particles = job.particles, elements = job.elements;
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, elements));
  torch::stable::parallel_for(0, populations * particles, grain, [&](int64_t begin, int64_t end) {
    Moments moments;
    int64_t population = begin / particles;
    Kernel kernel = job.kernel(population);
    const char* streams[4 * (kMaxModels + 2)];
    for_each_tile(begin, end, particles, elements, rng, 0, first_population, first_particle,
                  [&](int64_t row, int64_t rows, int64_t first_block, int64_t size, const float* normals) {
                    if (blocks_of(elements) == 1) return move_points(job, row, rows, normals);
                    for (int64_t r = 0; r < rows; ++r) {
                      const int64_t now = (row + r) / particles;
                      if (now != population) kernel = job.kernel(now);
                      population = now;
                      move_piece(job, kernel, row + r, population, first_block, size, normals + r * size, moments);
                    }
                  },
                  [&](int64_t row, int64_t first_block) { return ahead_of(job, row, first_block, streams); });
  });
}

std::tuple<Tensor, Tensor> propagate(Tensor x, std::vector<Tensor> scores, Tensor ancestors, Tensor coefficients,
                                     Tensor rng, std::optional<Tensor> mask, int64_t first_population,
                                     int64_t first_particle) {
  const PropagateArguments in(x, std::move(scores), ancestors, coefficients, rng, std::move(mask));
  Tensor moved = empty_cpu({in.populations, in.particles, in.elements}, in.x.scalar_type());
  Tensor ratio = empty_cpu({in.populations, in.particles}, in.ratio_dtype());
  const auto launch = [&](auto sample) {
    using S = decltype(sample);
    Job<S> job{static_cast<const S*>(in.x.data_ptr()),
               {},
               in.models,
               static_cast<const int32_t*>(in.ancestors.data_ptr()),
               static_cast<const double*>(in.coefficients.data_ptr()),
               in.mask_data(),
               in.particles,
               in.elements,
               static_cast<S*>(moved.data_ptr()),
               static_cast<typename Job<S>::T*>(ratio.data_ptr())};
    for (int64_t k = 0; k < in.models; ++k) job.scores[k] = static_cast<const S*>(in.scores[k].data_ptr());
    run(job, in.populations, static_cast<const int64_t*>(in.rng.data_ptr()), first_population, first_particle);
  };
  switch (in.x.scalar_type()) {
    case ScalarType::Float: launch(float{}); break;
    case ScalarType::Double: launch(double{}); break;
    case ScalarType::Half: launch(Half{}); break;
    case ScalarType::BFloat16: launch(BFloat16{}); break;
    default: STD_TORCH_CHECK(false, "x must be float16, bfloat16, float32 or float64");
  }
  return {moved, ratio};
}

}  // namespace
}  // namespace edmfast

STABLE_TORCH_LIBRARY_IMPL(edmfast, CPU, m) { m.impl("propagate", TORCH_BOX(&edmfast::propagate)); }
