// What stands between the matrix products of a residual perceptron, one pass over a block that is in cache.
#pragma once
#include <cstdint>

#include "../include/exp.h"
#include "../include/multiversion.h"

namespace edmfast {

// h += silu(z + shift), z = silu'(z + shift); rows of n numbers, shifts `stride` apart (0: one for all rows).
template <class T>
EDMFAST_HD void activate_body(T* __restrict h, T* __restrict z, const T* shifts, int64_t stride, int64_t rows,
                              int64_t n) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* __restrict shift = shifts + row * stride;
    T *__restrict to = h + row * n, *__restrict slope = z + row * n;
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) {
      const T v = slope[k] + shift[k];
      const T s = T{1} / (T{1} + exp_minus(v));
      to[k] += v * s;
      slope[k] = s + v * s * (T{1} - s);
    }
  }
}

// g += d (null: nothing to add), t = g s.
template <class T>
EDMFAST_HD void pull_body(T* __restrict g, const T* __restrict d, const T* __restrict s, T* __restrict t, int64_t n) {
  if (d == nullptr) {
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) t[k] = g[k] * s[k];
  } else {
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) {
      g[k] += d[k];
      t[k] = g[k] * s[k];
    }
  }
}

template <class T>
EDMFAST_HD void add_body(T* __restrict to, const T* __restrict from, int64_t rows, int64_t n, int64_t stride) {
  for (int64_t row = 0; row < rows; ++row) {
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) to[row * n + k] += from[row * stride + k];
  }
}

// A template cannot be compiled for several targets: one function for each type.
#define EDMFAST_MLP(T)                                                                                           \
  EDMFAST_MULTIVERSION inline void activate(T* h, T* z, const T* shifts, int64_t stride, int64_t rows, int64_t n) { \
    activate_body(h, z, shifts, stride, rows, n);                                                                \
  }                                                                                                              \
  EDMFAST_MULTIVERSION inline void pull(T* g, const T* d, const T* s, T* t, int64_t n) { pull_body(g, d, s, t, n); } \
  EDMFAST_MULTIVERSION inline void add_rows(T* to, const T* from, int64_t rows, int64_t n, int64_t stride) {     \
    add_body(to, from, rows, n, stride);                                                                         \
  }
EDMFAST_MLP(float)
EDMFAST_MLP(double)
#undef EDMFAST_MLP

}  // namespace edmfast
