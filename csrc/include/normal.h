// Box-Muller in float32 with fixed polynomials, so that the same bits give the same normals everywhere. Each polynomial
// has the least largest error: 1.2e-7 of the logarithm by 2 atanh, 5e-9 of the sine and 5e-8 in the cosine of pi f / 2
// on |f| <= 1. The tail ends at 6.66 sigma.
#pragma once
#include "portable.h"

namespace edmfast {

struct NormalPair {
  float first, second;
};

// -log(u), u in [2^-32, 1].
EDMFAST_HD float negative_log(float u) {
  const int32_t bits = float_to_bits(u);
  const int32_t exponent = (bits - 0x3f3504f3) >> 23;  // mantissa in [sqrt(1/2), sqrt(2))
  const float mantissa = bits_to_float(bits - (exponent << 23));
  const float s = divide(add(mantissa, -1.0f), add(mantissa, 1.0f));
  const float s2 = mul(s, s);
  float series = 0.22222222f;
  series = add(mul(series, s2), 0.28571430f);
  series = add(mul(series, s2), 0.40000001f);
  series = add(mul(series, s2), 0.66666669f);
  series = add(mul(series, s2), 2.0f);
  return -add(mul(static_cast<float>(exponent), 0.69314718f), mul(series, s));
}

// -2 log(v 2^-31), v in [1/2, 2^31].
EDMFAST_HD float squared_radius(float v) {
  const int32_t bits = float_to_bits(v);
  // the exponent, which is at most 0, where it stands in the bits: times 2^23
  const int32_t exponent = (bits - 0x4eb504f3) & static_cast<int32_t>(0xff800000);
  const float mantissa = bits_to_float(bits - 0x0f800000 - exponent);  // in [sqrt(1/2), sqrt(2))
  const float s = divide_ordinary(add(mantissa, -1.0f), add(mantissa, 1.0f));
  const float s2 = mul(s, s);
  float series = add(mul(s2, -0.82592744f), -1.3330445f);
  series = add(mul(series, s2), -4.0000005f);
  return add(mul(static_cast<float>(exponent), -1.6525917e-07f), mul(series, s));
}

// The angle is angle_bits pi 2^-31. Its upper bit is half a turn, which turns both signs; the rest lies in [0, pi), and
// is taken as pi/2 + f pi/2, so that the cosine of the angle is a sine of f.
EDMFAST_HD NormalPair box_muller(uint32_t radius_bits, uint32_t angle_bits) {
  // half a step is added, so that the logarithm is finite
  const float v = add(static_cast<float>(static_cast<int32_t>(radius_bits >> 1)), 0.5f);
  const float radius = root_ordinary(squared_radius(v));

  const int32_t half_turn = static_cast<int32_t>(angle_bits & 0x80000000u);
  const float f = mul(static_cast<float>(static_cast<int32_t>(2u * angle_bits + 0x80000000u)), 4.656612873e-10f);
  const float f2 = mul(f, f);
  float minus_sine = add(mul(f2, -1.5148513e-4f), 4.6737664e-3f);
  minus_sine = add(mul(minus_sine, f2), -7.968968e-2f);
  minus_sine = add(mul(minus_sine, f2), 6.459637e-1f);
  minus_sine = mul(add(mul(minus_sine, f2), -1.5707964f), f);
  float cosine = add(mul(f2, 8.5819064e-4f), -2.0810628e-2f);
  cosine = add(mul(cosine, f2), 2.5365075e-1f);
  cosine = add(mul(cosine, f2), -1.2336982f);
  cosine = add(mul(cosine, f2), 1.0f);
  const float signed_radius = bits_to_float(float_to_bits(radius) ^ half_turn);
  return {mul(signed_radius, minus_sine), mul(signed_radius, cosine)};
}

}  // namespace edmfast
