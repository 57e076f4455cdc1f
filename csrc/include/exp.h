// The exponential of a sigmoid in plain arithmetic, which gives the same bits in a vector as alone.
#pragma once
#include <cstdint>
#include <cstring>

#include "portable.h"

namespace edmfast {

// 2^n of a whole number n in the range of normal numbers.
EDMFAST_HD float power_of_two(float n) { return bits_to_float((static_cast<int32_t>(n) + 127) << 23); }
EDMFAST_HD double power_of_two(double n) {
  const int64_t bits = (static_cast<int64_t>(n) + 1023) << 52;
  double value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// e^-x, with x clamped to +-69 or +-600: reduced by multiples of log 2, then a Taylor series. Closer to the limit of
// normal numbers, GCC's vectorised clamp would multiply into subnormal numbers, which is slow. In float the bits are
// clamped, which takes three instructions; NaN becomes 69.
EDMFAST_HD float exp_minus(float x) {
  const int32_t bits = float_to_bits(x), size = bits & 0x7fffffff, most = 0x428a0000;  // the bits of 69
  const int32_t sign = ~bits & static_cast<int32_t>(0x80000000);
  const float v = bits_to_float((size < most ? size : most) | sign);
  const float n = (v * 1.44269504f + 12582912.0f) - 12582912.0f;
  const float r = (v - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.98412698e-4f;
  p = p * r + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * power_of_two(n);
}

EDMFAST_HD double exp_minus(double x) {
  const double v = -(x < -600.0 ? -600.0 : x > 600.0 ? 600.0 : x);
  const double n = (v * 1.4426950408889634 + 6755399441055744.0) - 6755399441055744.0;
  const double r = (v - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  double p = 1.6059043836821613e-10;
  p = p * r + 2.0876756987868099e-9;
  p = p * r + 2.5052108385441719e-8;
  p = p * r + 2.7557319223985891e-7;
  p = p * r + 2.7557319223985893e-6;
  p = p * r + 2.4801587301587302e-5;
  p = p * r + 1.9841269841269841e-4;
  p = p * r + 1.3888888888888889e-3;
  p = p * r + 8.3333333333333333e-3;
  p = p * r + 4.1666666666666667e-2;
  p = p * r + 1.6666666666666667e-1;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  return p * power_of_two(n);
}

// 1/x of a number from 1 to 2e30. In float it is Newton's method from a guess that is right to an eighth; three steps
// square the error three times. A division would take as long as all the rest of a sigmoid.
EDMFAST_HD float reciprocal(float x) {
  float r = bits_to_float(0x7EF311C3 - float_to_bits(x));
  r = r * (2.0f - x * r);
  r = r * (2.0f - x * r);
  return r + r * (1.0f - x * r);
}

EDMFAST_HD double reciprocal(double x) { return 1.0 / x; }

// 1/(1 + e^-x). For NaN it is 0 or 1, and callers that multiply by x still see the NaN.
template <class T>
EDMFAST_HD T sigmoid(T x) {
  return reciprocal(T{1} + exp_minus(x));
}

}  // namespace edmfast
