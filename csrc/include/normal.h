// Box-Muller in float32 with fixed polynomials, so that the same bits give the same normals everywhere. The
// coefficients are Taylor series: the logarithm by 2 atanh, sine and cosine of pi f on |f| <= 1/4. The tail ends at
// 6.66 sigma.
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

EDMFAST_HD NormalPair box_muller(uint32_t radius_bits, uint32_t angle_bits) {
  const float u = add(mul(static_cast<float>(static_cast<int32_t>(radius_bits >> 1)), 4.656612873e-10f),
                      2.328306437e-10f);
  const float radius = square_root(mul(2.0f, negative_log(u)));

  const float turn = mul(static_cast<float>(static_cast<int32_t>(angle_bits)), 4.656612873e-10f);
  const float twice = mul(turn, 2.0f);
  const int32_t quarter = static_cast<int32_t>(add(twice, twice < 0.0f ? -0.5f : 0.5f));
  const float f = add(turn, mul(static_cast<float>(quarter), -0.5f));
  const float f2 = mul(f, f);
  float sine = 0.082145887f;
  sine = add(mul(sine, f2), -0.59926453f);
  sine = add(mul(sine, f2), 2.5501640f);
  sine = add(mul(sine, f2), -5.1677128f);
  sine = add(mul(sine, f2), 3.1415927f);
  sine = mul(sine, f);
  float cosine = -0.025806891f;
  cosine = add(mul(cosine, f2), 0.23533063f);
  cosine = add(mul(cosine, f2), -1.3352628f);
  cosine = add(mul(cosine, f2), 4.0587121f);
  cosine = add(mul(cosine, f2), -4.9348022f);
  cosine = add(mul(cosine, f2), 1.0f);

  const bool swapped = (quarter & 1) != 0;
  const float x = swapped ? sine : cosine;
  const float y = swapped ? cosine : sine;
  // angle = (quarter / 2 + f) pi: the cosine and sine of quarter turns, with quarter in -2..2; bit 1 is the sign
  const int32_t x_sign = ((quarter + 1) & 2) << 30;
  const int32_t y_sign = (quarter & 2) << 30;
  return {mul(radius, bits_to_float(float_to_bits(x) ^ x_sign)),
          mul(radius, bits_to_float(float_to_bits(y) ^ y_sign))};
}

}  // namespace edmfast
