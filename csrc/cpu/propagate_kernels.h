// Arithmetic of the proposal step on pieces that fit the first-level cache.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "low_precision.h"
#include "noise_tile.h"

namespace edmfast {

constexpr int kSumLanes = 16;

struct Moments {
  double noise = 0, cross = 0, shift = 0;  // |z|^2, <m, z>, |m|^2

  EDMFAST_HD Moments operator+(const Moments& other) const {
    return {noise + other.noise, cross + other.cross, shift + other.shift};
  }
};

// Per population: c = (drift of each score, v_M, v_L), and the number of elements that move.
struct Kernel {
  double scale, noise_factor, cross_factor, shift_factor, constant;

  Kernel(const double* c, int64_t models, int64_t elements) : scale(std::sqrt(c[models])) {
    const double v_m = c[models], v_l = c[models + 1];
    noise_factor = 0.5 * (1.0 - v_m / v_l);
    cross_factor = -scale / v_l;
    shift_factor = -0.5 / v_l;
    constant = 0.5 * static_cast<double>(elements) * std::log(v_m / v_l);
  }

  double ratio(const Moments& m) const {
    return noise_factor * m.noise + cross_factor * m.cross + shift_factor * m.shift + constant;
  }
};

// shift = drift * score, or shift += drift * score
template <class S, class T>
EDMFAST_HD void add_shift_body(const S* score, T drift, bool first, T* shift, int64_t n) {
  if (first) {
    for (int64_t i = 0; i < n; ++i) shift[i] = drift * widen(score[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) shift[i] = shift[i] + drift * widen(score[i]);
  }
}

// x and shift of a piece of one sample; masked elements keep x and count nowhere.
template <bool kMasked, class S, class T>
EDMFAST_HD void step_masked(const S* x, const T* shift, const float* normals, const uint8_t* mask, T scale, S* moved,
                            int64_t n, Moments& moments) {
  // fixed lanes: the order of summation does not depend on the instruction set
  T zz[kSumLanes] = {}, mz[kSumLanes] = {}, mm[kSumLanes] = {};
  const auto one = [&](int64_t i, int lane) __attribute__((always_inline)) {
    const bool moves = !kMasked || mask[i] != 0;
    const T z = moves ? static_cast<T>(normals[i]) : T{0};
    const T m = moves ? shift[i] : T{0};
    narrow(widen(x[i]) + m + scale * z, moved[i]);
    zz[lane] += z * z;
    mz[lane] += m * z;
    mm[lane] += m * m;
  };
  int64_t i = 0;
  for (; i + kSumLanes <= n; i += kSumLanes) {
#pragma omp simd
    for (int lane = 0; lane < kSumLanes; ++lane) one(i + lane, lane);
  }
  for (; i < n; ++i) one(i, 0);
  for (int lane = 0; lane < kSumLanes; ++lane) {
    moments.noise += zz[lane];
    moments.cross += mz[lane];
    moments.shift += mm[lane];
  }
}

template <class S, class T>
EDMFAST_HD void step_body(const S* x, const T* shift, const float* normals, const uint8_t* mask, T scale, S* moved,
                          int64_t n, Moments& moments) {
  if (mask == nullptr) {
    step_masked<false>(x, shift, normals, mask, scale, moved, n, moments);
  } else {
    step_masked<true>(x, shift, normals, mask, scale, moved, n, moments);
  }
}

// Whole samples of at most four elements, already gathered: word j is element j.
template <int kElements, bool kMasked, class S, class T>
EDMFAST_HD void points_masked(const S* x, const T* shift, const float* normals, const uint8_t* mask,
                            const Kernel& kernel, int64_t rows, S* moved, T* ratio) {
  const T scale = static_cast<T>(kernel.scale);
  for (int64_t r = 0; r < rows; ++r) {
    Moments moments;
    for (int j = 0; j < kElements; ++j) {
      const bool moves = !kMasked || mask[j] != 0;
      const T z = moves ? static_cast<T>(normals[j * kTile + r]) : T{0};
      const T m = moves ? shift[r * kElements + j] : T{0};
      narrow(widen(x[r * kElements + j]) + m + scale * z, moved[r * kElements + j]);
      // not a sum from zero, which adds once more for every sample
      const Moments here{static_cast<double>(z) * z, static_cast<double>(m) * z, static_cast<double>(m) * m};
      moments = j == 0 ? here : moments + here;
    }
    ratio[r] = static_cast<T>(kernel.ratio(moments));
  }
}

template <int kElements, class S, class T>
EDMFAST_HD void points_body(const S* x, const T* shift, const float* normals, const uint8_t* mask,
                            const Kernel& kernel, int64_t rows, S* moved, T* ratio) {
  if (mask == nullptr) {
    points_masked<kElements, false>(x, shift, normals, mask, kernel, rows, moved, ratio);
  } else {
    points_masked<kElements, true>(x, shift, normals, mask, kernel, rows, moved, ratio);
  }
}

template <class S, class T>
EDMFAST_HD void points_any(const S* x, const T* shift, const float* normals, const uint8_t* mask,
                           const Kernel& kernel, int64_t rows, int64_t elements, S* moved, T* ratio) {
  switch (elements) {
    case 1: return points_body<1>(x, shift, normals, mask, kernel, rows, moved, ratio);
    case 2: return points_body<2>(x, shift, normals, mask, kernel, rows, moved, ratio);
    case 3: return points_body<3>(x, shift, normals, mask, kernel, rows, moved, ratio);
    default: return points_body<4>(x, shift, normals, mask, kernel, rows, moved, ratio);
  }
}

// The same for every storage type, compiled for several instruction sets.
#define EDMFAST_PROPAGATE_KERNELS(S, T)                                                                  \
  EDMFAST_MULTIVERSION inline void add_shift(const S* score, T drift, bool first, T* shift, int64_t n) { \
    add_shift_body(score, drift, first, shift, n);                                                       \
  }                                                                                                      \
  EDMFAST_MULTIVERSION inline void step(const S* x, const T* shift, const float* normals,                \
                                        const uint8_t* mask, T scale, S* moved, int64_t n,               \
                                        Moments& moments) {                                              \
    step_body(x, shift, normals, mask, scale, moved, n, moments);                                        \
  }                                                                                                      \
  EDMFAST_MULTIVERSION inline void points(const S* x, const T* shift, const float* normals,              \
                                          const uint8_t* mask, const Kernel& kernel, int64_t rows,       \
                                          int64_t elements, S* moved, T* ratio) {                        \
    points_any(x, shift, normals, mask, kernel, rows, elements, moved, ratio);                           \
  }
EDMFAST_PROPAGATE_KERNELS(float, float)
EDMFAST_PROPAGATE_KERNELS(double, double)
EDMFAST_PROPAGATE_KERNELS(Half, float)
EDMFAST_PROPAGATE_KERNELS(BFloat16, float)
#undef EDMFAST_PROPAGATE_KERNELS

// to[r] = from[ancestor of r], for small samples: as they are, so that a sample is one load and one store.
template <class S>
void gather_points(const S* from, const int32_t* ancestors, int64_t rows, int64_t elements, S* to) {
  const auto copy = [&](auto size) {
    constexpr int d = decltype(size)::value;
#pragma GCC unroll 8
    for (int64_t r = 0; r < rows; ++r) std::memcpy(to + r * d, from + ancestors[r] * int64_t{d}, d * sizeof(S));
  };
  switch (elements) {
    case 1: return copy(std::integral_constant<int, 1>{});
    case 2: return copy(std::integral_constant<int, 2>{});
    case 3: return copy(std::integral_constant<int, 3>{});
    default: return copy(std::integral_constant<int, 4>{});
  }
}

}  // namespace edmfast
