// Arithmetic of the proposal step on pieces that fit the first-level cache.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "../include/multiversion.h"
#include "noise_tile.h"
#include "sum_lanes.h"

namespace edmfast {

struct Moments {
  double noise = 0, cross = 0, shift = 0;  // |z|^2, <m, z>, |m|^2

  EDMFAST_HD Moments operator+(const Moments& other) const {
    return {noise + other.noise, cross + other.cross, shift + other.shift};
  }
};

// Made of one row of coefficients c = (drift of each score, v_M, v_L), and of the number of elements that move.
struct Kernel {
  double scale, noise_factor, cross_factor, shift_factor, constant;

  Kernel() = default;
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

// Samples of one population and the inputs of their move, from block `first_block` on; row r comes from ancestors[r].
template <class S>
struct Rows {
  using T = typename ArithmeticOf<S>::type;
  const S* x;
  const S* scores[kMaxModels];
  int64_t models, elements;
  T drift[kMaxModels], scale;
  const uint8_t* mask;  // [d], or null
  const int32_t* ancestors;
  S* moved;
};

// Blocks [first_block, first_block + size) of one sample; masked elements keep x and add nothing to the sums.
template <bool kMasked, int kBytes, class S, class T>
EDMFAST_HD Moments move_row(const Rows<S>& rows, int64_t r, int64_t first_block, int64_t size, const float* normals) {
  using Sums = SumLanes<T, kBytes>;
  using Vector = typename Sums::Vector;
  constexpr int kWide = Sums::kWide;
  const int64_t blocks = blocks_of(rows.elements), source = rows.ancestors[r] * rows.elements;
  S* const moved = rows.moved + r * rows.elements;
  Sums zz, mz, mm;
  const auto piece = [&](auto count, int part, int64_t at, const float* from) __attribute__((always_inline)) {
    constexpr int kCount = decltype(count)::value;
    Vector x, z, m, score;
    load_vector<kCount>(rows.x + source + at, x);
    load_vector<kCount>(from, z);
    load_vector<kCount>(rows.scores[0] + source + at, score);
    m = rows.drift[0] * score;
    for (int64_t k = 1; k < rows.models; ++k) {
      load_vector<kCount>(rows.scores[k] + source + at, score);
      m += rows.drift[k] * score;
    }
    if constexpr (kMasked) {
      T moves[kWide] = {};
      for (int lane = 0; lane < kCount; ++lane) moves[lane] = rows.mask[at + lane] != 0 ? T{1} : T{0};
      Vector chosen;
      load_vector<kWide>(moves, chosen);
      z = chosen != 0 ? z : Vector{};
      m = chosen != 0 ? m : Vector{};
    }
    store_vector<kCount>(Vector(x + m + rows.scale * z), moved + at);
    zz.part[part] += z * z;
    mz.part[part] += m * z;
    mm.part[part] += m * m;
  };
  for (int64_t j = 0; j < 4; ++j) {
    const int64_t start = j * blocks + first_block, count = std::min(size, rows.elements - start);
    const float* from = normals + j * kTile;
    int64_t i = 0;
    for (; i + kSumLanes <= count; i += kSumLanes) {
#pragma GCC unroll 8
      for (int part = 0; part < Sums::kVectors; ++part)
        piece(std::integral_constant<int, kWide>{}, part, start + i + part * kWide, from + i + part * kWide);
    }
    constexpr int kFew = kWide < 4 ? kWide : 4;
    for (; i + 4 <= count; i += 4) {
#pragma GCC unroll 2
      for (int part = 0; part < 4 / kFew; ++part)
        piece(std::integral_constant<int, kFew>{}, part, start + i + part * kFew, from + i + part * kFew);
    }
    for (; i < count; ++i) piece(std::integral_constant<int, 1>{}, 0, start + i, from + i);
  }
  return {zz.sum(), mz.sum(), mm.sum()};
}

template <int kBytes, class S>
EDMFAST_HD void move_rows_body(const Rows<S>& rows, int64_t count, int64_t first_block, int64_t size,
                               const float* normals, Moments* moments) {
  using T = typename Rows<S>::T;
  for (int64_t r = 0; r < count; ++r) {
    const float* from = normals + r * size;
    moments[r] = rows.mask == nullptr ? move_row<false, kBytes, S, T>(rows, r, first_block, size, from)
                                      : move_row<true, kBytes, S, T>(rows, r, first_block, size, from);
  }
}

// Whole samples of at most four elements, already gathered: word j is element j.
template <int kElements, bool kMasked, bool kEach, class S, class T>
EDMFAST_HD void points_masked(const S* x, const T* shift, const float* normals, const uint8_t* mask,
                            const Kernel* kernels, int64_t rows, S* moved, T* ratio) {
  const Kernel first = kernels[0];
  for (int64_t r = 0; r < rows; ++r) {
    const Kernel& kernel = kEach ? kernels[r] : first;
    const T scale = static_cast<T>(kernel.scale);
    Moments moments;
    for (int j = 0; j < kElements; ++j) {
      const bool moves = !kMasked || mask[j] != 0;
      const T z = moves ? static_cast<T>(normals[j * kTile + r]) : T{0};
      const T m = moves ? shift[r * kElements + j] : T{0};
      narrow(widen(x[r * kElements + j]) + m + scale * z, moved[r * kElements + j]);
      // a sum that starts from zero would add once more for every sample
      const Moments here{static_cast<double>(z) * z, static_cast<double>(m) * z, static_cast<double>(m) * m};
      moments = j == 0 ? here : moments + here;
    }
    ratio[r] = static_cast<T>(kernel.ratio(moments));
  }
}

template <int kElements, class S, class T>
EDMFAST_HD void points_body(const S* x, const T* shift, const float* normals, const uint8_t* mask,
                            const Kernel* kernels, bool each, int64_t rows, S* moved, T* ratio) {
  if (mask == nullptr && !each) {
    points_masked<kElements, false, false>(x, shift, normals, mask, kernels, rows, moved, ratio);
  } else if (mask == nullptr) {
    points_masked<kElements, false, true>(x, shift, normals, mask, kernels, rows, moved, ratio);
  } else if (!each) {
    points_masked<kElements, true, false>(x, shift, normals, mask, kernels, rows, moved, ratio);
  } else {
    points_masked<kElements, true, true>(x, shift, normals, mask, kernels, rows, moved, ratio);
  }
}

template <class S, class T>
EDMFAST_HD void points_any(const S* x, const T* shift, const float* normals, const uint8_t* mask,
                           const Kernel* kernels, bool each, int64_t rows, int64_t elements, S* moved, T* ratio) {
  switch (elements) {
    case 1: return points_body<1>(x, shift, normals, mask, kernels, each, rows, moved, ratio);
    case 2: return points_body<2>(x, shift, normals, mask, kernels, each, rows, moved, ratio);
    case 3: return points_body<3>(x, shift, normals, mask, kernels, each, rows, moved, ratio);
    default: return points_body<4>(x, shift, normals, mask, kernels, each, rows, moved, ratio);
  }
}

// shift = drift * score, or shift += drift * score
template <class S, class T>
EDMFAST_HD void add_shift_body(const S* score, T drift, bool first, T* shift, int64_t n) {
  if (first) {
    for (int64_t i = 0; i < n; ++i) shift[i] = drift * widen(score[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) shift[i] = shift[i] + drift * widen(score[i]);
  }
}

// The same with a drift for every element.
template <class S, class T>
EDMFAST_HD void add_shifts_body(const S* score, const T* drift, bool first, T* shift, int64_t n) {
  if (first) {
    for (int64_t i = 0; i < n; ++i) shift[i] = drift[i] * widen(score[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) shift[i] = shift[i] + drift[i] * widen(score[i]);
  }
}

// The same for every storage type, compiled for several instruction sets.
#define EDMFAST_PROPAGATE_KERNELS(S, T)                                                                  \
  EDMFAST_BY_WIDTH(void move_rows(const Rows<S>& rows, int64_t count, int64_t first_block, int64_t size, \
                                  const float* normals, Moments* moments),                               \
                   move_rows_body<kBytes>(rows, count, first_block, size, normals, moments);)            \
  EDMFAST_MULTIVERSION inline void add_shift(const S* score, T drift, bool first, T* shift, int64_t n) { \
    add_shift_body(score, drift, first, shift, n);                                                       \
  }                                                                                                      \
  EDMFAST_MULTIVERSION inline void add_shifts(const S* score, const T* drift, bool first, T* shift,      \
                                              int64_t n) {                                               \
    add_shifts_body(score, drift, first, shift, n);                                                      \
  }                                                                                                      \
  EDMFAST_MULTIVERSION inline void points(const S* x, const T* shift, const float* normals,              \
                                          const uint8_t* mask, const Kernel* kernels, bool each,         \
                                          int64_t rows, int64_t elements, S* moved, T* ratio) {          \
    points_any(x, shift, normals, mask, kernels, each, rows, elements, moved, ratio);                    \
  }
EDMFAST_PROPAGATE_KERNELS(float, float)
EDMFAST_PROPAGATE_KERNELS(double, double)
EDMFAST_PROPAGATE_KERNELS(Half, float)
EDMFAST_PROPAGATE_KERNELS(BFloat16, float)
#undef EDMFAST_PROPAGATE_KERNELS

// to[r] = from[ancestor of r] for small samples, without a change of type, so that a sample is one load and one store.
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
