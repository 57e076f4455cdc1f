// Where the groups of x [N, C, S] lie: whole, where channels are slowest or there is one group, or in S pieces
// of C/G numbers where channels are fastest; and copies of them, in the type of the arithmetic.
#pragma once
#include <algorithm>
#include <cstdint>

#include "../include/multiversion.h"
#include "low_precision.h"

namespace edmfast {

// Runs shorter than this are taken together, with a scale and a shift for each number.
constexpr int64_t kShortRun = 32;
// Numbers in a chunk of rows, for which one thread sums what goes to a scale; at most so many rows, as short
// sums are of float32.
constexpr int64_t kChunk = 32768, kChunkRows = 256;

struct NormLayout {
  int64_t rows, channels, positions, groups, sets;  // N, C, S, G, M
  bool last;                                        // channels are fastest: memory is [N, S, C]

  int64_t group_channels() const { return channels / groups; }
  int64_t group_size() const { return group_channels() * positions; }
  bool scattered() const { return last && groups > 1; }
  bool flat() const { return last || positions < kShortRun; }

  int64_t rows_of_set() const { return rows / std::max<int64_t>(1, sets); }
  int64_t chunk_rows() const {
    const int64_t fit = kChunk / std::max<int64_t>(1, channels * positions);
    return std::clamp<int64_t>(fit, 1, std::clamp<int64_t>(rows_of_set(), 1, kChunkRows));
  }
  int64_t chunks_of_set() const { return (rows_of_set() + chunk_rows() - 1) / chunk_rows(); }

  int64_t offset(int64_t row, int64_t group) const {
    return row * channels * positions + group * (scattered() ? group_channels() : group_size());
  }
};

// `runs` of `length` numbers, `from_stride` apart, to where they are `to_stride` apart.
template <int kLength, class From, class To>
EDMFAST_HD void copy_body(const From* __restrict from, int64_t from_stride, To* __restrict to, int64_t to_stride,
                          int64_t runs, int64_t length) {
  const int64_t count = kLength ? kLength : length;
  for (int64_t run = 0; run < runs; ++run) {
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) {
      To value;
      narrow(widen(from[run * from_stride + k]), value);
      to[run * to_stride + k] = value;
    }
  }
}

#define EDMFAST_COPY_RUNS(FROM, TO)                                                                               \
  EDMFAST_MULTIVERSION inline void copy_runs(const FROM* from, int64_t from_stride, TO* to, int64_t to_stride,     \
                                             int64_t runs, int64_t length) {                                      \
    if (length == 4) {                                                                                            \
      copy_body<4>(from, from_stride, to, to_stride, runs, length);                                               \
    } else if (length == 8) {                                                                                     \
      copy_body<8>(from, from_stride, to, to_stride, runs, length);                                               \
    } else {                                                                                                      \
      copy_body<0>(from, from_stride, to, to_stride, runs, length);                                               \
    }                                                                                                             \
  }
EDMFAST_COPY_RUNS(float, float)
EDMFAST_COPY_RUNS(double, double)
EDMFAST_COPY_RUNS(Half, float)
EDMFAST_COPY_RUNS(float, Half)
EDMFAST_COPY_RUNS(BFloat16, float)
EDMFAST_COPY_RUNS(float, BFloat16)
#undef EDMFAST_COPY_RUNS

}  // namespace edmfast
