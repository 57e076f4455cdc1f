// Sums over the elements of one particle for its product of reversals, in an order that depends on their number alone.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../include/models.h"
#include "../include/multiversion.h"
#include "../include/reversal.h"
#include "sum_lanes.h"

namespace edmfast {

// The probes of a piece stay in the first cache while the products of each model are read.
constexpr int64_t kPiece = 256;
static_assert(kPiece % kSumLanes == 0);

// kWide numbers from memory as doubles. One conversion of a whole vector is spelled out, since GCC would convert the
// numbers one by one, store them and load the vector.
template <class Vector>
EDMFAST_HD void load_doubles(const double* from, Vector& vector) {
  std::memcpy(&vector, from, sizeof(Vector));
}
template <class Vector>
EDMFAST_HD void load_doubles(const float* from, Vector& vector) {
  typedef float Narrow __attribute__((vector_size(sizeof(Vector) / 2)));
  Narrow narrow;
  std::memcpy(&narrow, from, sizeof(Narrow));
  vector = __builtin_convertvector(narrow, Vector);
}

// The type that pieces are read in: half precisions are converted to float32, which holds them exactly.
template <class S>
using Wide = typename ArithmeticOf<S>::type;

// The address of n <= kPiece numbers in the type that is computed with; `room` holds the converted ones.
template <class S>
EDMFAST_HD const Wide<S>* piece(const S* from, int64_t n, Wide<S>* room) {
  if constexpr (std::is_same_v<S, Wide<S>>) {
    return from;
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) room[i] = widen(from[i]);
    return room;
  }
}

template <class S>
constexpr int64_t kRoom = std::is_same_v<S, Wide<S>> ? 1 : kPiece;

// A sum over the elements of a particle: whole groups of lanes, and what is left over one by one.
template <int kBytes>
struct LongSum {
  SumLanes<double, kBytes> lanes;
  double rest = 0;

  EDMFAST_HD double total(int64_t n) const { return n < kSumLanes ? rest : lanes.sum() + rest; }
};

// traces[k] = <probes, products[k]> / count for vectors of n elements.
template <int kBytes, class S>
EDMFAST_HD void probe_body(const S* const* products, const S* probes, int64_t models, int64_t n, double count,
                           double* traces) {
  using Lanes = SumLanes<double, kBytes>;
  LongSum<kBytes> sums[kMaxModels];
  Wide<S> probe_room[kRoom<S>], room[kRoom<S>];
  for (int64_t start = 0; start < n; start += kPiece) {
    const int64_t size = std::min(kPiece, n - start), whole = size / kSumLanes * kSumLanes;
    const Wide<S>* const v = piece(probes + start, size, probe_room);
    for (int64_t k = 0; k < models; ++k) {
      const Wide<S>* const product = piece(products[k] + start, size, room);
      Lanes lanes = sums[k].lanes;
      for (int64_t at = 0; at < whole; at += kSumLanes) {
#pragma GCC unroll 8
        for (int part = 0; part < Lanes::kVectors; ++part) {
          typename Lanes::Vector a, b;
          load_doubles(v + at + part * Lanes::kWide, a);
          load_doubles(product + at + part * Lanes::kWide, b);
          lanes.part[part] += a * b;
        }
      }
      sums[k].lanes = lanes;
      for (int64_t at = whole; at < size; ++at)
        sums[k].rest += static_cast<double>(v[at]) * static_cast<double>(product[at]);
    }
  }
  for (int64_t k = 0; k < models; ++k) traces[k] = sums[k].total(n) / count;
}

// sum_k weight[k] |s_k - m|^2 with m = sum_k share[k] s_k, for scores of n elements.
template <int kBytes, class S>
EDMFAST_HD double spread_body(const S* const* scores, const double* share, const double* weight, int64_t models,
                              int64_t n) {
  using Lanes = SumLanes<double, kBytes>;
  using Vector = typename Lanes::Vector;
  LongSum<kBytes> sum;
  Wide<S> rooms[kMaxModels][kRoom<S>];
  const Wide<S>* places[kMaxModels];
  for (int64_t start = 0; start < n; start += kPiece) {
    const int64_t size = std::min(kPiece, n - start), whole = size / kSumLanes * kSumLanes;
    for (int64_t k = 0; k < models; ++k) places[k] = piece(scores[k] + start, size, rooms[k]);
    for (int64_t at = 0; at < whole; at += kSumLanes) {
#pragma GCC unroll 8
      for (int part = 0; part < Lanes::kVectors; ++part) {
        Vector score, mean{};
        for (int64_t k = 0; k < models; ++k) {
          load_doubles(places[k] + at + part * Lanes::kWide, score);
          mean += share[k] * score;
        }
        for (int64_t k = 0; k < models; ++k) {
          load_doubles(places[k] + at + part * Lanes::kWide, score);
          score -= mean;
          sum.lanes.part[part] += weight[k] * (score * score);
        }
      }
    }
    for (int64_t at = whole; at < size; ++at) {
      double mean = 0;
      for (int64_t k = 0; k < models; ++k) mean += share[k] * static_cast<double>(places[k][at]);
      for (int64_t k = 0; k < models; ++k) {
        const double gap = static_cast<double>(places[k][at]) - mean;
        sum.rest += weight[k] * (gap * gap);
      }
    }
  }
  return sum.total(n);
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
