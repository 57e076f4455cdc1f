// The proposal step: reads x and the scores through the ancestors, adds noise, and writes x_u and the kernel log-ratio
// R.

#include <algorithm>
#include <atomic>
#include <optional>
#include <tuple>
#include <vector>

#include "../include/arguments.h"
#include "../include/library.h"
#include "ancestors.h"
#include "allocate.h"
#include "parallel.h"
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
  const double* coefficients;  // [P, M + 2], or [P, N, M + 2]
  bool each;                   // whether every particle has a row of coefficients, which its children read
  const uint8_t* mask;         // [P, d], or null
  int64_t particles, elements;
  S* moved;
  T* ratio;

  const double* row_of(int64_t population, int64_t ancestor) const {
    return coefficients + (models + 2) * (each ? population * particles + ancestor : population);
  }
  const uint8_t* mask_of(int64_t population) const {
    return mask == nullptr ? nullptr : mask + population * elements;
  }
  int64_t moving(int64_t population) const {
    if (mask == nullptr) return elements;
    return elements - std::count(mask_of(population), mask_of(population) + elements, uint8_t{0});
  }
};

// Samples of at most four elements take one block each, and word j is element j.
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
    gather_points(job.x + first, ancestors, count, d, x);
    Kernel kernels[kTile];
    const int64_t moving = job.moving(population), kernel_count = job.each ? count : 1;
    for (int64_t i = 0; i < kernel_count; ++i)
      kernels[i] = Kernel(job.row_of(population, ancestors[i]), job.models, moving);
    for (int64_t k = 0; k < job.models; ++k) {
      gather_points(job.scores[k] + first, ancestors, count, d, score);
      if (job.each) {
        T drifts[4 * kTile];
        for (int64_t i = 0; i < count; ++i)
          std::fill_n(drifts + i * d, d, static_cast<T>(job.row_of(population, ancestors[i])[k]));
        add_shifts(score, drifts, k == 0, shift, count * d);
      } else {
        add_shift(score, static_cast<T>(job.row_of(population, 0)[k]), k == 0, shift, count * d);
      }
    }
    points(x, shift, normals + r, job.mask_of(population), kernels, job.each, count, d, job.moved + (row + r) * d,
           job.ratio + row + r);
    r += count;
  }
}

// Moves pieces of larger samples, one tile after the other.
template <class S>
class Pieces {
 public:
  explicit Pieces(const Job<S>& job) : job_(job) {}

  // Moves blocks [first_block, first_block + size) of samples, which may belong to several populations.
  void move(int64_t row, int64_t rows, int64_t first_block, int64_t size, const float* normals) {
    for (int64_t r = 0; r < rows;) {
      const int64_t population = (row + r) / job_.particles;
      const int64_t all = std::min(rows - r, (population + 1) * job_.particles - row - r);
      const int64_t count = job_.each ? 1 : all;
      take(population, job_.row_of(population, job_.ancestors[row + r]));
      move_some(row + r, count, first_block, size, normals + r * size);
      r += count;
    }
  }

 private:
  // Keeps the numbers of one row of coefficients, which the pieces of a large sample share.
  void take(int64_t population, const double* coefficients) {
    if (population == population_ && coefficients == coefficients_) return;
    if (population != population_) moving_ = job_.moving(population);
    population_ = population, coefficients_ = coefficients;
    kernel_ = Kernel(coefficients, job_.models, moving_);
  }

  void move_some(int64_t row, int64_t count, int64_t first_block, int64_t size, const float* normals) {
    using T = typename Job<S>::T;
    const int64_t d = job_.elements, blocks = blocks_of(d), first = population_ * job_.particles * d;
    Rows<S> rows{job_.x + first, {}, job_.models, d, {}, static_cast<T>(kernel_.scale), job_.mask_of(population_),
                 job_.ancestors + row, job_.moved + row * d};
    for (int64_t k = 0; k < job_.models; ++k) {
      rows.scores[k] = job_.scores[k] + first;
      rows.drift[k] = static_cast<T>(coefficients_[k]);
    }
    Moments moments[kTile / 2];
    move_rows(rows, count, first_block, size, normals, moments);
    if (size < blocks) {  // one sample takes several pieces, and its moments are kept until the last
      kept_ = first_block == 0 ? moments[0] : kept_ + moments[0];
      moments[0] = kept_;
    }
    if (first_block + size < blocks) return;
    for (int64_t r = 0; r < count; ++r) job_.ratio[row + r] = static_cast<T>(kernel_.ratio(moments[r]));
  }

  const Job<S>& job_;
  Kernel kernel_;
  Moments kept_;
  const double* coefficients_ = nullptr;
  int64_t population_ = -1, moving_ = 0;
};

// Names the places of the pieces of a tile in x, in the scores and in the result.
template <class S>
class Fetch {
 public:
  explicit Fetch(const Job<S>& job) : job_(job) {}

  Ahead of(int64_t row, int64_t rows, int64_t first_block) {
    if (blocks_of(job_.elements) == 1) return {};
    return rows == 1 ? of_piece(row, first_block) : of_rows(row);
  }

 private:
  Ahead of_piece(int64_t row, int64_t first_block) {
    const int64_t source = first_of(row) + job_.ancestors[row] * job_.elements;
    int64_t count = 0;
    for (int64_t j = 0; j < 4; ++j) {
      const int64_t start = j * blocks_of(job_.elements) + first_block;
      streams_[count++] = address(job_.x + source + start);
      streams_[count++] = address(job_.moved + row * job_.elements + start);
      for (int64_t k = 0; k < job_.models; ++k) streams_[count++] = address(job_.scores[k] + source + start);
    }
    return {streams_, count, sizeof(S)};
  }

  Ahead of_rows(int64_t row) {
    const int64_t first = first_of(row), bytes = 4 * sizeof(S);
    constexpr int64_t kLines = 4;
    for (int64_t line = 0; line < kLines; ++line) {
      streams_[line] = address(job_.moved + row * job_.elements) + 64 * line;
    }
    streams_[kLines] = address(job_.x + first);
    for (int64_t k = 0; k < job_.models; ++k) streams_[kLines + 1 + k] = address(job_.scores[k] + first);
    return {streams_,           kLines,          bytes, job_.ancestors + row, streams_ + kLines, 1 + job_.models,
            int64_t{sizeof(S)} * job_.elements, bytes};
  }

  int64_t first_of(int64_t row) const { return row / job_.particles * job_.particles * job_.elements; }
  static const char* address(const S* place) { return reinterpret_cast<const char*>(place); }

  const Job<S>& job_;
  const char* streams_[4 * (kMaxModels + 2)];
};

template <class S>
void run(const Job<S>& job, int64_t populations, const int64_t* rng, int64_t first_population,
         int64_t first_particle) {
  const int64_t particles = job.particles, elements = job.elements;
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, elements));
  std::atomic<bool> outside{false};
  in_parallel(populations * particles, grain, [&](int64_t begin, int64_t end) {
    if (!all_below(job.ancestors + begin, end - begin, particles)) {
      outside = true;
      return;
    }
    Pieces<S> pieces(job);
    Fetch<S> fetch(job);
    for_each_tile(begin, end, particles, elements, rng, 0, first_population, first_particle,
                  [&](int64_t row, int64_t rows, int64_t first_block, int64_t size, const float* normals) {
                    if (blocks_of(elements) == 1) return move_points(job, row, rows, normals);
                    pieces.move(row, rows, first_block, size, normals);
                  },
                  [&](int64_t row, int64_t count, int64_t block) { return fetch.of(row, count, block); });
  });
  check_inside(!outside, particles);
}

std::tuple<Tensor, Tensor> propagate(Tensor x, std::vector<Tensor> scores, Tensor ancestors, Tensor coefficients,
                                     Tensor rng, std::optional<Tensor> mask, int64_t first_population,
                                     int64_t first_particle) {
  const PropagateArguments in(x, std::move(scores), ancestors, coefficients, rng, std::move(mask), first_population,
                              first_particle);
  Tensor moved = empty_cpu({in.populations, in.particles, in.elements}, in.x.scalar_type());
  Tensor ratio = empty_cpu({in.populations, in.particles}, in.ratio_dtype());
  const auto launch = [&](auto sample) {
    using S = decltype(sample);
    Job<S> job{static_cast<const S*>(in.x.data_ptr()),
               {},
               in.models,
               static_cast<const int32_t*>(in.ancestors.data_ptr()),
               static_cast<const double*>(in.coefficients.data_ptr()),
               in.each,
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
    default:
      STD_TORCH_CHECK(false, "x must be float16, bfloat16, float32 or float64, got ", in.x.scalar_type());
  }
  return {moved, ratio};
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CPU, m) { m.impl("propagate", TORCH_BOX(&edmfast::propagate)); }
