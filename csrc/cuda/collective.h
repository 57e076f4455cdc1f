// Reductions and scans over a warp, a power-of-two part of one, or a block of whole warps.
#pragma once
#include <cstdint>
#include <cstring>

namespace edmfast {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Applies a 32-bit shuffle to every word of a trivially copyable value.
template <class T, class Shuffle>
__device__ __forceinline__ T by_words(const T& value, const Shuffle& shuffle) {
  static_assert(sizeof(T) % 4 == 0);
  unsigned words[sizeof(T) / 4];
  memcpy(words, &value, sizeof(T));
#pragma unroll
  for (unsigned& word : words) word = shuffle(word);
  T result;
  memcpy(&result, words, sizeof(T));
  return result;
}

// Every lane gets the result over its group of `width` neighbours. All lanes of the warp must call it.
template <int width = kWarp, class T, class Combine>
__device__ __forceinline__ T warp_reduce(T value, const Combine& combine) {
#pragma unroll
  for (int mask = width / 2; mask > 0; mask /= 2)
    value = combine(value, by_words(value, [&](unsigned w) { return __shfl_xor_sync(kAllLanes, w, mask); }));
  return value;
}

// Lane i gets the result over lanes 0..i.
template <class T, class Combine>
__device__ __forceinline__ T warp_scan(T value, const Combine& combine) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const T left = by_words(value, [&](unsigned w) { return __shfl_up_sync(kAllLanes, w, offset); });
    if (lane >= offset) value = combine(left, value);
  }
  return value;
}

// Every thread gets the result over the block. `shared` holds kWarp values and is free on return.
template <class T, class Combine>
__device__ __forceinline__ T block_reduce(T value, const T& identity, const Combine& combine, T* shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  value = warp_reduce(value, combine);
  if (lane == 0) shared[warp] = value;
  __syncthreads();
  value = warp_reduce(lane < warps ? shared[lane] : identity, combine);
  __syncthreads();
  return value;
}

template <class T>
struct Scan {
  T inclusive;  // over the threads up to this one
  T before;     // over the warps before this one
  T all;        // over the block
};

// `shared` holds kWarp values and is free on return.
template <class T, class Combine>
__device__ __forceinline__ Scan<T> block_scan(T value, const T& identity, const Combine& combine, T* shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  value = warp_scan(value, combine);
  if (lane == kWarp - 1) shared[warp] = value;
  __syncthreads();
  const T warp_totals = warp_scan(lane < warps ? shared[lane] : identity, combine);
  const auto of_lane = [&](int source) {
    return by_words(warp_totals, [&](unsigned w) { return __shfl_sync(kAllLanes, w, source); });
  };
  const T before = of_lane(warp > 0 ? warp - 1 : 0);
  const T all = of_lane(kWarp - 1);
  __syncthreads();
  return {warp > 0 ? combine(before, value) : value, warp > 0 ? before : identity, all};
}

}  // namespace edmfast
