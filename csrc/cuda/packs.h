// Neighbouring numbers that a thread loads or stores at once.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace edmfast {

// The address some bytes beyond another. A sum of two addresses is cheaper than an index times a size.
template <class S>
__device__ __forceinline__ S* beyond(S* address, uint32_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<S>, const char, char>;
  return reinterpret_cast<S*>(reinterpret_cast<Byte*>(address) + bytes);
}

template <class S, int kWidth>
struct alignas(sizeof(S) * kWidth) Pack {
  S item[kWidth];

  template <class T>
  __device__ __forceinline__ T get(int i) const {
    return static_cast<T>(item[i]);
  }

  // Rounds two numbers to items i - 1 and i, or the first to the only item.
  template <class T>
  __device__ __forceinline__ void put(int i, const T (&values)[2]) {
    if constexpr (kWidth > 1) item[i - 1] = static_cast<S>(values[0]);
    item[i] = static_cast<S>(values[kWidth > 1]);
  }
};

#ifdef __CUDACC__

// Pairs of half precision in words: nvcc would otherwise take every number out of its word and put it back.
template <class Pair, int kWidth>
struct alignas(2 * kWidth) Halves {
  uint32_t word[kWidth / 2];

  __device__ __forceinline__ Pair pair(int i) const {
    Pair value;
    memcpy(&value, word + i / 2, sizeof(value));
    return value;
  }
  __device__ __forceinline__ void put_pair(int i, Pair value) { memcpy(word + i / 2, &value, sizeof(value)); }
};

template <int kWidth>
  requires(kWidth % 2 == 0)
struct Pack<__nv_bfloat16, kWidth> : Halves<__nv_bfloat162, kWidth> {
  template <class T>
  __device__ __forceinline__ T get(int i) const {
    const uint32_t both = this->word[i / 2];
    return __uint_as_float(i % 2 == 0 ? both << 16 : both & 0xffff0000u);
  }
  __device__ __forceinline__ void put(int i, const float (&values)[2]) {
    this->put_pair(i, __floats2bfloat162_rn(values[0], values[1]));
  }
};

template <int kWidth>
  requires(kWidth % 2 == 0)
struct Pack<__half, kWidth> : Halves<__half2, kWidth> {
  template <class T>
  __device__ __forceinline__ T get(int i) const {
    return i % 2 == 0 ? __low2float(this->pair(i)) : __high2float(this->pair(i));
  }
  __device__ __forceinline__ void put(int i, const float (&values)[2]) {
    this->put_pair(i, __floats2half2_rn(values[0], values[1]));
  }
};

#endif

}  // namespace edmfast
