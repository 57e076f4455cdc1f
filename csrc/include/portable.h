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

// a / b where neither is near the limits of normal numbers, and a may be 0. These are the steps that __fdiv_rn takes
// after its checks, and they round correctly.
EDMFAST_HD float divide_ordinary(float a, float b) {
#ifdef __CUDA_ARCH__
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(b));
  r = __fmaf_rn(r, __fmaf_rn(-b, r, 1.0f), r);
  const float q = __fmul_rn(a, r);
  return __fmaf_rn(r, __fmaf_rn(-b, q, a), q);
#else
  return a / b;
#endif
}

// The root of a number that is 0 or from 2^-100 to 2^100: the steps of __fsqrt_rn after its checks.
EDMFAST_HD float root_ordinary(float a) {
#ifdef __CUDA_ARCH__
  float r;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(fmaxf(a, 7.8886091e-31f)));
  const float root = __fmul_rn(a, r);
  return __fmaf_rn(__fmaf_rn(-root, root, a), __fmul_rn(0.5f, r), root);
#else
  return __builtin_sqrtf(a);
#endif
}

// The 64 bits of a product. nvcc adds a zero to the upper half of the usual expression.
EDMFAST_HD uint64_t wide_product(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
  uint64_t product;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
#else
  return uint64_t{a} * b;
#endif
}

// a b + c, rounded once. Only sums that need not have the bits of the CPU may use it.
EDMFAST_HD float fused(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

EDMFAST_HD double fused(double a, double b, double c) {
#ifdef __CUDA_ARCH__
  return __fma_rn(a, b, c);
#else
  return __builtin_fma(a, b, c);
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
