// Norms of rows without silu that have a scale and a shift for each number, such as tokens: the formulas of
// group_norm_kernels.h, for a few rows at a time. A sum over a row waits for each of its additions, so the sums of
// several rows together take little longer than those of one, and the rows share what is read and added for scale and
// shift. Each row has the same bits among others as alone. Rows are short, so they end before the processor has seen
// that they are read in order: the last pass asks for the next rows, and others for the places of results.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../include/multiversion.h"
#include "../include/portable.h"
#include "group_norm_kernels.h"

namespace edmfast {

// `rows` rows of n numbers, which start `stride` numbers apart; their statistics are `apart` numbers apart.
template <class T>
struct NormTokens {
  int64_t rows, n, stride, apart;
  bool centred;
  T eps;
  const T *scale, *shift;
  T *mean, *rstd;
  const T *x, *grad = nullptr, *along = nullptr;
  T* out = nullptr;                            // y, or to_x
  T *to_scale = nullptr, *to_shift = nullptr;  // the sums over rows are added to these
  const T *scale_along = nullptr, *shift_along = nullptr;
  T* to_grad = nullptr;

  const T* row(const T* states, int64_t i) const { return states + i * stride; }
  T* row(T* states, int64_t i) const { return states + i * stride; }

  // How far a number of `count` rows from `first` on is from its place in the next such rows; 0 where there are none.
  int64_t ahead(int64_t first, int64_t count) const { return first + 2 * count <= rows ? count * stride : 0; }
};

template <class U, class T>
EDMFAST_HD void take(const T* from, U& to) {
  std::memcpy(&to, from, sizeof(U));
}

template <class U, class T>
EDMFAST_HD void put(const U& from, T* to) {
  std::memcpy(to, &from, sizeof(U));
}

// The sum of the lanes of a vector, half by half.
template <class V>
EDMFAST_HD auto lanes_sum(const V& v) {
  if constexpr (sizeof(v) == 16 * sizeof(v[0])) {
    return lanes_sum(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                     __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
  } else if constexpr (sizeof(v) == 8 * sizeof(v[0])) {
    return lanes_sum(__builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7));
  } else if constexpr (sizeof(v) == 4 * sizeof(v[0])) {
    return (v[0] + v[2]) + (v[1] + v[3]);
  } else {
    return v[0] + v[1];
  }
}

// Calls each(k, sample) for vectors of numbers from k on, and then for the numbers that are left.
template <class V, class T, class Each>
EDMFAST_HD void over_numbers(int64_t n, Each each) {
  constexpr int64_t kWide = sizeof(V) / sizeof(T);
  int64_t k = 0;
  for (; k + kWide <= n; k += kWide) each(k, static_cast<V*>(nullptr));
  for (; k < n; ++k) each(k, static_cast<T*>(nullptr));
}

// Sets sums to the sums over numbers of what add(k, parts) adds to its parts.
template <class V, class T, int kSums, class Add>
EDMFAST_HD void sum_numbers(int64_t n, double (&sums)[kSums], Add add) {
  constexpr int64_t kWide = sizeof(V) / sizeof(T);
  std::fill_n(sums, kSums, 0.0);
  for (int64_t start = 0; start < n; start += kPiece) {
    const int64_t stop = std::min(start + kPiece, n);
    V parts[kSums] = {};
    T rest[kSums] = {};
    int64_t k = start;
    for (; k + kWide <= stop; k += kWide) add(k, parts);
    for (; k < stop; ++k) add(k, rest);
#pragma GCC unroll 10
    for (int i = 0; i < kSums; ++i) sums[i] += lanes_sum(parts[i]) + rest[i];
  }
}

template <class V, int kRows, class T>
EDMFAST_HD void forward_rows(const NormTokens<T>& job, int64_t first) {
  const int64_t n = job.n, ahead = job.ahead(first, kRows);
  const T *x[kRows], *scale = job.scale, *shift = job.shift;
  T *y[kRows], origin[kRows], mean[kRows], rstd[kRows];
  for (int i = 0; i < kRows; ++i) {
    x[i] = job.row(job.x, first + i), y[i] = job.row(job.out, first + i);
    origin[i] = x[i][0], mean[i] = T{0};
  }
  double sums[kRows];
  if (job.centred) {
    sum_numbers<V, T>(n, sums, [&](int64_t k, auto* parts) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) {
        std::remove_pointer_t<decltype(parts)> value;
        take(x[i] + k, value);
        parts[i] += value - origin[i];
      }
    });
    for (int i = 0; i < kRows; ++i) mean[i] = static_cast<T>(origin[i] + sums[i] / static_cast<double>(n));
  }
  sum_numbers<V, T>(n, sums, [&](int64_t k, auto* parts) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      std::remove_pointer_t<decltype(parts)> value;
      take(x[i] + k, value);
      __builtin_prefetch(y[i] + k, 1);
      value -= mean[i];
      parts[i] += value * value;
    }
  });
  for (int i = 0; i < kRows; ++i) {
    rstd[i] = static_cast<T>(1 / std::sqrt(sums[i] / static_cast<double>(n) + job.eps));
    job.mean[(first + i) * job.apart] = mean[i], job.rstd[(first + i) * job.apart] = rstd[i];
  }
  over_numbers<V, T>(n, [&](int64_t k, auto* sample) __attribute__((always_inline)) {
    std::remove_pointer_t<decltype(sample)> a, b, value;
    take(scale + k, a), take(shift + k, b);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      take(x[i] + k, value);
      __builtin_prefetch(x[i] + ahead + k);
      value = a * ((value - mean[i]) * rstd[i]) + b;
      put(value, y[i] + k);
    }
  });
}

template <class V, int kRows, class T>
EDMFAST_HD void backward_rows(const NormTokens<T>& job, int64_t first) {
  const int64_t n = job.n, ahead = job.ahead(first, kRows);
  const T *x[kRows], *grad[kRows], *scale = job.scale;
  T *to_x[kRows], *to_scale = job.to_scale, *to_shift = job.to_shift, mean[kRows], rstd[kRows];
  for (int i = 0; i < kRows; ++i) {
    x[i] = job.row(job.x, first + i), grad[i] = job.row(job.grad, first + i), to_x[i] = job.row(job.out, first + i);
    mean[i] = job.mean[(first + i) * job.apart], rstd[i] = job.rstd[(first + i) * job.apart];
  }
  double sums[2 * kRows];
  sum_numbers<V, T>(n, sums, [&](int64_t k, auto* parts) __attribute__((always_inline)) {
    std::remove_pointer_t<decltype(parts)> a, a_sum, b_sum, u, normal;
    take(scale + k, a), take(to_scale + k, a_sum), take(to_shift + k, b_sum);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      take(x[i] + k, normal), take(grad[i] + k, u);
      __builtin_prefetch(to_x[i] + k, 1);
      normal = (normal - mean[i]) * rstd[i];
      const auto w = a * u;
      parts[i] += w, parts[kRows + i] += w * normal;
      a_sum += u * normal, b_sum += u;
    }
    put(a_sum, to_scale + k), put(b_sum, to_shift + k);
  });
  T constant[kRows], linear[kRows];
  for (int i = 0; i < kRows; ++i) {
    constant[i] = job.centred ? static_cast<T>(sums[i] / static_cast<double>(n)) : T{0};
    linear[i] = static_cast<T>(sums[kRows + i] / static_cast<double>(n));
  }
  over_numbers<V, T>(n, [&](int64_t k, auto* sample) __attribute__((always_inline)) {
    std::remove_pointer_t<decltype(sample)> a, u, normal;
    take(scale + k, a);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      take(x[i] + k, normal), take(grad[i] + k, u);
      normal = (normal - mean[i]) * rstd[i];
      __builtin_prefetch(x[i] + ahead + k), __builtin_prefetch(grad[i] + ahead + k);
      u = rstd[i] * (a * u - constant[i] - normal * linear[i]);
      put(u, to_x[i] + k);
    }
  });
}

template <class V, int kRows, class T>
EDMFAST_HD void double_backward_rows(const NormTokens<T>& job, int64_t first) {
  const int64_t n = job.n, ahead = job.ahead(first, kRows);
  const double count = static_cast<double>(n);
  const T *x[kRows], *v[kRows], *grad[kRows], *scale = job.scale;
  const T *scale_along = job.scale_along, *shift_along = job.shift_along;
  T *to_x[kRows], *to_grad[kRows], *to_scale = job.to_scale, mean[kRows], rstd[kRows];
  for (int i = 0; i < kRows; ++i) {
    x[i] = job.row(job.x, first + i), v[i] = job.row(job.along, first + i), grad[i] = job.row(job.grad, first + i);
    to_x[i] = job.row(job.out, first + i), to_grad[i] = job.row(job.to_grad, first + i);
    mean[i] = job.mean[(first + i) * job.apart], rstd[i] = job.rstd[(first + i) * job.apart];
  }
  double of_v[2 * kRows];
  sum_numbers<V, T>(n, of_v, [&](int64_t k, auto* parts) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      std::remove_pointer_t<decltype(parts)> normal, along;
      take(x[i] + k, normal), take(v[i] + k, along);
      __builtin_prefetch(to_grad[i] + k, 1);
      parts[i] += along, parts[kRows + i] += along * ((normal - mean[i]) * rstd[i]);
    }
  });
  double v_mean[kRows], vn_mean[kRows];
  T v_constant[kRows], v_linear[kRows];
  for (int i = 0; i < kRows; ++i) {
    v_mean[i] = job.centred ? of_v[i] / count : 0.0, vn_mean[i] = of_v[kRows + i] / count;
    v_constant[i] = static_cast<T>(v_mean[i]), v_linear[i] = static_cast<T>(vn_mean[i]);
  }
  // the sums of w, w N, w t, e and e N; without silu q = 0
  double sums[5 * kRows];
  sum_numbers<V, T>(n, sums, [&](int64_t k, auto* parts) __attribute__((always_inline)) {
    std::remove_pointer_t<decltype(parts)> a, a_along, b_along, a_sum, u, normal, t;
    take(scale + k, a), take(scale_along + k, a_along), take(shift_along + k, b_along), take(to_scale + k, a_sum);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      take(x[i] + k, normal), take(v[i] + k, t), take(grad[i] + k, u);
      __builtin_prefetch(to_x[i] + k, 1);
      normal = (normal - mean[i]) * rstd[i];
      t = rstd[i] * (t - v_constant[i] - normal * v_linear[i]);
      const auto w = a * u, e = a_along * u;
      parts[i] += w, parts[kRows + i] += w * normal, parts[2 * kRows + i] += w * t;
      parts[3 * kRows + i] += e, parts[4 * kRows + i] += e * normal;
      a_sum += u * t;
      t = a * t + a_along * normal + b_along;
      put(t, to_grad[i] + k);
    }
    put(a_sum, to_scale + k);
  });
  T constant[kRows], linear[kRows], by_w[kRows], by_v[kRows];
  for (int i = 0; i < kRows; ++i) {
    const double r = rstd[i], w_mean = sums[i] / count, wn_mean = sums[kRows + i] / count;
    const double e_mean = sums[3 * kRows + i] / count, en_mean = sums[4 * kRows + i] / count;
    const double moved_mean = e_mean - r * (vn_mean[i] * w_mean + wn_mean * v_mean[i]);
    const double moved_inner = en_mean - 2 * r * vn_mean[i] * wn_mean;
    by_w[i] = static_cast<T>(r * r * vn_mean[i]), by_v[i] = static_cast<T>(r * r * wn_mean);
    constant[i] = job.centred ? static_cast<T>(r * moved_mean) : T{0};
    linear[i] = static_cast<T>(r * (moved_inner + sums[2 * kRows + i] / count));
  }
  over_numbers<V, T>(n, [&](int64_t k, auto* sample) __attribute__((always_inline)) {
    std::remove_pointer_t<decltype(sample)> a, a_along, u, normal, along;
    take(scale + k, a), take(scale_along + k, a_along);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      take(x[i] + k, normal), take(v[i] + k, along), take(grad[i] + k, u);
      normal = (normal - mean[i]) * rstd[i];
      __builtin_prefetch(x[i] + ahead + k), __builtin_prefetch(v[i] + ahead + k);
      __builtin_prefetch(grad[i] + ahead + k);
      u = rstd[i] * (a_along * u) - by_w[i] * (a * u) - by_v[i] * along - constant[i] - normal * linear[i];
      put(u, to_x[i] + k);
    }
  });
}

#define EDMFAST_NORM_TOKENS(NAME, ROWS, T)                                                      \
  EDMFAST_BY_WIDTH(void NAME##_tokens(const NormTokens<T>& job), {                              \
    typedef T Vector __attribute__((vector_size(kBytes)));                                      \
    int64_t row = 0;                                                                            \
    for (; row + ROWS <= job.rows; row += ROWS) NAME##_rows<Vector, ROWS>(job, row);            \
    for (; row < job.rows; ++row) NAME##_rows<Vector, 1>(job, row);                             \
  })
EDMFAST_NORM_TOKENS(forward, 4, float)
EDMFAST_NORM_TOKENS(forward, 4, double)
EDMFAST_NORM_TOKENS(backward, 4, float)
EDMFAST_NORM_TOKENS(backward, 4, double)
EDMFAST_NORM_TOKENS(double_backward, 2, float)
EDMFAST_NORM_TOKENS(double_backward, 2, double)
#undef EDMFAST_NORM_TOKENS

}  // namespace edmfast
