// What stands between the matrix products of a residual perceptron, one pass over a block that is in cache.
#pragma once
#include <cstdint>
#include <cstring>

#include "../include/multiversion.h"
#include "../include/portable.h"

namespace edmfast {

// 2^n of a whole number n in the range of normal numbers.
EDMFAST_HD float power_of_two(float n) { return bits_to_float((static_cast<int32_t>(n) + 127) << 23); }
EDMFAST_HD double power_of_two(double n) {
  const int64_t bits = (static_cast<int64_t>(n) + 1023) << 52;
  double value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// e^-x, x clamped to +-69 or +-600: reduced by multiples of log 2, then a Taylor series. Nearer to where it is
// no longer normal, GCC's way of vectorising the clamp would multiply into subnormal numbers, which is slow.
EDMFAST_HD float exp_minus(float x) {
  const float v = -(x < -69.0f ? -69.0f : x > 69.0f ? 69.0f : x);
  const float n = (v * 1.44269504f + 12582912.0f) - 12582912.0f;
  const float r = (v - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.98412698e-4f;
  p = p * r + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * power_of_two(n);
}

EDMFAST_HD double exp_minus(double x) {
  const double v = -(x < -600.0 ? -600.0 : x > 600.0 ? 600.0 : x);
  const double n = (v * 1.4426950408889634 + 6755399441055744.0) - 6755399441055744.0;
  const double r = (v - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  double p = 1.6059043836821613e-10;
  p = p * r + 2.0876756987868099e-9;
  p = p * r + 2.5052108385441719e-8;
  p = p * r + 2.7557319223985891e-7;
  p = p * r + 2.7557319223985893e-6;
  p = p * r + 2.4801587301587302e-5;
  p = p * r + 1.9841269841269841e-4;
  p = p * r + 1.3888888888888889e-3;
  p = p * r + 8.3333333333333333e-3;
  p = p * r + 4.1666666666666667e-2;
  p = p * r + 1.6666666666666667e-1;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  return p * power_of_two(n);
}

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
