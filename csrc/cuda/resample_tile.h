// Tiles of a large population: 256 threads hold 8 consecutive particles each. The rest of the last tile of a
// population is padding.
#pragma once
#include "resample_weights.h"

namespace edmfast {

// A NaN has weight zero, whatever the maximum.
constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

constexpr int kThreads = 256;
constexpr int kItems = 8;
constexpr int kTile = kThreads * kItems;
// The blocks of a multiprocessor, which leave 64 registers to a thread. With one block more, registers spill.
constexpr int kResident = 4;

EDMFAST_HD int64_t tiles_of(int64_t particles) { return (particles + kTile - 1) / kTile; }

// Reads 16 bytes at once; `from` is aligned to them.
template <class T, int count>
__device__ __forceinline__ void load_pack(const T* from, T (&values)[count]) {
  struct alignas(16) Pack {
    T item[count];
  };
  static_assert(sizeof(Pack) == 16);
  const Pack pack = *reinterpret_cast<const Pack*>(from);
#pragma unroll
  for (int k = 0; k < count; ++k) values[k] = pack.item[k];
}

// values[j] = from[first + j], or `missing` from `n` on.
template <class T>
__device__ __forceinline__ void load_items(const T* from, int64_t first, int64_t n, T missing, T (&values)[kItems]) {
  constexpr int kPack = 16 / sizeof(T);
  const T* own = from + first;
  if (first + kItems <= n && reinterpret_cast<uintptr_t>(own) % 16 == 0) {
    T packs[kItems / kPack][kPack];
#pragma unroll
    for (int j = 0; j < kItems / kPack; ++j) load_pack(own + j * kPack, packs[j]);
#pragma unroll
    for (int j = 0; j < kItems; ++j) values[j] = packs[j / kPack][j % kPack];
  } else {
#pragma unroll
    for (int j = 0; j < kItems; ++j) values[j] = first + j < n ? own[j] : missing;
  }
}

// The same numbers of a tile in an order in which neighbouring threads read neighbouring ones, for sums.
template <class T>
__device__ __forceinline__ void load_in_any_order(const T* from, int64_t tile, int64_t n, T missing,
                                                  T (&values)[kItems]) {
  constexpr int kPack = 16 / sizeof(T);
  const T* own = from + tile * kTile;
  const int64_t inside = n - tile * kTile;
  if (inside >= kTile && reinterpret_cast<uintptr_t>(own) % 16 == 0) {
    T packs[kItems / kPack][kPack];
#pragma unroll
    for (int j = 0; j < kItems / kPack; ++j)
      load_pack(own + (j * kThreads + threadIdx.x) * kPack, packs[j]);
#pragma unroll
    for (int j = 0; j < kItems; ++j) values[j] = packs[j / kPack][j % kPack];
  } else {
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const int k = j * kThreads + threadIdx.x;
      values[j] = k < inside ? own[k] : missing;
    }
  }
}

// The integer weights of log-weights whose largest is `maximum`; where that is +inf, only infinite ones count.
template <class T>
__device__ __forceinline__ void quantise(T (&values)[kItems], double maximum, int bits, int64_t (&weights)[kItems]) {
  if (maximum == kInfinity) {
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const bool infinite = static_cast<double>(values[j]) == kInfinity;
      values[j] = static_cast<T>(infinite ? 0.0 : -kInfinity);
    }
    maximum = 0.0;
  }
  // -0 becomes 0, so that no difference from it is -0
  maximum = add(maximum, 0.0);
#pragma unroll
  for (int j = 0; j < kItems; ++j) weights[j] = quantised_decay(maximum - static_cast<double>(values[j]), bits);
}

}  // namespace edmfast
