// The split of the work on x [N, C, S], which is the same for any number of threads, and copies in the type of the
// arithmetic.
#pragma once
#include <algorithm>
#include <cstdint>

#include "../include/multiversion.h"
#include "low_precision.h"

namespace edmfast {

// Runs shorter than this are taken together, with a scale and a shift for each number.
constexpr int64_t kShortRun = 32;
// The numbers in a chunk of rows, for which one thread sums the gradients of a scale; and the most rows of a chunk,
// since short sums are float32.
constexpr int64_t kChunk = 32768, kChunkRows = 256;
// Where channels are fastest: the numbers of a block of groups, of which six fit into the second-level cache, and the
// fewest channels of a block, those of a cache line.
constexpr int64_t kBlock = 65536, kFewChannels = 16;

struct NormLayout {
  int64_t rows, channels, positions, groups, sets;  // N, C, S, G, M
  bool last;                                        // channels are fastest: memory is [N, S, C]

  int64_t group_channels() const { return channels / groups; }
  bool flat() const { return positions < kShortRun; }

  // A unit of work on a row: a group or, where channels are fastest, a block of groups.
  int64_t unit_groups() const {
    if (!last) return 1;
    const int64_t fit = kBlock / (group_channels() * positions);
    return std::clamp<int64_t>(fit, std::min(groups, (kFewChannels - 1) / group_channels() + 1), groups);
  }
  int64_t unit_size() const { return unit_groups() * group_channels() * positions; }
  int64_t units() const { return (groups + unit_groups() - 1) / unit_groups(); }

  int64_t rows_of_set() const { return rows / std::max<int64_t>(1, sets); }
  int64_t chunk_rows() const {
    const int64_t fit = kChunk / (channels * positions);
    return std::clamp<int64_t>(fit, 1, std::clamp<int64_t>(rows_of_set(), 1, kChunkRows));
  }
  int64_t chunks_of_set() const { return (rows_of_set() + chunk_rows() - 1) / chunk_rows(); }

  int64_t offset(int64_t row, int64_t channel) const {
    return row * channels * positions + channel * (last ? 1 : positions);
  }
};

// Copies `runs` of `length` numbers, which are `from_stride` apart, to a place where they are `to_stride` apart.
template <class From, class To>
EDMFAST_HD void copy_body(const From* __restrict from, int64_t from_stride, To* __restrict to, int64_t to_stride,
                          int64_t runs, int64_t length) {
  for (int64_t run = 0; run < runs; ++run) {
#pragma omp simd
    for (int64_t k = 0; k < length; ++k) {
      To value;
      narrow(widen(from[run * from_stride + k]), value);
      to[run * to_stride + k] = value;
    }
  }
}

#define EDMFAST_COPY_RUNS(FROM, TO)                                                                               \
  EDMFAST_MULTIVERSION inline void copy_runs(const FROM* from, int64_t from_stride, TO* to, int64_t to_stride,     \
                                             int64_t runs, int64_t length) {                                      \
    copy_body(from, from_stride, to, to_stride, runs, length);                                                    \
  }
EDMFAST_COPY_RUNS(Half, float)
EDMFAST_COPY_RUNS(float, Half)
EDMFAST_COPY_RUNS(BFloat16, float)
EDMFAST_COPY_RUNS(float, BFloat16)
#undef EDMFAST_COPY_RUNS

}  // namespace edmfast
