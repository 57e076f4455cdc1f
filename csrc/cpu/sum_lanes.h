// Sums in sixteen lanes, held in vectors, so that their order does not depend on the instruction set.
#pragma once
#include <cstring>
#include <type_traits>

#include "low_precision.h"

namespace edmfast {

constexpr int kSumLanes = 16;

// Sixteen lanes in vectors of at most kBytes. Compilers keep vectors in memory that are wider than the machine's.
template <class T, int kBytes>
struct SumLanes {
  static constexpr int kWide = kBytes / int{sizeof(T)} < kSumLanes ? kBytes / int{sizeof(T)} : kSumLanes;
  static constexpr int kVectors = kSumLanes / kWide;
  typedef T Vector __attribute__((vector_size(kWide * sizeof(T))));

  Vector part[kVectors] = {};

  EDMFAST_HD T operator[](int lane) const { return part[lane / kWide][lane % kWide]; }

  EDMFAST_HD double sum() const {
    double sums[kSumLanes / 2];
#pragma omp simd
    for (int lane = 0; lane < 8; ++lane)
      sums[lane] = static_cast<double>((*this)[lane]) + static_cast<double>((*this)[lane + 8]);
#pragma omp simd
    for (int lane = 0; lane < 4; ++lane) sums[lane] += sums[lane + 4];
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
  }
};

// The first kCount numbers of a vector from memory, zeros in the others.
template <int kCount, class V, class From>
EDMFAST_HD void load_vector(const From* from, V& vector) {
  using T = std::remove_reference_t<decltype(vector[0])>;
  constexpr int kWide = sizeof(V) / sizeof(T);
  if constexpr (kCount == kWide && std::is_same_v<From, T>) {
    std::memcpy(&vector, from, sizeof(V));
  } else {
    T wide[kWide] = {};
#pragma omp simd
    for (int lane = 0; lane < kCount; ++lane) wide[lane] = static_cast<T>(widen(from[lane]));
    std::memcpy(&vector, wide, sizeof(V));
  }
}

template <int kCount, class V, class To>
EDMFAST_HD void store_vector(const V& vector, To* to) {
  using T = std::remove_cv_t<std::remove_reference_t<decltype(vector[0])>>;
  constexpr int kWide = sizeof(V) / sizeof(T);
  if constexpr (kCount == kWide && std::is_same_v<To, T>) {
    std::memcpy(to, &vector, sizeof(V));
  } else {
    T wide[kWide];
    std::memcpy(wide, &vector, sizeof(V));
#pragma omp simd
    for (int lane = 0; lane < kCount; ++lane) narrow(wide[lane], to[lane]);
  }
}

}  // namespace edmfast
