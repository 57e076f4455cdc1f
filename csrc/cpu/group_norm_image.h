// The passes of group_norm_kernels.h where channels are fastest in memory: a block of whole groups at a time, position
// after position, with a vector of channels. Sums of a channel have type T over a few positions and are doubles over
// these.
#pragma once
#include "group_norm_kernels.h"

namespace edmfast {

constexpr int64_t kFewPositions = 32;

// `groups` groups of `size` channels. The numbers of a position follow one another, and the next position starts
// `stride` numbers later. scale, shift, their derivatives and their sums have one number for each channel, and so have
// the lines of working space.
template <class T>
struct NormImage {
  static constexpr int64_t kLines = 13, kTotals = 5;
  int64_t positions, groups, size, stride;
  bool silu, centred;
  const T *scale, *shift;
  const T* x = nullptr;
  T *mean = nullptr, *rstd = nullptr;  // one for each group
  T eps = 0;
  T* y = nullptr;
  const T* grad = nullptr;
  T* to_x = nullptr;
  double *to_scale = nullptr, *to_shift = nullptr;
  const T *along = nullptr, *scale_along = nullptr, *shift_along = nullptr;
  T *to_grad = nullptr, *space = nullptr;  // space: positions · channels numbers
  T* lines = nullptr;
  double* totals = nullptr;

  int64_t channels() const { return groups * size; }
  T* line(int64_t i) const { return lines + i * channels(); }
  double* total(int64_t i) const { return totals + i * channels(); }
};

// The sum of f(channel) over the channels of group g.
template <class F>
EDMFAST_HD double over_group(int64_t g, int64_t size, F f) {
  double sum = 0;
  for (int64_t k = g * size; k < (g + 1) * size; ++k) sum += f(k);
  return sum;
}

template <class T>
EDMFAST_HD void spread(T* line, int64_t g, int64_t size, double value) {
  std::fill_n(line + g * size, size, static_cast<T>(value));
}

// Sets totals[i] to the sums over positions of what pass(position, parts) adds to the channels of its kSums parts,
// which take the last lines.
template <int kSums, class T, class Pass>
EDMFAST_HD void sum_positions(const NormImage<T>& job, Pass pass) {
  const int64_t channels = job.channels(), all = kSums * channels;
  T* __restrict parts = job.line(NormImage<T>::kLines - kSums);
  double* __restrict totals = job.totals;
  std::fill_n(totals, all, 0.0);
  for (int64_t start = 0; start < job.positions; start += kFewPositions) {
    std::fill_n(parts, all, T{0});
    for (int64_t s = start; s < std::min(start + kFewPositions, job.positions); ++s) pass(s, parts);
#pragma omp simd
    for (int64_t k = 0; k < all; ++k) totals[k] += parts[k];
  }
}

template <bool kSilu, class T>
EDMFAST_HD void forward_image_body(const NormImage<T>& job) {
  const int64_t channels = job.channels(), size = job.size;
  const double count = static_cast<double>(job.positions * size);
  T *__restrict mean = job.line(0), *__restrict rstd = job.line(1);
  if (job.centred) {
    sum_positions<1>(job, [&](int64_t s, T* __restrict part) __attribute__((always_inline)) {
      const T *__restrict x = job.x + s * job.stride, *__restrict first = job.x;
#pragma omp simd
      for (int64_t k = 0; k < channels; ++k) part[k] += x[k] - first[k];
    });
  }
  for (int64_t g = 0; g < job.groups; ++g) {
    const double positions = static_cast<double>(job.positions);
    const auto sum = [&](int64_t k) { return positions * job.x[k] + job.total(0)[k]; };
    job.mean[g] = job.centred ? static_cast<T>(over_group(g, size, sum) / count) : T{0};
    spread(mean, g, size, job.mean[g]);
  }
  sum_positions<1>(job, [&](int64_t s, T* __restrict part) __attribute__((always_inline)) {
    const T* __restrict x = job.x + s * job.stride;
#pragma omp simd
    for (int64_t k = 0; k < channels; ++k) part[k] += (x[k] - mean[k]) * (x[k] - mean[k]);
  });
  for (int64_t g = 0; g < job.groups; ++g) {
    const double square = over_group(g, size, [&](int64_t k) { return job.total(0)[k]; });
    job.rstd[g] = static_cast<T>(1 / std::sqrt(square / count + job.eps));
    spread(rstd, g, size, job.rstd[g]);
  }
  const T *__restrict scale = job.scale, *__restrict shift = job.shift;
  for (int64_t s = 0; s < job.positions; ++s) {
    const T* __restrict x = job.x + s * job.stride;
    T* __restrict y = job.y + s * job.stride;
#pragma omp simd
    for (int64_t k = 0; k < channels; ++k) {
      const T z = scale[k] * ((x[k] - mean[k]) * rstd[k]) + shift[k];
      y[k] = kSilu ? z * sigmoid(z) : z;
    }
  }
}

template <class T>
EDMFAST_HD void spread_statistics(const NormImage<T>& job, T* mean, T* rstd) {
  for (int64_t g = 0; g < job.groups; ++g) {
    spread(mean, g, job.size, job.mean[g]), spread(rstd, g, job.size, job.rstd[g]);
  }
}

template <bool kSilu, class T>
EDMFAST_HD void backward_image_body(const NormImage<T>& job) {
  const int64_t channels = job.channels(), size = job.size;
  const double count = static_cast<double>(job.positions * size);
  T *__restrict mean = job.line(0), *__restrict rstd = job.line(1);
  T *__restrict constant = job.line(2), *__restrict linear = job.line(3);
  spread_statistics(job, mean, rstd);
  const T *__restrict scale = job.scale, *__restrict shift = job.shift;
  sum_positions<2>(job, [&](int64_t s, T* __restrict parts) __attribute__((always_inline)) {
    const T *__restrict x = job.x + s * job.stride, *__restrict grad = job.grad + s * job.stride;
    T* __restrict to_x = job.to_x + s * job.stride;
    T *__restrict u_part = parts, *__restrict un_part = parts + channels;
#pragma omp simd
    for (int64_t k = 0; k < channels; ++k) {
      const T normal = (x[k] - mean[k]) * rstd[k];
      T slope, bend;
      slopes<kSilu>(scale[k] * normal + shift[k], slope, bend);
      const T u = grad[k] * slope;
      to_x[k] = scale[k] * u;
      u_part[k] += u, un_part[k] += u * normal;
    }
  });
  const double *us = job.total(0), *uns = job.total(1);
  for (int64_t g = 0; g < job.groups; ++g) {
    const double sum = over_group(g, size, [&](int64_t k) { return scale[k] * us[k]; });
    const double inner = over_group(g, size, [&](int64_t k) { return scale[k] * uns[k]; });
    spread(constant, g, size, job.centred ? sum / count : 0.0), spread(linear, g, size, inner / count);
  }
  for (int64_t k = 0; k < channels; ++k) job.to_scale[k] += uns[k], job.to_shift[k] += us[k];
  for (int64_t s = 0; s < job.positions; ++s) {
    const T* __restrict x = job.x + s * job.stride;
    T* __restrict to_x = job.to_x + s * job.stride;
#pragma omp simd
    for (int64_t k = 0; k < channels; ++k) {
      to_x[k] = rstd[k] * (to_x[k] - constant[k] - (x[k] - mean[k]) * rstd[k] * linear[k]);
    }
  }
}

template <bool kSilu, class T>
EDMFAST_HD void double_backward_image_body(const NormImage<T>& job) {
  const int64_t channels = job.channels(), size = job.size;
  const double count = static_cast<double>(job.positions * size);
  T *__restrict mean = job.line(0), *__restrict rstd = job.line(1);
  T *__restrict v_constant = job.line(2), *__restrict v_linear = job.line(3);
  T *__restrict constant = job.line(4), *__restrict linear = job.line(5), *__restrict by_w = job.line(6);
  spread_statistics(job, mean, rstd);
  sum_positions<2>(job, [&](int64_t s, T* __restrict parts) __attribute__((always_inline)) {
    const T *__restrict x = job.x + s * job.stride, *__restrict v = job.along + s * job.stride;
    T *__restrict v_part = parts, *__restrict vn_part = parts + channels;
#pragma omp simd
    for (int64_t k = 0; k < channels; ++k) {
      v_part[k] += v[k];
      vn_part[k] += v[k] * ((x[k] - mean[k]) * rstd[k]);
    }
  });
  for (int64_t g = 0; g < job.groups; ++g) {
    const double sum = over_group(g, size, [&](int64_t k) { return job.total(0)[k]; });
    const double inner = over_group(g, size, [&](int64_t k) { return job.total(1)[k]; });
    spread(v_constant, g, size, job.centred ? sum / count : 0.0), spread(v_linear, g, size, inner / count);
  }

  const T *__restrict scale = job.scale, *__restrict shift = job.shift;
  const T *__restrict scale_along = job.scale_along, *__restrict shift_along = job.shift_along;
  sum_positions<5>(job, [&](int64_t s, T* __restrict parts) __attribute__((always_inline)) {
    const int64_t first = s * job.stride;
    const T *__restrict x = job.x + first, *__restrict v = job.along + first, *__restrict grad = job.grad + first;
    T *__restrict to_x = job.to_x + first, *__restrict to_grad = job.to_grad + first;
    T* __restrict space = job.space + s * channels;
    T *__restrict u_part = parts, *__restrict un_part = parts + channels, *__restrict ut_part = parts + 2 * channels;
    T *__restrict q_part = parts + 3 * channels, *__restrict qn_part = parts + 4 * channels;
#pragma omp simd
    for (int64_t k = 0; k < channels; ++k) {
      const T normal = (x[k] - mean[k]) * rstd[k];
      T slope, bend;
      slopes<kSilu>(scale[k] * normal + shift[k], slope, bend);
      const T u = grad[k] * slope;
      const T t = rstd[k] * (v[k] - v_constant[k] - normal * v_linear[k]);
      const T moved = scale[k] * t + scale_along[k] * normal + shift_along[k];
      const T q = grad[k] * bend * moved;
      to_grad[k] = slope * moved;
      to_x[k] = scale[k] * q + scale_along[k] * u, space[k] = scale[k] * u;
      u_part[k] += u, un_part[k] += u * normal, ut_part[k] += u * t;
      q_part[k] += q, qn_part[k] += q * normal;
    }
  });
  const double *us = job.total(0), *uns = job.total(1), *uts = job.total(2), *qs = job.total(3), *qns = job.total(4);
  for (int64_t k = 0; k < channels; ++k) job.to_scale[k] += qns[k] + uts[k], job.to_shift[k] += qs[k];
  T* __restrict by_v = job.line(7);
  for (int64_t g = 0; g < job.groups; ++g) {
    const double w = over_group(g, size, [&](int64_t k) { return scale[k] * us[k]; }) / count;
    const double wn = over_group(g, size, [&](int64_t k) { return scale[k] * uns[k]; }) / count;
    const double wt = over_group(g, size, [&](int64_t k) { return scale[k] * uts[k]; }) / count;
    const auto e_of = [&](int64_t k) { return scale[k] * qs[k] + scale_along[k] * us[k]; };
    const auto en_of = [&](int64_t k) { return scale[k] * qns[k] + scale_along[k] * uns[k]; };
    const double e = over_group(g, size, e_of) / count, en = over_group(g, size, en_of) / count;
    const double r = job.rstd[g], v = v_constant[g * size], vn = v_linear[g * size];
    spread(constant, g, size, job.centred ? r * (e - r * (vn * w + wn * v)) : 0.0);
    spread(linear, g, size, r * (en - 2 * r * vn * wn + wt));
    spread(by_w, g, size, r * r * vn), spread(by_v, g, size, r * r * wn);
  }
  for (int64_t s = 0; s < job.positions; ++s) {
    const T *__restrict x = job.x + s * job.stride, *__restrict v = job.along + s * job.stride;
    const T* __restrict w = job.space + s * channels;
    T* __restrict to_x = job.to_x + s * job.stride;
#pragma omp simd
    for (int64_t k = 0; k < channels; ++k) {
      const T normal = (x[k] - mean[k]) * rstd[k];
      to_x[k] = rstd[k] * to_x[k] - by_w[k] * w[k] - by_v[k] * v[k] - constant[k] - normal * linear[k];
    }
  }
}

#define EDMFAST_IMAGE_NORM(NAME, T)                                                             \
  EDMFAST_MULTIVERSION inline void NAME##_image(const NormImage<T>& job) {                      \
    job.silu ? NAME##_image_body<true>(job) : NAME##_image_body<false>(job);                    \
  }
EDMFAST_IMAGE_NORM(forward, float)
EDMFAST_IMAGE_NORM(forward, double)
EDMFAST_IMAGE_NORM(backward, float)
EDMFAST_IMAGE_NORM(backward, double)
EDMFAST_IMAGE_NORM(double_backward, float)
EDMFAST_IMAGE_NORM(double_backward, double)
#undef EDMFAST_IMAGE_NORM

}  // namespace edmfast
