// Half precisions as storage: arithmetic is done in float32, and rounding is to nearest even.
#pragma once
#include <cstring>

#include "../include/portable.h"

namespace edmfast {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The type of the arithmetic for a storage type.
template <class S>
struct ArithmeticOf {
  using type = S;
};
template <>
struct ArithmeticOf<Half> {
  using type = float;
};
template <>
struct ArithmeticOf<BFloat16> {
  using type = float;
};

EDMFAST_HD float widen(float value) { return value; }
EDMFAST_HD double widen(double value) { return value; }
EDMFAST_HD float widen(BFloat16 value) { return bits_to_float(static_cast<int32_t>(uint32_t{value.bits} << 16)); }
EDMFAST_HD float widen(Half value) {
  const uint32_t sign = uint32_t{value.bits} >> 15 << 31, magnitude = value.bits & 0x7fffu;
  // 2^112 shifts the bias of the exponent, and it also makes subnormal halves normal
  const float scaled = bits_to_float(static_cast<int32_t>(magnitude << 13)) * 5.192296858534828e+33f;
  const uint32_t special = 0x7f800000u | magnitude << 13;
  const uint32_t bits = magnitude >= 0x7c00u ? special : static_cast<uint32_t>(float_to_bits(scaled));
  return bits_to_float(static_cast<int32_t>(sign | bits));
}

EDMFAST_HD void narrow(float value, float& to) { to = value; }
EDMFAST_HD void narrow(double value, double& to) { to = value; }
EDMFAST_HD void narrow(float value, BFloat16& to) {
  const uint32_t bits = static_cast<uint32_t>(float_to_bits(value));
  const uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  to.bits = static_cast<uint16_t>(value != value ? 0x7fc0u : rounded >> 16);
}
EDMFAST_HD void narrow(float value, Half& to) {
  const uint32_t all = static_cast<uint32_t>(float_to_bits(value)), sign = all >> 16 & 0x8000u;
  const uint32_t bits = all & 0x7fffffffu;
  // below 2^-14 an addition rounds to the spacing of the subnormals, 2^-24
  const float small = bits_to_float(static_cast<int32_t>(bits)) + 0.5f;
  const uint32_t subnormal = static_cast<uint32_t>(float_to_bits(small)) - 0x3f000000u;
  const uint32_t normal = (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1u)) >> 13;
  const uint32_t magnitude = bits > 0x7f800000u   ? 0x7e00u
                             : bits >= 0x477ff000u ? 0x7c00u
                             : bits < 0x38800000u  ? subnormal
                                                   : normal;
  to.bits = static_cast<uint16_t>(sign | magnitude);
}

}  // namespace edmfast
