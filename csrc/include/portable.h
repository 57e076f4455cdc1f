// Arithmetic that rounds the same way in C++, CUDA and plain torch: every multiplication and every addition rounds on
// its own, never fused. Host code is compiled with -ffp-contract=off.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define EDMFAST_HD __host__ __device__ __forceinline__
#else
#define EDMFAST_HD inline __attribute__((always_inline))
#endif

namespace edmfast {

EDMFAST_HD float mul(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

EDMFAST_HD float add(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

EDMFAST_HD double mul(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

EDMFAST_HD double add(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dadd_rn(a, b);
#else
  return a + b;
#endif
}

EDMFAST_HD float divide(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

EDMFAST_HD double divide(double a, double b) {
#ifdef __CUDA_ARCH__
  return __ddiv_rn(a, b);
#else
  return a / b;
#endif
}

EDMFAST_HD float square_root(float a) {
#ifdef __CUDA_ARCH__
  return __fsqrt_rn(a);
#else
  return __builtin_sqrtf(a);
#endif
}

EDMFAST_HD float bits_to_float(int32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

EDMFAST_HD int32_t float_to_bits(float value) {
  int32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

EDMFAST_HD double bits_to_double(int64_t bits) {
  double value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

EDMFAST_HD int64_t double_to_bits(double value) {
  int64_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

}  // namespace edmfast
