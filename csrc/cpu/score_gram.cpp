// Inner products of M scores with each other and with a displacement, for each particle, in one pass over memory.
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <type_traits>

#include "../include/arguments.h"
#include "../include/library.h"
#include "gram_points.h"
#include "parallel.h"

namespace edmfast {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The elements of each vector that are taken at a time: nine such pieces fit the first cache.
constexpr int64_t kPiece = 256;
static_assert(kPiece % (kPointElements * kPointRows) == 0 && kPiece % kLanes == 0);

template <class T>
EDMFAST_HD void widen_body(const T* from, int64_t n, float* to) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(from[i]);
}

EDMFAST_MULTIVERSION void widen(const Half* from, int64_t n, float* to) { widen_body(from, n, to); }
EDMFAST_MULTIVERSION void widen(const BFloat16* from, int64_t n, float* to) { widen_body(from, n, to); }

template <class T>
struct Job {
  const T* scores;        // [M, rows, d]
  const T* displacement;  // [rows, d], or null where the displacement is absent or empty
  int scores_count, count;
  int64_t rows, elements;
  double* gram;   // [rows, M, M]
  double* along;  // [rows, M]
};

// Half precisions are converted to float32, which holds them exactly.
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
class Pieces {
 public:
  explicit Pieces(const Job<T>& job) : job_(job) {}

  // The addresses of n <= kPiece elements of every vector, `offset` elements behind its beginning.
  const Wide<T>* const* at(int64_t offset, int64_t n) {
    for (int v = 0; v < job_.count; ++v) {
      if constexpr (kWidens) {
        widen(start_of(v) + offset, n, copies_[v]);
        starts_[v] = copies_[v];
      } else {
        starts_[v] = start_of(v) + offset;
      }
    }
    return starts_;
  }

  // A short last piece is copied and filled up with zeros. They add nothing, and nothing behind the vector is read.
  const Wide<T>* const* padded(int64_t offset, int64_t n) {
    for (int v = 0; v < job_.count; ++v) {
      std::fill_n(copies_[v], kPadded, Wide<T>{0});
      for (int64_t k = 0; k < n; ++k) copies_[v][k] = static_cast<Wide<T>>(start_of(v)[offset + k]);
      starts_[v] = copies_[v];
    }
    return starts_;
  }

 private:
  static constexpr bool kWidens = !std::is_same_v<T, Wide<T>>;
  static constexpr int64_t kPadded = kPointRows * kPointElements;

  const T* start_of(int v) const {
    return v < job_.scores_count ? job_.scores + v * job_.rows * job_.elements : job_.displacement;
  }

  const Job<T>& job_;
  const Wide<T>* starts_[kMaxVectors];
  Wide<T> copies_[kMaxVectors][kWidens ? kPiece : kPadded];
};

template <class T>
void run_points(const Job<T>& job, int64_t begin, int64_t end) {
  Pieces<T> pieces(job);
  const int64_t count = job.scores_count, most = kPiece / kPointElements;
  for (int64_t row = begin, rows = 0; row < end; row += rows) {
    rows = std::min(most, end - row);
    double* gram = job.gram + row * count * count;
    double* along = job.along + row * count;
    if (rows >= kPointRows) {
      rows -= rows % kPointRows;
      points(pieces.at(row * job.elements, rows * job.elements), job.scores_count, job.count, job.elements, rows, gram,
             along);
    } else {
      double last_gram[kPointRows * kMaxScores * kMaxScores], last_along[kPointRows * kMaxScores];
      points(pieces.padded(row * job.elements, rows * job.elements), job.scores_count, job.count, job.elements,
             kPointRows, last_gram, last_along);
      std::copy_n(last_gram, rows * count * count, gram);
      if (job.count > count) std::copy_n(last_along, rows * count, along);
    }
  }
}

template <class T>
void run_rows(const Job<T>& job, int64_t begin, int64_t end) {
  Pieces<T> pieces(job);
  Sums sums;
  const int64_t count = job.scores_count;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t rest = job.elements % kLanes, whole = job.elements - rest;
    for (int64_t start = 0; start < whole; start += kPiece) {
      const int64_t n = std::min(kPiece, whole - start);
      add_products(pieces.at(row * job.elements + start, n), job.scores_count, job.count, n, start == 0, sums);
    }
    // an empty sample is included: its sums are zero
    if (rest > 0 || whole == 0)
      add_products(pieces.padded(row * job.elements + whole, rest), job.scores_count, job.count, kLanes, whole == 0,
                   sums);
    store_sums(sums, job.scores_count, job.count, job.gram + row * count * count, job.along + row * count);
  }
}

template <class T>
void run(const Job<T>& job) {
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, job.elements * job.count));
  in_parallel(job.rows, grain, [&](int64_t begin, int64_t end) {
    if (job.elements > 0 && job.elements <= kPointElements) return run_points(job, begin, end);
    run_rows(job, begin, end);
  });
}

std::tuple<Tensor, Tensor> score_gram(Tensor scores, std::optional<Tensor> displacement) {
  STD_TORCH_CHECK(scores.dim() == 4, "scores must be [M, P, N, d], got ", shape_text(scores));
  const int64_t count = scores.size(0), populations = scores.size(1), particles = scores.size(2),
                elements = scores.size(3);
  STD_TORCH_CHECK(count >= 1 && count <= kMaxScores, "1 to ", kMaxScores, " scores are needed, got ", count);
  const ScalarType dtype = scores.scalar_type();
  scores = taken(scores, "scores", dtype, {count, populations, particles, elements}, scores);
  Tensor moved = scores;
  if (displacement.has_value()) {
    moved = taken(*displacement, "displacement", dtype, {populations, particles, elements}, scores);
  }
  Tensor gram = torch::stable::new_empty(scores, {populations, particles, count, count}, ScalarType::Double);
  Tensor along = torch::stable::new_empty(scores, {populations, particles, displacement ? count : 0},
                                          ScalarType::Double);
  if (populations * particles == 0) return {gram, along};

  const auto launch = [&](auto sample) {
    using T = decltype(sample);
    run(Job<T>{static_cast<const T*>(scores.data_ptr()),
               displacement ? static_cast<const T*>(moved.data_ptr()) : nullptr, static_cast<int>(count),
               static_cast<int>(count) + (displacement ? 1 : 0), populations * particles, elements,
               static_cast<double*>(gram.data_ptr()), static_cast<double*>(along.data_ptr())});
  };
  switch (scores.scalar_type()) {
    case ScalarType::Float: launch(float{}); break;
    case ScalarType::Double: launch(double{}); break;
    case ScalarType::Half: launch(Half{}); break;
    case ScalarType::BFloat16: launch(BFloat16{}); break;
    default: STD_TORCH_CHECK(false, "scores must be float32, float64, float16 or bfloat16, got ", scores.scalar_type());
  }
  return {gram, along};
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CPU, m) { m.impl("score_gram", TORCH_BOX(&edmfast::score_gram)); }
