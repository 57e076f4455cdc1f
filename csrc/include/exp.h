// The exponential of a sigmoid in plain arithmetic, which gives the same bits in a vector as alone.
#pragma once
#include <cstdint>
#include <cstring>

#include "multiversion.h"
#include "portable.h"

namespace edmfast {

// a b + c, rounded once where the processor has such an instruction. Only loops whose sums depend on the width of the
// processor's vectors already may use it. A processor without it, older than 2013, calls a slow function.
template <class T>
EDMFAST_HD T contracted(T a, T b, T c) {
#if defined(__CUDA_ARCH__) || defined(EDMFAST_HAS_TARGETS) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return fused(a, b, c);
#else
  return a * b + c;
#endif
}

EDMFAST_HD double power_of_two(double n) {
  const int64_t bits = (static_cast<int64_t>(n) + 1023) << 52;
  double value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// e^-x, with x clamped to +-69 or +-600: reduced by multiples of log 2, then a polynomial. In float the polynomial has
// the least relative error, 3e-9. Closer to the limit of normal numbers, GCC's vectorised clamp would multiply into
// subnormal numbers, which is slow. In float the bits are clamped, which takes three instructions; NaN becomes 69.
EDMFAST_HD float exp_minus(float x) {
  const int32_t bits = float_to_bits(x), size = bits & 0x7fffffff, most = 0x428a0000;  // the bits of 69
  const int32_t sign = ~bits & static_cast<int32_t>(0x80000000);
  const float v = bits_to_float((size < most ? size : most) | sign);
  // the last bits of the sum are the whole number next to x / log 2
  const float shifted = contracted(v, 1.44269504f, 12582912.0f), n = shifted - 12582912.0f;
  const float r = contracted(n, 2.12194440e-4f, contracted(n, -0.693359375f, v));
  float p = 1.3814535e-3f;
  p = contracted(p, r, 8.368745e-3f);
  p = contracted(p, r, 4.1668393e-2f);
  p = contracted(p, r, 1.6666521e-1f);
  p = contracted(p, r, 0.49999994f);
  p = contracted(p, r, 1.0f);
  p = contracted(p, r, 1.0f);
  // a product with 2^n adds n to the exponent
  return bits_to_float(float_to_bits(p) + static_cast<int32_t>(static_cast<uint32_t>(float_to_bits(shifted)) << 23));
}

EDMFAST_HD double exp_minus(double x) {
  const double v = -(x < -600.0 ? -600.0 : x > 600.0 ? 600.0 : x);
  const double n = contracted(v, 1.4426950408889634, 6755399441055744.0) - 6755399441055744.0;
  const double r = contracted(n, -1.90821492927058770002e-10, contracted(n, -0.693147180369123816490, v));
  double p = 1.6059043836821613e-10;
  p = contracted(p, r, 2.0876756987868099e-9);
  p = contracted(p, r, 2.5052108385441719e-8);
  p = contracted(p, r, 2.7557319223985891e-7);
  p = contracted(p, r, 2.7557319223985893e-6);
  p = contracted(p, r, 2.4801587301587302e-5);
  p = contracted(p, r, 1.9841269841269841e-4);
  p = contracted(p, r, 1.3888888888888889e-3);
  p = contracted(p, r, 8.3333333333333333e-3);
  p = contracted(p, r, 4.1666666666666667e-2);
  p = contracted(p, r, 1.6666666666666667e-1);
  p = contracted(p, r, 0.5);
  p = contracted(p, r, 1.0);
  p = contracted(p, r, 1.0);
  return p * power_of_two(n);
}

// 1/(1 + e^-x). For NaN it is 0 or 1, and callers that multiply by x still see the NaN.
template <class T>
EDMFAST_HD T sigmoid(T x) {
  return T{1} / (T{1} + exp_minus(x));
}

}  // namespace edmfast
