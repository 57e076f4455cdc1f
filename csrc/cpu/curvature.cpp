// Curvatures from probes, products [P, N, d] and probes -> float64 [P, N], and the coefficients of the curvature-matched
// proposal from them, [P, N] -> float64 [P, 3].
#include "../include/curvature.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "../include/curvature_arguments.h"
#include "../include/library.h"
#include "../include/multiversion.h"
#include "allocate.h"
#include "ancestors.h"
#include "parallel.h"
#include "reversal_kernels.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// <v, (grad S) v> of rows [begin, end), the trace of one model by one probe.
#define EDMFAST_CURVATURE_KERNELS(S)                                                                            \
  EDMFAST_BY_WIDTH(void probe_rows(const ReversalJob<S>& job, int64_t begin, int64_t end, double* out),         \
                   for (int64_t row = begin; row < end; ++row) estimate_traces<kBytes, 1>(job, 1, row, out + row);)
EDMFAST_CURVATURE_KERNELS(float)
EDMFAST_CURVATURE_KERNELS(double)
EDMFAST_CURVATURE_KERNELS(Half)
EDMFAST_CURVATURE_KERNELS(BFloat16)
#undef EDMFAST_CURVATURE_KERNELS

Tensor curvature(Tensor products, Tensor probes, std::optional<Tensor> exponents, double exponent) {
  const CurvatureArguments in(products, probes, exponents);
  Tensor out = empty_cpu({in.populations, in.particles}, ScalarType::Double);
  double* result = static_cast<double*>(out.data_ptr());
  const double* powers = doubles_of(in.exponents);
  const auto run = [&](auto sample) {
    using S = decltype(sample);
    ReversalJob<S> job{};
    job.products[0] = static_cast<const S*>(in.products.data_ptr());
    job.probes = static_cast<const S*>(in.probes.data_ptr());
    job.models = job.count = 1, job.elements = in.elements;
    const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(16, in.elements));
    in_parallel(in.populations * in.particles, grain, [&](int64_t begin, int64_t end) {
      probe_rows(job, begin, end, result);
      for (int64_t row = begin; row < end; ++row)
        result[row] = scaled_curvature(result[row], in.elements, powers ? powers[row / in.particles] : exponent);
    });
  };
  switch (in.dtype) {
    case ScalarType::Float: run(float{}); break;
    case ScalarType::Double: run(double{}); break;
    case ScalarType::Half: run(Half{}); break;
    default: run(BFloat16{}); break;
  }
  return out;
}

// The sum over ancestors. Halves of the row are added until one number is left, and the last of an odd number of them
// waits for the next round, as in edmfast/ops/_shared/sums.py.
EDMFAST_MULTIVERSION double folded_sum(const double* values, const int32_t* ancestors, int64_t n,
                                       double* __restrict room) {
  if (n == 1) return values[ancestors[0]];
  int64_t half = n / 2;
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) room[i] = values[ancestors[i]] + values[ancestors[i + half]];
  if (n % 2 != 0) room[half] = values[ancestors[n - 1]];
  for (n -= half; n > 1; n -= half) {
    half = n / 2;
    const double* upper = room + half;
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) room[i] += upper[i];
    if (n % 2 != 0) room[half] = room[n - 1];
  }
  return room[0];
}

Tensor curvature_matched(Tensor curvature, Tensor ancestors, std::optional<Tensor> exponents, double exponent,
                         Tensor levels) {
  const MatchedArguments in(curvature, ancestors, exponents, levels);
  Tensor out = empty_cpu({in.populations, 3}, ScalarType::Double);
  const double* values = static_cast<const double*>(in.curvature.data_ptr());
  const int32_t* indices = static_cast<const int32_t*>(in.ancestors.data_ptr());
  const double* const both = static_cast<const double*>(in.levels.data_ptr());
  const double* powers = doubles_of(in.exponents);
  double* result = static_cast<double*>(out.data_ptr());
  const int64_t n = in.particles;
  in_parallel(in.populations, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, n)), [&](int64_t begin, int64_t end) {
    std::vector<double> room(n - n / 2);
    for (int64_t p = begin; p < end; ++p) {
      check_inside(all_below(indices + p * n, n, n), n);
      const double mean = folded_sum(values + p * n, indices + p * n, n, room.data()) / static_cast<double>(n);
      store_matched(mean, both, powers ? powers[p] : exponent, result + 3 * p);
    }
  });
  return out;
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CPU, m) {
  m.impl("curvature", TORCH_BOX(&edmfast::curvature));
  m.impl("curvature_matched", TORCH_BOX(&edmfast::curvature_matched));
}
