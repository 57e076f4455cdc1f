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

// Every lane gets the sum over the warp.
__device__ __forceinline__ int warp_count(int value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  return static_cast<int>(__reduce_add_sync(kAllLanes, static_cast<unsigned>(value)));
#else
  return warp_reduce(value, [](int a, int b) { return a + b; });
#endif
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

// The value of the lane whose number differs by `mask`. Words of a number of 64 bits stay in registers, where a copy
// through an array would not.
__device__ __forceinline__ uint64_t shuffle_xor(uint64_t value, int mask) {
  const unsigned low = __shfl_xor_sync(kAllLanes, static_cast<unsigned>(value), mask);
  const unsigned high = __shfl_xor_sync(kAllLanes, static_cast<unsigned>(value >> 32), mask);
  return uint64_t{high} << 32 | low;
}

// Sums eight numbers over a warp, of which every lane ends with one: lane l has the sum of values[l / 4]. Each half of
// the warp keeps four of the numbers and gives the other four away, each quarter two, each eighth one.
__device__ __forceinline__ uint64_t warp_sums(const uint64_t (&values)[8]) {
  const int lane = threadIdx.x % kWarp;
  const bool upper = (lane & 16) != 0, second = (lane & 8) != 0, odd = (lane & 4) != 0;
  uint64_t four[4], two[2];
#pragma unroll
  for (int k = 0; k < 4; ++k)
    four[k] = (upper ? values[k + 4] : values[k]) + shuffle_xor(upper ? values[k] : values[k + 4], 16);
#pragma unroll
  for (int k = 0; k < 2; ++k)
    two[k] = (second ? four[k + 2] : four[k]) + shuffle_xor(second ? four[k] : four[k + 2], 8);
  uint64_t sum = (odd ? two[1] : two[0]) + shuffle_xor(odd ? two[0] : two[1], 4);
  sum += shuffle_xor(sum, 2);
  return sum + shuffle_xor(sum, 1);
}

// Sums eight numbers over a block of 256 threads. Each of the first eight threads gets one of the sums.
__device__ __forceinline__ uint64_t block_sums(const uint64_t (&values)[8], uint64_t (&shared)[64]) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const uint64_t own = warp_sums(values);
  if (lane % 4 == 0) shared[lane * 2 + warp] = own;
  __syncthreads();
  uint64_t sum = 0;
  if (threadIdx.x < 8) {
#pragma unroll
    for (int other = 0; other < 8; ++other) sum += shared[8 * threadIdx.x + other];
  }
  return sum;
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

// The sum over the threads before this one in a block of 256. `shared` is free after the next barrier.
__device__ __forceinline__ int64_t sum_before(int64_t value, int64_t (&shared)[8]) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t inclusive = warp_scan(value, [](int64_t a, int64_t b) { return a + b; });
  if (lane == kWarp - 1) shared[warp] = inclusive;
  __syncthreads();
  // each lane reads one of the eight sums, so that three steps add those of the warps before this one
  int64_t others = lane % 8 < warp ? shared[lane % 8] : 0;
#pragma unroll
  for (int mask = 4; mask > 0; mask /= 2)
    others += static_cast<int64_t>(shuffle_xor(static_cast<uint64_t>(others), mask));
  return others + inclusive - value;
}

// The largest number of the threads before this one in a block of 256, and at least 0; as above.
__device__ __forceinline__ int32_t maximum_before(int32_t value, int32_t (&shared)[8]) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int32_t inclusive = warp_scan(value, [](int32_t a, int32_t b) { return max(a, b); });
  if (lane == kWarp - 1) shared[warp] = inclusive;
  const int32_t left = __shfl_up_sync(kAllLanes, inclusive, 1);
  __syncthreads();
  int32_t others = lane % 8 < warp ? shared[lane % 8] : 0;
#pragma unroll
  for (int mask = 4; mask > 0; mask /= 2)
    others = max(others, static_cast<int32_t>(__shfl_xor_sync(kAllLanes, static_cast<unsigned>(others), mask)));
  return lane > 0 ? max(others, left) : others;
}

}  // namespace edmfast
