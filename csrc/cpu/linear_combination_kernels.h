// Arithmetic of linear combinations on flat arrays: every product and every sum rounds on its own, in the order of the
// terms, so that the bits of an element depend on nothing but its own inputs.
#pragma once
#include <algorithm>

#include "../include/multiversion.h"
#include "linear_combination.h"
#include "low_precision.h"
#include "noise_tile.h"

namespace edmfast {

// The first `count` tensors and their coefficients. The tensors are flat arrays of one layout.
template <class S>
struct Terms {
  using T = typename ArithmeticOf<S>::type;
  const S* tensors[kMaxTerms];
  T coefficients[kMaxTerms];
  int count;
};

// out[i] = sum_k c_k t_k[i] for i in [0, n), where `out` starts at element `first` of the tensors.
template <int kCount, class S, class T, class To>
EDMFAST_HD void sum_of(const Terms<S>& terms, int64_t first, int64_t n, To* __restrict out) {
  const S* tensors[kCount];
  T coefficients[kCount];
  for (int k = 0; k < kCount; ++k) {
    tensors[k] = terms.tensors[k] + first;
    coefficients[k] = terms.coefficients[k];
  }
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    T sum = coefficients[0] * widen(tensors[0][i]);
#pragma GCC unroll 8
    for (int k = 1; k < kCount; ++k) sum = sum + coefficients[k] * widen(tensors[k][i]);
    narrow(sum, out[i]);
  }
}

template <class S, class To>
EDMFAST_HD void sum_any(const Terms<S>& terms, int64_t first, int64_t n, To* out) {
  using T = typename Terms<S>::T;
  switch (terms.count) {
    case 1: return sum_of<1, S, T>(terms, first, n, out);
    case 2: return sum_of<2, S, T>(terms, first, n, out);
    case 3: return sum_of<3, S, T>(terms, first, n, out);
    case 4: return sum_of<4, S, T>(terms, first, n, out);
    case 5: return sum_of<5, S, T>(terms, first, n, out);
    case 6: return sum_of<6, S, T>(terms, first, n, out);
    case 7: return sum_of<7, S, T>(terms, first, n, out);
    default: return sum_of<8, S, T>(terms, first, n, out);
  }
}

// out = sum + weight * normals
template <class T, class To>
EDMFAST_HD void add_any(const T* __restrict sum, T weight, const float* __restrict normals, int64_t n,
                        To* __restrict out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) narrow(sum[i] + weight * static_cast<T>(normals[i]), out[i]);
}

template <class T>
EDMFAST_HD void add_in_place(T* __restrict sum, T weight, const float* __restrict normals, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sum[i] = sum[i] + weight * static_cast<T>(normals[i]);
}

// sum_terms writes the sum of the terms as a result, start_sum as a number of the arithmetic; finish_sum adds the last
// noise and writes the result.
#define EDMFAST_COMBINATION_KERNELS(S, T)                                                                            \
  EDMFAST_MULTIVERSION inline void sum_terms(const Terms<S>& terms, int64_t first, int64_t n, S* out) {              \
    sum_any(terms, first, n, out);                                                                                   \
  }                                                                                                                  \
  EDMFAST_MULTIVERSION inline void start_sum(const Terms<S>& terms, int64_t first, int64_t n, T* sum) {              \
    sum_any(terms, first, n, sum);                                                                                   \
  }                                                                                                                  \
  EDMFAST_MULTIVERSION inline void finish_sum(const T* sum, T weight, const float* normals, int64_t n, S* out) {     \
    add_any(sum, weight, normals, n, out);                                                                           \
  }
EDMFAST_COMBINATION_KERNELS(float, float)
EDMFAST_COMBINATION_KERNELS(double, double)
EDMFAST_COMBINATION_KERNELS(Half, float)
EDMFAST_COMBINATION_KERNELS(BFloat16, float)
#undef EDMFAST_COMBINATION_KERNELS

EDMFAST_MULTIVERSION inline void add_noise(float* sum, float weight, const float* normals, int64_t n) {
  add_in_place(sum, weight, normals, n);
}
EDMFAST_MULTIVERSION inline void add_noise(double* sum, double weight, const float* normals, int64_t n) {
  add_in_place(sum, weight, normals, n);
}

// Normals of whole rows, row after row: element j * size + b of a row is word j of its counter b. Rows of at most four
// elements take one counter each, and their words lie apart in the tile.
template <int kElements>
EDMFAST_HD void points_in_order(const float* normals, int64_t rows, float* out) {
  for (int64_t r = 0; r < rows; ++r)
    for (int j = 0; j < kElements; ++j) out[r * kElements + j] = normals[j * kTile + r];
}

EDMFAST_MULTIVERSION inline void rows_in_order(const float* normals, int64_t rows, int64_t size, int64_t elements,
                                               float* out) {
  if (size == 1) {
    switch (elements) {
      case 1: return points_in_order<1>(normals, rows, out);
      case 2: return points_in_order<2>(normals, rows, out);
      case 3: return points_in_order<3>(normals, rows, out);
      default: return points_in_order<4>(normals, rows, out);
    }
  }
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < 4; ++j) {
      const int64_t count = std::min(size, elements - j * size);
      if (count > 0) std::copy_n(normals + j * kTile + r * size, count, out + r * elements + j * size);
    }
}

}  // namespace edmfast
