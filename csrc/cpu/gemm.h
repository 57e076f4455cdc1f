// Products C = A B of blocks that are in cache, for the shapes of small networks. Every number of C is one chain of
// fused multiply-adds over k, so that the bits of a row depend neither on the other rows nor on the number of threads.
// MKL leaves half of the arithmetic of an AMD processor with AVX-512 unused: on a Zen 5 core blocks of 512 rows and
// 128 columns ran at 280 Gflop/s here and at 115 there. Other processors have no kernel here, and torch multiplies.
#pragma once
#include <cstdint>
#include <vector>

#include "../include/multiversion.h"

#ifdef EDMFAST_HAS_TARGETS
#include <immintrin.h>
#endif

namespace edmfast {

// A [rows, inner] with any strides; B [inner, columns] and C [rows, columns], whose rows are `stride` apart.
template <class T>
struct Product {
  int64_t rows, columns, inner;
  const T* a;
  int64_t a_row, a_inner;
  const T* b;
  int64_t b_stride;
  T* c;
  int64_t c_stride;
};

#ifdef EDMFAST_HAS_TARGETS

#define EDMFAST_WIDE __attribute__((target("arch=x86-64-v4"), always_inline)) inline

template <class T>
struct Wide;

template <>
struct Wide<float> {
  using Vector = __m512;
  using Mask = __mmask16;
  static constexpr int kLanes = 16;
  EDMFAST_WIDE static Vector zero() { return _mm512_setzero_ps(); }
  EDMFAST_WIDE static Vector all(float x) { return _mm512_set1_ps(x); }
  EDMFAST_WIDE static Vector load(Mask lanes, const float* from) { return _mm512_maskz_loadu_ps(lanes, from); }
  EDMFAST_WIDE static void store(float* to, Mask lanes, Vector v) { _mm512_mask_storeu_ps(to, lanes, v); }
  EDMFAST_WIDE static Vector fused(Vector x, Vector y, Vector z) { return _mm512_fmadd_ps(x, y, z); }
};

template <>
struct Wide<double> {
  using Vector = __m512d;
  using Mask = __mmask8;
  static constexpr int kLanes = 8;
  EDMFAST_WIDE static Vector zero() { return _mm512_setzero_pd(); }
  EDMFAST_WIDE static Vector all(double x) { return _mm512_set1_pd(x); }
  EDMFAST_WIDE static Vector load(Mask lanes, const double* from) { return _mm512_maskz_loadu_pd(lanes, from); }
  EDMFAST_WIDE static void store(double* to, Mask lanes, Vector v) { _mm512_mask_storeu_pd(to, lanes, v); }
  EDMFAST_WIDE static Vector fused(Vector x, Vector y, Vector z) { return _mm512_fmadd_pd(x, y, z); }
};

// The columns of one tile: B from its first column on, and which lanes of its two vectors exist.
template <class T>
struct Panel {
  int64_t column;
  const T* b;
  int64_t stride;
  typename Wide<T>::Mask first, second;
};

// kRows rows of a panel. Twelve rows of two vectors, with their operands, fill the 32 registers.
template <int kRows, class T>
EDMFAST_WIDE void multiply_tile(const Product<T>& job, const Panel<T>& panel, int64_t row) {
  using W = Wide<T>;
  typename W::Vector sums[kRows][2];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = W::zero();
  const T *a = job.a + row * job.a_row, *b = panel.b;
  for (int64_t k = 0; k < job.inner; ++k, a += job.a_inner, b += panel.stride) {
    const typename W::Vector b0 = W::load(panel.first, b), b1 = W::load(panel.second, b + W::kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const typename W::Vector x = W::all(a[r * job.a_row]);
      sums[r][0] = W::fused(x, b0, sums[r][0]);
      sums[r][1] = W::fused(x, b1, sums[r][1]);
    }
  }
  T* c = job.c + row * job.c_stride + panel.column;
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r, c += job.c_stride) {
    W::store(c, panel.first, sums[r][0]);
    W::store(c + W::kLanes, panel.second, sums[r][1]);
  }
}

template <class T>
EDMFAST_WIDE void multiply_panel(const Product<T>& job, const Panel<T>& panel) {
  int64_t row = 0;
  for (; row + 12 <= job.rows; row += 12) multiply_tile<12>(job, panel, row);
  for (; row + 4 <= job.rows; row += 4) multiply_tile<4>(job, panel, row);
  for (; row < job.rows; ++row) multiply_tile<1>(job, panel, row);
}

// The columns of B of a panel side by side. Rows that are far apart would share few places of the cache.
template <class T>
__attribute__((target("arch=x86-64-v4"))) inline const T* packed(const Product<T>& job, int64_t column, int64_t count,
                                                                 std::vector<T>& room) {
  constexpr int64_t kTile = 2 * Wide<T>::kLanes;
  room.resize(job.inner * kTile);
  for (int64_t k = 0; k < job.inner; ++k) {
    const T* from = job.b + k * job.b_stride + column;
    for (int64_t i = 0; i < count; ++i) room[k * kTile + i] = from[i];
  }
  return room.data();
}

template <class T>
__attribute__((target("arch=x86-64-v4"))) inline void multiply(const Product<T>& job) {
  using Mask = typename Wide<T>::Mask;
  constexpr int64_t kLanes = Wide<T>::kLanes, kTile = 2 * kLanes, kFar = 1024 / sizeof(T), kMany = 48;
  thread_local std::vector<T> room;
  const bool packs = job.b_stride >= kFar && job.rows >= kMany;
  for (int64_t column = 0; column < job.columns; column += kTile) {
    const int64_t count = job.columns - column < kTile ? job.columns - column : kTile;
    const int64_t first = count < kLanes ? count : kLanes, second = count - first;
    Panel<T> panel{column, job.b + column, job.b_stride, static_cast<Mask>((1u << first) - 1),
                   static_cast<Mask>((1u << second) - 1)};
    if (packs) panel.b = packed(job, column, count, room), panel.stride = kTile;
    multiply_panel(job, panel);
  }
}

inline bool has_multiply() {
  static const bool has = __builtin_cpu_supports("x86-64-v4");
  return has;
}

#else

template <class T>
void multiply(const Product<T>&) {}
inline bool has_multiply() { return false; }

#endif

}  // namespace edmfast
