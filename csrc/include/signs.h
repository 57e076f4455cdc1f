// Random signs with the bits that Box-Muller gives the signs of its normals, from comparisons of whole numbers.
//
// The angle is pi t with t = float(angle) 2^-31, where angle is the second word as a signed number. The signs are those
// of cos(pi t) and sin(pi t). Conversion to float rounds to 64 numbers around 2^30, and to 128 beyond it:
//
//   cos is negative from 2^30 - 32 on, which rounds to t = 1/2, up to 2^32 - 2^30 - 65, the last that rounds to less
//   than t = -1/2; at t = -1/2 itself Box-Muller gives +0;
//   sin is negative from 2^31 - 64 on, which rounds to t = 1 and gives -0; negative angles are the larger ones there.
//
// A first word of 2^32 - 128 or more rounds to u = 1, whose radius is -0 and turns both signs.
#pragma once
#include "portable.h"

namespace edmfast {

// True stands for -1.
struct SignPair {
  bool first, second;
};

EDMFAST_HD SignPair signs_of(uint32_t radius_bits, uint32_t angle_bits) {
  const bool turned = radius_bits >= 0xFFFFFF80u;
  return {(angle_bits - 0x3FFFFFE0u < 0x7FFFFFE0u) != turned, (angle_bits >= 0x7FFFFFC0u) != turned};
}

// Several probes of one particle share a draw and differ by patterns of the last two axes of a state.
constexpr int64_t kPatterns = 4;

// Whether pattern 0 to 3 turns the sign in this row and column: nowhere, as on a chequered board, in odd rows, in odd
// columns.
EDMFAST_HD bool turns(int64_t pattern, int64_t row, int64_t column) {
  const int64_t in_row = row & (pattern != 3), in_column = column & (pattern != 2);
  return pattern != 0 && ((in_row ^ in_column) & 1) != 0;
}

}  // namespace edmfast
