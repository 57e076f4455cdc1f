// Sums over the elements of one particle for its product of reversals, in an order that depends on their number alone.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../include/models.h"
#include "../include/multiversion.h"
#include "../include/reversal.h"
#include "sum_lanes.h"

namespace edmfast {

// The probes of a piece stay in the first cache while the products of each model are read.
constexpr int64_t kPiece = 1024;
static_assert(kPiece % kSumLanes == 0);

// Calls element(width, at, sum) for all of [0, n), in vectors and then one by one.
template <int kBytes, class F>
EDMFAST_HD void add_elements(int64_t n, SumLanes<double, kBytes>& sums, const F& element) {
  using Lanes = SumLanes<double, kBytes>;
  int64_t at = 0;
  for (; at + kSumLanes <= n; at += kSumLanes) {
#pragma GCC unroll 8
    for (int part = 0; part < Lanes::kVectors; ++part)
      element(std::integral_constant<int, Lanes::kWide>{}, at + part * Lanes::kWide, sums.part[part]);
  }
  for (; at < n; ++at) element(std::integral_constant<int, 1>{}, at, sums.part[0]);
}

// traces[k] = <probes, products[k]> / count for vectors of n elements.
template <int kBytes, class S>
EDMFAST_HD void probe_body(const S* const* products, const S* probes, int64_t models, int64_t n, double count,
                           double* traces) {
  using Lanes = SumLanes<double, kBytes>;
  using Vector = typename Lanes::Vector;
  Lanes sums[kMaxModels];
  for (int64_t start = 0; start < n; start += kPiece) {
    const int64_t size = std::min(kPiece, n - start);
    for (int64_t k = 0; k < models; ++k) {
      const S* const v = probes + start;
      const S* const product = products[k] + start;
      add_elements<kBytes>(size, sums[k], [&](auto width, int64_t at, Vector& sum) __attribute__((always_inline)) {
        Vector a, b;
        load_vector<decltype(width)::value>(v + at, a);
        load_vector<decltype(width)::value>(product + at, b);
        sum += a * b;
      });
    }
  }
  for (int64_t k = 0; k < models; ++k) traces[k] = sums[k].sum() / count;
}

// sum_k weight[k] |s_k - m|^2 with m = sum_k share[k] s_k, for scores of n elements.
template <int kBytes, class S>
EDMFAST_HD double spread_body(const S* const* scores, const double* share, const double* weight, int64_t models,
                              int64_t n) {
  using Lanes = SumLanes<double, kBytes>;
  using Vector = typename Lanes::Vector;
  Lanes sums;
  add_elements<kBytes>(n, sums, [&](auto width, int64_t at, Vector& sum) __attribute__((always_inline)) {
    constexpr int kCount = decltype(width)::value;
    Vector score, mean{};
    for (int64_t k = 0; k < models; ++k) {
      load_vector<kCount>(scores[k] + at, score);
      mean += share[k] * score;
    }
    for (int64_t k = 0; k < models; ++k) {
      load_vector<kCount>(scores[k] + at, score);
      score -= mean;
      sum += weight[k] * (score * score);
    }
  });
  return sums.sum();
}

// The same for every storage type, compiled for several instruction sets.
#define EDMFAST_REVERSAL_KERNELS(S)                                                                              \
  EDMFAST_BY_WIDTH(void probe(const S* const* products, const S* probes, int64_t models, int64_t n, double count, \
                              double* traces),                                                                   \
                   probe_body<kBytes>(products, probes, models, n, count, traces);)                              \
  EDMFAST_BY_WIDTH(double spread(const S* const* scores, const double* share, const double* weight,              \
                                 int64_t models, int64_t n),                                                     \
                   return spread_body<kBytes>(scores, share, weight, models, n);)
EDMFAST_REVERSAL_KERNELS(float)
EDMFAST_REVERSAL_KERNELS(double)
EDMFAST_REVERSAL_KERNELS(Half)
EDMFAST_REVERSAL_KERNELS(BFloat16)
#undef EDMFAST_REVERSAL_KERNELS

}  // namespace edmfast
