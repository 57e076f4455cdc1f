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

template <class S>
struct ReversalJob {
  const S* scores[kMaxModels];    // [rows, d]
  const S* products[kMaxModels];  // [rows, K d]
  const S* probes;                // [rows, K d], or null where traces are given
  const double* traces;           // [M, rows], or null
  const double* exponents;        // [P, M]
  const double* levels;           // s, u
  int64_t models, rows, particles, elements, count;
  double* coefficients;  // [rows, M + 2]
  double* log_weights;   // [rows]
};

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

// Hutchinson's estimates of the traces of one row, for models <= kMost.
template <int kBytes, int kMost, class S>
EDMFAST_HD void estimate_traces(const ReversalJob<S>& job, int models, int64_t row, double* traces) {
  using Lanes = SumLanes<double, kBytes>;
  const int64_t n = job.count * job.elements;
  LongSum<kBytes> sums[kMost];
  Wide<S> probe_room[kRoom<S>], room[kRoom<S>];
  for (int64_t start = 0; start < n; start += kPiece) {
    const int64_t size = std::min(kPiece, n - start), whole = size / kSumLanes * kSumLanes;
    const Wide<S>* const v = piece(job.probes + row * n + start, size, probe_room);
    for (int k = 0; k < models; ++k) {
      const Wide<S>* const product = piece(job.products[k] + row * n + start, size, room);
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
  for (int k = 0; k < models; ++k) traces[k] = sums[k].total(n) / static_cast<double>(job.count);
}

// sum_k b_k |s_k - m|^2 over the elements of one row.
template <int kBytes, int kMost, class S>
EDMFAST_HD double spread_of(const ReversalJob<S>& job, const ReversalProduct<kMost>& product, int models,
                            int64_t row) {
  using Lanes = SumLanes<double, kBytes>;
  using Vector = typename Lanes::Vector;
  const int64_t n = job.elements;
  const double *const share = product.share, *const weight = product.weight;
  LongSum<kBytes> sum;
  Wide<S> rooms[kMost][kRoom<S>];
  const Wide<S>* places[kMost];
  for (int64_t start = 0; start < n; start += kPiece) {
    const int64_t size = std::min(kPiece, n - start), whole = size / kSumLanes * kSumLanes;
    for (int k = 0; k < models; ++k) places[k] = piece(job.scores[k] + row * n + start, size, rooms[k]);
    for (int64_t at = 0; at < whole; at += kSumLanes) {
#pragma GCC unroll 8
      for (int part = 0; part < Lanes::kVectors; ++part) {
        Vector score, mean{};
        for (int k = 0; k < models; ++k) {
          load_doubles(places[k] + at + part * Lanes::kWide, score);
          mean += share[k] * score;
        }
        for (int k = 0; k < models; ++k) {
          load_doubles(places[k] + at + part * Lanes::kWide, score);
          score -= mean;
          sum.lanes.part[part] += weight[k] * (score * score);
        }
      }
    }
    for (int64_t at = whole; at < size; ++at) {
      double mean = 0;
      for (int k = 0; k < models; ++k) mean += share[k] * static_cast<double>(places[k][at]);
      for (int k = 0; k < models; ++k) {
        const double gap = static_cast<double>(places[k][at]) - mean;
        sum.rest += weight[k] * (gap * gap);
      }
    }
  }
  return sum.total(n);
}

template <int kBytes, int kMost, class S>
EDMFAST_HD void weigh_row(const ReversalJob<S>& job, const ReversalStep& step, const ReversalPowers& powers,
                          int64_t row) {
  // a constant number of models lets the compiler unroll the loops over them
  const int models = kMost < kMaxModels ? kMost : powers.models;
  double traces[kMost];
  if (job.traces != nullptr) {
    for (int k = 0; k < models; ++k) traces[k] = job.traces[k * job.rows + row];
  } else {
    estimate_traces<kBytes, kMost>(job, models, row, traces);
  }
  const ReversalProduct<kMost> product(step, powers, traces);
  job.log_weights[row] = product.log_weight(step, spread_of<kBytes>(job, product, models, row));
  product.store(step, powers, job.coefficients + row * (models + 2));
}

template <int kBytes, class S>
EDMFAST_HD void weigh_rows_body(const ReversalJob<S>& job, const ReversalStep& step, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end;) {
    const int64_t population = row / job.particles, last = std::min(end, (population + 1) * job.particles);
    const ReversalPowers powers(job.exponents + population * job.models, static_cast<int>(job.models));
    for (; row < last; ++row) {
      switch (job.models) {
        case 1: weigh_row<kBytes, 1>(job, step, powers, row); break;
        case 2: weigh_row<kBytes, 2>(job, step, powers, row); break;
        default: weigh_row<kBytes, kMaxModels>(job, step, powers, row);
      }
    }
  }
}

// The same for every storage type, compiled for several instruction sets.
#define EDMFAST_REVERSAL_KERNELS(S)                                                                          \
  EDMFAST_BY_WIDTH(void weigh_rows(const ReversalJob<S>& job, const ReversalStep& step, int64_t begin,       \
                                   int64_t end),                                                             \
                   weigh_rows_body<kBytes>(job, step, begin, end);)
EDMFAST_REVERSAL_KERNELS(float)
EDMFAST_REVERSAL_KERNELS(double)
EDMFAST_REVERSAL_KERNELS(Half)
EDMFAST_REVERSAL_KERNELS(BFloat16)
#undef EDMFAST_REVERSAL_KERNELS

}  // namespace edmfast
