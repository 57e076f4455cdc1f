// The work between the matrix products of a residual perceptron, in one pass over a block that is in cache.
#pragma once
#include <cstdint>

#include "../include/exp.h"
#include "../include/multiversion.h"

namespace edmfast {

// z += shift, h += silu(z), slope = silu'(z), where slope may be z. Rows have n numbers, and shifts are `stride`
// apart; a stride of 0 means that all rows share them.
template <class T>
EDMFAST_HD void activate_body(T* __restrict h, T* z, T* slope, const T* shifts, int64_t stride, int64_t rows,
                              int64_t n) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* __restrict shift = shifts + row * stride;
    T *__restrict to = h + row * n, *kept = z + row * n, *to_slope = slope + row * n;
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) {
      const T v = kept[k] + shift[k];
      const T s = sigmoid(v);
      to[k] += v * s;
      kept[k] = v;
      to_slope[k] = s + v * s * (T{1} - s);
    }
  }
}

// Takes n numbers of a layer, with m = W h' and the cotangent g of the output of the layer. Writes the next h and h',
// p = silu'(z) g, r = silu"(z) m g, and m = silu'(z).
template <class T>
EDMFAST_HD void advance_body(const T* __restrict z, T* __restrict m, const T* __restrict g, const T* __restrict h,
                             const T* __restrict along, T* __restrict next, T* __restrict next_along,
                             T* __restrict p, T* __restrict r, int64_t n) {
#pragma omp simd
  for (int64_t k = 0; k < n; ++k) {
    const T s = sigmoid(z[k]), rest = s * (T{1} - s), slope = s + z[k] * rest;
    const T bend = rest * (T{2} + z[k] * (T{1} - (s + s)));
    next[k] = h[k] + z[k] * s;
    next_along[k] = along[k] + slope * m[k];
    p[k] = slope * g[k];
    r[k] = bend * m[k] * g[k];
    m[k] = slope;
  }
}

// g += d, unless d is null, and t = g s.
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

// g += d, unless d is null, and q += g s.
template <class T>
EDMFAST_HD void pull_onto_body(T* __restrict g, const T* __restrict d, const T* __restrict s, T* __restrict q,
                               int64_t n) {
  if (d == nullptr) {
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) q[k] += g[k] * s[k];
  } else {
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) {
      g[k] += d[k];
      q[k] += g[k] * s[k];
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

// Adds the sum of the rows to `to`.
template <class T>
EDMFAST_HD void sum_rows_body(T* __restrict to, const T* __restrict from, int64_t rows, int64_t n) {
  for (int64_t row = 0; row < rows; ++row) {
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) to[k] += from[row * n + k];
  }
}

// The inputs of the gradients of x and of the four numbers of a row: states [rows, d] of a block.
template <class T>
struct InputRows {
  int64_t rows, d;
  const T *x, *y, *v;             // y = c x and the cotangent of the field
  const T *h, *along, *pulled;    // the output of the network, its derivative along a v, J_hᵀ (w y)
  const T* to_y;                  // the part of the gradient that passes through h_0
  const T *c, *w, *a, *b, *e;     // [rows]
  T *to_x, *to_numbers;           // [rows, d], which is added to; [rows, 4]
};

template <class T>
EDMFAST_HD void input_rows_body(const InputRows<T>& job) {
  for (int64_t row = 0; row < job.rows; ++row) {
    const int64_t start = row * job.d;
    const T *__restrict x = job.x + start, *__restrict y = job.y + start, *__restrict v = job.v + start;
    const T *__restrict h = job.h + start, *__restrict along = job.along + start;
    const T *__restrict pulled = job.pulled + start, *__restrict rest = job.to_y + start;
    T* __restrict to_x = job.to_x + start;
    const T c = job.c[row], w = job.w[row], a = job.a[row], b = job.b[row], e = job.e[row];
    double to_c = 0, to_w = 0, to_a = 0, to_b = 0;
#pragma omp simd reduction(+ : to_c, to_w, to_a, to_b)
    for (int64_t k = 0; k < job.d; ++k) {
      const T to_y = e * y[k] + b * v[k] + w * (along[k] - e * h[k]) + rest[k];
      to_x[k] += c * to_y;
      to_c += static_cast<double>(x[k]) * to_y;
      to_w += static_cast<double>(a * v[k] - e * y[k]) * h[k] + static_cast<double>(along[k]) * y[k];
      to_a += static_cast<double>(v[k]) * (w * h[k] + pulled[k]);
      to_b += static_cast<double>(v[k]) * y[k];
    }
    T* to = job.to_numbers + 4 * row;
    to[0] = static_cast<T>(to_c), to[1] = static_cast<T>(to_w);
    to[2] = static_cast<T>(to_a), to[3] = static_cast<T>(to_b);
  }
}

// GCC does not compile a template for several targets, so there is one function for each type.
#define EDMFAST_MLP(T)                                                                                             \
  EDMFAST_MULTIVERSION inline void activate(T* h, T* z, T* slope, const T* shifts, int64_t stride, int64_t rows,   \
                                            int64_t n) {                                                           \
    activate_body(h, z, slope, shifts, stride, rows, n);                                                           \
  }                                                                                                                \
  EDMFAST_MULTIVERSION inline void advance(const T* z, T* m, const T* g, const T* h, const T* along, T* next,      \
                                           T* next_along, T* p, T* r, int64_t n) {                                 \
    advance_body(z, m, g, h, along, next, next_along, p, r, n);                                                    \
  }                                                                                                                \
  EDMFAST_MULTIVERSION inline void pull(T* g, const T* d, const T* s, T* t, int64_t n) { pull_body(g, d, s, t, n); } \
  EDMFAST_MULTIVERSION inline void pull_onto(T* g, const T* d, const T* s, T* q, int64_t n) {                      \
    pull_onto_body(g, d, s, q, n);                                                                                 \
  }                                                                                                                \
  EDMFAST_MULTIVERSION inline void add_rows(T* to, const T* from, int64_t rows, int64_t n, int64_t stride) {       \
    add_body(to, from, rows, n, stride);                                                                           \
  }                                                                                                                \
  EDMFAST_MULTIVERSION inline void sum_rows(T* to, const T* from, int64_t rows, int64_t n) {                       \
    sum_rows_body(to, from, rows, n);                                                                              \
  }                                                                                                                \
  EDMFAST_MULTIVERSION inline void input_rows(const InputRows<T>& job) { input_rows_body(job); }
EDMFAST_MLP(float)
EDMFAST_MLP(double)
#undef EDMFAST_MLP

}  // namespace edmfast
