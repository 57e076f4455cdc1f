// Tiles of a large population: 256 threads hold 8 consecutive particles each. The rest of the last tile of a
// population is padding.
#pragma once
#include "resample_weights.h"

namespace edmfast {

// A NaN has weight zero, whatever the maximum.
constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

constexpr int kThreads = 256;
constexpr int kItems = 8;
constexpr int kTile = kThreads * kItems;
// The blocks of a multiprocessor, which leave 48 registers to a thread, and 64 from sm_100 on. With one block more,
// registers spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kResident = 4;
#else
constexpr int kResident = 5;
#endif
// The slots that a block writes at a time. A tile of particles with ordinary weights owns about kTile slots.
constexpr int kStrip = 2 * kTile;

EDMFAST_HD int64_t tiles_of(int64_t particles) { return (particles + kTile - 1) / kTile; }
EDMFAST_HD int64_t strips_of(int64_t particles) { return (particles + kStrip - 1) / kStrip; }

// values[j] = from[first + j], or `missing` from `n` on.
template <class T>
__device__ __forceinline__ void load_items(const T* from, int64_t first, int64_t n, T missing, T (&values)[kItems]) {
  struct alignas(16) Pack {
    T item[16 / sizeof(T)];
  };
  constexpr int kPack = 16 / sizeof(T);
  const T* own = from + first;
  if (first + kItems <= n && reinterpret_cast<uintptr_t>(own) % sizeof(Pack) == 0) {
#pragma unroll
    for (int j = 0; j < kItems; j += kPack) {
      const Pack pack = *reinterpret_cast<const Pack*>(own + j);
#pragma unroll
      for (int k = 0; k < kPack; ++k) values[j + k] = pack.item[k];
    }
  } else {
#pragma unroll
    for (int j = 0; j < kItems; ++j) values[j] = first + j < n ? own[j] : missing;
  }
}

// The integer weights of this thread's particles of a tile; padding has weight zero.
template <class T>
__device__ __forceinline__ void load_weights(const T* log_weights, int64_t tile, int64_t n, double maximum, int bits,
                                             int64_t (&weights)[kItems]) {
  T values[kItems];
  load_items(log_weights, tile * kTile + threadIdx.x * kItems, n, static_cast<T>(kMissing), values);
#pragma unroll
  for (int j = 0; j < kItems; ++j) weights[j] = integer_weight(values[j], maximum, bits);
}

// Slots [begin, end) of a population, all owned by particles of one tile; `before` is the sum of the weights before
// it.
struct Piece {
  int64_t tile, before, begin, end;
  bool starts, ends;  // whether these are the first and the last slots of the tile
};

// The owners of the slots of a piece, numbered within the tile, in shared memory. Every particle marks its first slot
// of the piece, and a running maximum carries the marks on. So the work does not depend on how the particles share the
// slots. There are at most kStrip + 1 slots.
template <class T>
__device__ __forceinline__ const int32_t* fill_piece(const ResampleJob<T>& job, int64_t p, const Piece& piece,
                                                     double maximum, int bits, const SlotMap& map) {
  __shared__ int32_t marks[kStrip + 1];
  __shared__ int64_t shared_sums[kWarp];
  __shared__ int32_t shared_marks[kWarp];
  const int64_t n = job.particles;
  const int count = static_cast<int>(piece.end - piece.begin);
  for (int k = threadIdx.x; k < count; k += kThreads) marks[k] = 0;

  int64_t weights[kItems], own = 0;
  load_weights(job.log_weights + p * n, piece.tile, n, maximum, bits, weights);
#pragma unroll
  for (int j = 0; j < kItems; ++j) own += weights[j];
  const auto sum = [](int64_t a, int64_t b) { return a + b; };
  // its barriers also separate the zeros from the marks
  int64_t prefix = piece.before + block_scan(own, int64_t{0}, sum, shared_sums).inclusive - own;
  int64_t slot = map.first_slot(prefix);
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    prefix += weights[j];
    const int64_t next = map.first_slot(prefix);
    if (slot < next && next > piece.begin && slot < piece.end)
      marks[slot > piece.begin ? slot - piece.begin : 0] = threadIdx.x * kItems + j;
    slot = next;
  }
  __syncthreads();

  // an odd run of marks for each thread keeps the threads on different banks
  const int run = ((count + kThreads - 1) / kThreads) | 1;
  const int from = min(static_cast<int>(threadIdx.x) * run, count), to = min(from + run, count);
  const auto later = [](int32_t a, int32_t b) { return a > b ? a : b; };
  // the run before this one, so that the scan gives the sum of all before `from`
  int32_t mark = 0;
  for (int k = max(from - run, 0); k < from; ++k) mark = later(mark, marks[k]);
  mark = block_scan(mark, 0, later, shared_marks).inclusive;
  for (int k = from; k < to; ++k) marks[k] = mark = later(mark, marks[k]);
  __syncthreads();
  return marks;
}

}  // namespace edmfast
