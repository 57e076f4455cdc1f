// One group of channels: normalised, scaled, shifted and passed through silu, with the first and second derivatives,
// in passes over numbers that are in cache. The formulas are in edmfast/ops/norms/reference.py. Sums have type T over
// a piece, in vectors, and are doubles over pieces. Their order depends on the size of the group and on the width of
// the machine's vectors only.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../include/exp.h"
#include "../include/multiversion.h"

namespace edmfast {

constexpr int64_t kPiece = 2048;

// `channels` runs of `run` numbers, one after the other. scale, shift, their derivatives and their sums have one
// number for each run. Where the group is flat, there is only one run, and they have one for each number.
template <class T>
struct NormGroup {
  int64_t channels, run;
  bool flat, silu, centred;
  const T *scale, *shift;
  const T* x = nullptr;
  T mean = 0, rstd = 0, eps = 0;
  T* y = nullptr;
  // backward: to_x from grad. The sums for scale and shift are added to these: doubles of runs, or T where it is flat.
  const T* grad = nullptr;
  T* to_x = nullptr;
  double *to_scale = nullptr, *to_shift = nullptr;
  T *flat_to_scale = nullptr, *flat_to_shift = nullptr;
  // double backward: cotangents of to_x, to_scale and to_shift; one more result; n numbers of working space
  const T *along = nullptr, *scale_along = nullptr, *shift_along = nullptr;
  T *to_grad = nullptr, *space = nullptr;
};

// The first and second derivative of silu, or of the identity.
template <bool kSilu, class T>
EDMFAST_HD void slopes(T z, T& slope, T& bend) {
  if constexpr (kSilu) {
    const T e = exp_minus(z), s = T{1} / (T{1} + e), rest = e * s;
    slope = s * (T{1} + z * rest);
    bend = s * rest * (T{2} + z * (rest - s));
  } else {
    slope = T{1}, bend = T{0};
  }
}

// Mean and reciprocal deviation in two passes. The first one works on differences from the first number, so that a
// large mean costs no digits.
template <class T>
EDMFAST_HD void statistics_body(NormGroup<T>& job) {
  const int64_t n = job.channels * job.run;
  const T* __restrict x = job.x;
  double sum = 0, square = 0;
  const T first = x[0];
  for (int64_t start = 0; job.centred && start < n; start += kPiece) {
    const int64_t stop = std::min(start + kPiece, n);
    T part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t k = start; k < stop; ++k) part += x[k] - first;
    sum += part;
  }
  const T mean = job.centred ? static_cast<T>(first + sum / static_cast<double>(n)) : T{0};
  for (int64_t start = 0; start < n; start += kPiece) {
    const int64_t stop = std::min(start + kPiece, n);
    T part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t k = start; k < stop; ++k) part += (x[k] - mean) * (x[k] - mean);
    square += part;
  }
  job.mean = mean;
  job.rstd = static_cast<T>(1 / std::sqrt(square / static_cast<double>(n) + job.eps));
}

template <bool kSilu, bool kFlat, class T>
EDMFAST_HD void forward_body(NormGroup<T>& job) {
  statistics_body(job);
  const T mean = job.mean, rstd = job.rstd;
  const T *__restrict scale = job.scale, *__restrict shift = job.shift;
  for (int64_t c = 0; c < job.channels; ++c) {
    const T *__restrict x = job.x + c * job.run, a_run = scale[c], b_run = shift[c];
    T* __restrict y = job.y + c * job.run;
#pragma omp simd
    for (int64_t k = 0; k < job.run; ++k) {
      const T z = (kFlat ? scale[k] : a_run) * ((x[k] - mean) * rstd) + (kFlat ? shift[k] : b_run);
      y[k] = kSilu ? z * sigmoid(z) : z;
    }
  }
}

// With u = grad silu'(z) and w = scale u: to_x = r (w - mean(w) - N mean(w N)), and the sums of u N and of u.
template <bool kSilu, bool kFlat, class T>
EDMFAST_HD void backward_body(const NormGroup<T>& job) {
  const T mean = job.mean, rstd = job.rstd;
  const T *__restrict scale = job.scale, *__restrict shift = job.shift;
  T *__restrict flat_to_scale = job.flat_to_scale, *__restrict flat_to_shift = job.flat_to_shift;
  double sum = 0, inner = 0;
  for (int64_t c = 0; c < job.channels; ++c) {
    const T *__restrict x = job.x + c * job.run, *__restrict grad = job.grad + c * job.run;
    T* __restrict to_x = job.to_x + c * job.run;
    const T a_run = scale[c], b_run = shift[c];
    for (int64_t start = 0; start < job.run; start += kPiece) {
      const int64_t stop = std::min(start + kPiece, job.run);
      T w_part = 0, wn_part = 0, u_part = 0, un_part = 0;
#pragma omp simd reduction(+ : w_part, wn_part, u_part, un_part)
      for (int64_t k = start; k < stop; ++k) {
        const T a = kFlat ? scale[k] : a_run, normal = (x[k] - mean) * rstd;
        T slope, bend;
        slopes<kSilu>(a * normal + (kFlat ? shift[k] : b_run), slope, bend);
        const T u = grad[k] * slope, w = a * u;
        to_x[k] = w;
        if (kFlat) {
          w_part += w, wn_part += w * normal;
          flat_to_scale[k] += u * normal, flat_to_shift[k] += u;
        } else {
          u_part += u, un_part += u * normal;
        }
      }
      if (kFlat) {
        sum += w_part, inner += wn_part;
      } else {
        sum += static_cast<double>(a_run) * u_part, inner += static_cast<double>(a_run) * un_part;
        job.to_scale[c] += un_part, job.to_shift[c] += u_part;
      }
    }
  }
  const int64_t n = job.channels * job.run;
  const T constant = job.centred ? static_cast<T>(sum / static_cast<double>(n)) : T{0};
  const T linear = static_cast<T>(inner / static_cast<double>(n));
  const T* __restrict x = job.x;
  T* __restrict to_x = job.to_x;
#pragma omp simd
  for (int64_t k = 0; k < n; ++k) to_x[k] = rstd * (to_x[k] - constant - (x[k] - mean) * rstd * linear);
}

// With v along x: t = r (v - mean(v) - N mean(v N)), z' = scale t + scale' N + shift', q = grad silu''(z) z'. Results:
// to_grad = silu'(z) z'; the sums of q N + u t and of q; and with e = scale q + scale' u, m_v = mean(v N), m_w =
// mean(w N): to_x = r P(e - r (m_v w + m_w v)) - r N mean(w t).
template <bool kSilu, bool kFlat, class T>
EDMFAST_HD void double_backward_body(const NormGroup<T>& job) {
  const T mean = job.mean, rstd = job.rstd;
  const int64_t n = job.channels * job.run;
  const double count = static_cast<double>(n);
  const T *__restrict all_x = job.x, *__restrict all_v = job.along;
  double v_sum = 0, vn_sum = 0;
  for (int64_t start = 0; start < n; start += kPiece) {
    const int64_t stop = std::min(start + kPiece, n);
    T v_part = 0, vn_part = 0;
#pragma omp simd reduction(+ : v_part, vn_part)
    for (int64_t k = start; k < stop; ++k) {
      v_part += all_v[k];
      vn_part += all_v[k] * ((all_x[k] - mean) * rstd);
    }
    v_sum += v_part, vn_sum += vn_part;
  }
  const double v_mean = job.centred ? v_sum / count : 0.0, vn_mean = vn_sum / count;
  const T v_constant = static_cast<T>(v_mean), v_linear = static_cast<T>(vn_mean);

  const T *__restrict scale = job.scale, *__restrict shift = job.shift;
  const T *__restrict scale_along = job.scale_along, *__restrict shift_along = job.shift_along;
  T *__restrict flat_to_scale = job.flat_to_scale, *__restrict flat_to_shift = job.flat_to_shift;
  double w_sum = 0, wn_sum = 0, wt_sum = 0, e_sum = 0, en_sum = 0;
  for (int64_t c = 0; c < job.channels; ++c) {
    const int64_t first = c * job.run;
    const T *__restrict x = job.x + first, *__restrict v = job.along + first, *__restrict grad = job.grad + first;
    T *__restrict to_x = job.to_x + first, *__restrict space = job.space + first;
    T* __restrict to_grad = job.to_grad + first;
    const T a_run = scale[c], b_run = shift[c], a_along = scale_along[c], b_along = shift_along[c];
    for (int64_t start = 0; start < job.run; start += kPiece) {
      const int64_t stop = std::min(start + kPiece, job.run);
      T w_part = 0, wn_part = 0, wt_part = 0, e_part = 0, en_part = 0, scale_part = 0, shift_part = 0;
#pragma omp simd reduction(+ : w_part, wn_part, wt_part, e_part, en_part, scale_part, shift_part)
      for (int64_t k = start; k < stop; ++k) {
        const T a = kFlat ? scale[k] : a_run, a_moved = kFlat ? scale_along[k] : a_along;
        const T normal = (x[k] - mean) * rstd;
        T slope, bend;
        slopes<kSilu>(a * normal + (kFlat ? shift[k] : b_run), slope, bend);
        const T u = grad[k] * slope, w = a * u;
        const T t = rstd * (v[k] - v_constant - normal * v_linear);
        const T moved = a * t + a_moved * normal + (kFlat ? shift_along[k] : b_along);
        const T q = grad[k] * bend * moved, e = a * q + a_moved * u;
        to_grad[k] = slope * moved;
        to_x[k] = e, space[k] = w;
        w_part += w, wn_part += w * normal, wt_part += w * t;
        e_part += e, en_part += e * normal;
        if (kFlat) {
          flat_to_scale[k] += q * normal + u * t, flat_to_shift[k] += q;
        } else {
          scale_part += q * normal + u * t, shift_part += q;
        }
      }
      w_sum += w_part, wn_sum += wn_part, wt_sum += wt_part, e_sum += e_part, en_sum += en_part;
      if (!kFlat) job.to_scale[c] += scale_part, job.to_shift[c] += shift_part;
    }
  }
  const double r = rstd, wn_mean = wn_sum / count;
  const double moved_mean = e_sum / count - r * (vn_mean * (w_sum / count) + wn_mean * v_mean);
  const double moved_inner = en_sum / count - 2 * r * vn_mean * wn_mean;
  const T by_w = static_cast<T>(r * r * vn_mean), by_v = static_cast<T>(r * r * wn_mean);
  const T constant = job.centred ? static_cast<T>(r * moved_mean) : T{0};
  const T linear = static_cast<T>(r * (moved_inner + wt_sum / count));
  const T* __restrict all_w = job.space;
  T* __restrict to_x = job.to_x;
#pragma omp simd
  for (int64_t k = 0; k < n; ++k) {
    const T normal = (all_x[k] - mean) * rstd;
    to_x[k] = rstd * to_x[k] - by_w * all_w[k] - by_v * all_v[k] - constant - normal * linear;
  }
}

// GCC does not compile a template for several targets, so there is one function for each type.
#define EDMFAST_GROUP_NORM(NAME, JOB, T)                                       \
  EDMFAST_MULTIVERSION inline void NAME##_group(JOB<T>& job) {                 \
    if (job.flat) {                                                            \
      job.silu ? NAME##_body<true, true>(job) : NAME##_body<false, true>(job); \
    } else {                                                                   \
      job.silu ? NAME##_body<true, false>(job) : NAME##_body<false, false>(job); \
    }                                                                          \
  }
EDMFAST_GROUP_NORM(forward, NormGroup, float)
EDMFAST_GROUP_NORM(forward, NormGroup, double)
EDMFAST_GROUP_NORM(backward, const NormGroup, float)
EDMFAST_GROUP_NORM(backward, const NormGroup, double)
EDMFAST_GROUP_NORM(double_backward, const NormGroup, float)
EDMFAST_GROUP_NORM(double_backward, const NormGroup, double)
#undef EDMFAST_GROUP_NORM

}  // namespace edmfast
