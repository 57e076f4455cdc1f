// Random signs with the bits that Box-Muller gives the signs of its normals, from the upper bits of their words.
//
// Box-Muller (normal.h) takes the upper bit of the angle as half a turn, which turns both signs, and the next bit says
// whether the rest is above a quarter turn, where the cosine is negative. Its sine is not negative. The normals of an
// angle at a quarter turn are zeros with the signs of these rules. A first word of 2^32 - 128 or more rounds to a
// radius of -0, which turns both signs.
#pragma once
#include "portable.h"

namespace edmfast {

// True stands for -1.
struct SignPair {
  bool first, second;
};

EDMFAST_HD SignPair signs_of(uint32_t radius_bits, uint32_t angle_bits) {
  const bool turned = radius_bits >= 0xFFFFFF80u;
  return {((angle_bits ^ angle_bits << 1) >> 31 != 0) != turned, (angle_bits >> 31 != 0) != turned};
}

// Several probes of one particle share a draw and differ by patterns of the last two axes of a state.
constexpr int64_t kPatterns = 4;

// True where pattern 0 to 3 turns the sign in this row and column: nowhere, as on a chequered board, in odd rows, in
// odd columns.
EDMFAST_HD bool turns(int64_t pattern, int64_t row, int64_t column) {
  const int64_t in_row = row & (pattern != 3), in_column = column & (pattern != 2);
  return pattern != 0 && ((in_row ^ in_column) & 1) != 0;
}

}  // namespace edmfast
