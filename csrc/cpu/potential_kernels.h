// Rows of the inner-product potential: each output element is written once, and each input is read once. Sums are in
// float64. The order in which a row is summed depends only on d and on the width of the machine's vectors.
#pragma once
#include <cstdint>

#include "../include/multiversion.h"
#include "../include/portable.h"

namespace edmfast {

// The tensors of one job from its first row on: states [rows, d], numbers [rows]. The cotangents e of the energy and v
// of the cotangent w y may be null, which stands for zero.
template <class T>
struct PotentialRows {
  int64_t rows, d;
  const T *h, *y, *weight;
  const T *e = nullptr, *v = nullptr;
  const T *a = nullptr, *b = nullptr, *c = nullptr;
  T *to_h = nullptr, *to_y = nullptr, *to_weight = nullptr, *to_energy = nullptr, *to_cotangent = nullptr;
};

// E = |y|^2/2 - w <h, y> and w y. kElements is d, or 0 where the compiler does not know d.
template <int kElements, class T>
EDMFAST_HD void potential_body(const PotentialRows<T>& job) {
  const int64_t d = kElements ? kElements : job.d;
  for (int64_t row = 0; row < job.rows; ++row) {
    const T *__restrict h = job.h + row * d, *__restrict y = job.y + row * d;
    T* __restrict to = job.to_cotangent + row * d;
    const T w = job.weight[row];
    double square = 0, inner = 0;
#pragma omp simd reduction(+ : square, inner)
    for (int64_t k = 0; k < d; ++k) {
      const double wide = y[k];
      square += wide * wide;
      inner += wide * h[k];
      to[k] = w * y[k];
    }
    job.to_energy[row] = static_cast<T>(0.5 * square - w * inner);
  }
}

// The cotangents of h, y and w, from e and v.
template <bool kMoved, class T>
EDMFAST_HD void backward_body(const PotentialRows<T>& job) {
  for (int64_t row = 0; row < job.rows; ++row) {
    const int64_t start = row * job.d;
    const T *__restrict h = job.h + start, *__restrict y = job.y + start;
    const T* __restrict v = kMoved ? job.v + start : nullptr;
    T *__restrict to_h = job.to_h + start, *__restrict to_y = job.to_y + start;
    const T w = job.weight[row], e = job.e ? job.e[row] : T{0}, ew = e * w;
    double inner = 0, moved = 0;
#pragma omp simd reduction(+ : inner, moved)
    for (int64_t k = 0; k < job.d; ++k) {
      const double wide = y[k];
      inner += wide * h[k];
      if (kMoved) moved += wide * v[k];
      to_h[k] = -ew * y[k];
      to_y[k] = e * y[k] - ew * h[k] + (kMoved ? w * v[k] : T{0});
    }
    job.to_weight[row] = static_cast<T>(moved - e * inner);
  }
}

// The cotangents of e, v, h, y and w, from the cotangents a, b and c of those of h, y and w.
template <bool kMoved, class T>
EDMFAST_HD void double_backward_body(const PotentialRows<T>& job) {
  for (int64_t row = 0; row < job.rows; ++row) {
    const int64_t start = row * job.d;
    const T *__restrict h = job.h + start, *__restrict y = job.y + start;
    const T *__restrict a = job.a + start, *__restrict b = job.b + start;
    const T* __restrict v = kMoved ? job.v + start : nullptr;
    T *__restrict to_h = job.to_h + start, *__restrict to_y = job.to_y + start;
    T* __restrict to_v = job.to_cotangent + start;
    const T w = job.weight[row], c = job.c[row], e = job.e ? job.e[row] : T{0}, ew = e * w, ce = c * e;
    double crossed = 0, along = 0, inner = 0, moved = 0;
#pragma omp simd reduction(+ : crossed, along, inner, moved)
    for (int64_t k = 0; k < job.d; ++k) {
      const double wide = y[k], slope = b[k];
      crossed += wide * a[k] + slope * h[k];
      along += wide * slope;
      inner += wide * h[k];
      if (kMoved) moved += slope * v[k];
      to_v[k] = w * b[k] + c * y[k];
      to_h[k] = -ew * b[k] - ce * y[k];
      to_y[k] = e * b[k] - ew * a[k] - ce * h[k] + (kMoved ? c * v[k] : T{0});
    }
    job.to_energy[row] = static_cast<T>(along - w * crossed - c * inner);
    job.to_weight[row] = static_cast<T>(moved - e * crossed);
  }
}

// States [rows, d] and coefficients [rows, 3].
template <class T>
struct AssembleRows {
  int64_t rows, d;
  const T *h, *pullback, *y, *coefficients;
  const T* grad = nullptr;
  T *out = nullptr, *to_h = nullptr, *to_pullback = nullptr, *to_y = nullptr, *to_coefficients = nullptr;
};

// c_0 h + c_1 pullback + c_2 y.
template <int kElements, class T>
EDMFAST_HD void assemble_body(const AssembleRows<T>& job) {
  const int64_t d = kElements ? kElements : job.d;
  for (int64_t row = 0; row < job.rows; ++row) {
    const int64_t start = row * d;
    const T *__restrict h = job.h + start, *__restrict p = job.pullback + start, *__restrict y = job.y + start;
    T* __restrict out = job.out + start;
    const T *c = job.coefficients + 3 * row, c0 = c[0], c1 = c[1], c2 = c[2];
#pragma omp simd
    for (int64_t k = 0; k < d; ++k) out[k] = c0 * h[k] + c1 * p[k] + c2 * y[k];
  }
}

// Numbers (w, c_0, c_1, c_2), `stride` apart from those of the next row, or 0 apart where one set serves all rows.
template <class T>
struct FieldRows {
  int64_t rows, d, stride;
  const T *h, *pullback, *y, *numbers;
  T *to_energy, *out;
};

// E = |y|^2/2 - w <h, y>, and c_0 h + c_1 pullback + c_2 y.
template <int kElements, class T>
EDMFAST_HD void field_body(const FieldRows<T>& job) {
  const int64_t d = kElements ? kElements : job.d;
  for (int64_t row = 0; row < job.rows; ++row) {
    const int64_t start = row * d;
    const T *__restrict h = job.h + start, *__restrict p = job.pullback + start, *__restrict y = job.y + start;
    T* __restrict out = job.out + start;
    const T *c = job.numbers + job.stride * row, w = c[0], c0 = c[1], c1 = c[2], c2 = c[3];
    double square = 0, inner = 0;
#pragma omp simd reduction(+ : square, inner)
    for (int64_t k = 0; k < d; ++k) {
      const double wide = y[k];
      square += wide * wide;
      inner += wide * h[k];
      out[k] = c0 * h[k] + c1 * p[k] + c2 * y[k];
    }
    job.to_energy[row] = static_cast<T>(0.5 * square - w * inner);
  }
}

// c_i grad, and <grad, h>, <grad, pullback>, <grad, y>.
template <class T>
EDMFAST_HD void assemble_backward_body(const AssembleRows<T>& job) {
  for (int64_t row = 0; row < job.rows; ++row) {
    const int64_t start = row * job.d;
    const T *__restrict h = job.h + start, *__restrict p = job.pullback + start, *__restrict y = job.y + start;
    const T* __restrict g = job.grad + start;
    T *__restrict to_h = job.to_h + start, *__restrict to_p = job.to_pullback + start;
    T* __restrict to_y = job.to_y + start;
    const T *c = job.coefficients + 3 * row, c0 = c[0], c1 = c[1], c2 = c[2];
    double along_h = 0, along_p = 0, along_y = 0;
#pragma omp simd reduction(+ : along_h, along_p, along_y)
    for (int64_t k = 0; k < job.d; ++k) {
      const double wide = g[k];
      along_h += wide * h[k];
      along_p += wide * p[k];
      along_y += wide * y[k];
      to_h[k] = c0 * g[k];
      to_p[k] = c1 * g[k];
      to_y[k] = c2 * g[k];
    }
    T* to_c = job.to_coefficients + 3 * row;
    to_c[0] = static_cast<T>(along_h), to_c[1] = static_cast<T>(along_p), to_c[2] = static_cast<T>(along_y);
  }
}

// GCC does not compile a template for several targets, so there is one function for each type.
#define EDMFAST_POTENTIAL(T)                                                                               \
  EDMFAST_MULTIVERSION inline void potential_rows(const PotentialRows<T>& job) {                           \
    job.d == 2 ? potential_body<2>(job) : potential_body<0>(job);                                          \
  }                                                                                                        \
  EDMFAST_MULTIVERSION inline void backward_rows(const PotentialRows<T>& job) {                            \
    job.v ? backward_body<true>(job) : backward_body<false>(job);                                          \
  }                                                                                                        \
  EDMFAST_MULTIVERSION inline void double_backward_rows(const PotentialRows<T>& job) {                     \
    job.v ? double_backward_body<true>(job) : double_backward_body<false>(job);                            \
  }                                                                                                        \
  EDMFAST_MULTIVERSION inline void assemble_rows(const AssembleRows<T>& job) {                              \
    job.d == 2 ? assemble_body<2>(job) : assemble_body<0>(job);                                            \
  }                                                                                                        \
  EDMFAST_MULTIVERSION inline void field_rows(const FieldRows<T>& job) {                                    \
    job.d == 2 ? field_body<2>(job) : field_body<0>(job);                                                  \
  }                                                                                                        \
  EDMFAST_MULTIVERSION inline void assemble_backward_rows(const AssembleRows<T>& job) {                    \
    assemble_backward_body(job);                                                                           \
  }
EDMFAST_POTENTIAL(float)
EDMFAST_POTENTIAL(double)
#undef EDMFAST_POTENTIAL

}  // namespace edmfast
