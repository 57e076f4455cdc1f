// The owners of a run of slots. Every particle marks its first slot in shared memory, and a running maximum carries the
// marks on. So the work does not depend on how the particles share the slots.
#pragma once
#include "resample_large.h"

namespace edmfast {

// The map from prefix sums to first slots of one population. Its numbers are read where they are needed, because there
// are too many to be kept in registers.
struct Slots {
  const Population& state;
  int64_t particles;

  __device__ __forceinline__ QuickSlots quick() const { return {state.scale, state.shift}; }
  __device__ __forceinline__ SlotMap exact() const { return {particles, state.total, state.threshold, state.ratio}; }
  __device__ __forceinline__ int64_t first(int64_t sum) const {
    const uint64_t position = quick().position(sum);
    return QuickSlots::unsure(position) ? exact().first_slot(sum) : QuickSlots::slot(position);
  }
};

// Slots [begin, end) of a population, all owned by particles of one tile.
struct Piece {
  int32_t tile, begin, end;
  bool starts, ends;  // whether these are the first and the last slots of the tile
};

// Marks of a piece, in groups of four, so that a group of slots is aligned in memory.
constexpr int kMarks = kStrip + 8;

struct alignas(16) Four {
  int32_t item[4];
};

// The marks before those of a piece, so that a group of four slots is aligned in memory where the row is.
__device__ __forceinline__ int lead_of(int64_t row, const Piece& piece) {
  return static_cast<int>((row + piece.begin) % 4);
}

__device__ __forceinline__ void mark_slot(int32_t slot, int32_t next, int32_t size, int32_t particle, int32_t* to) {
  slot = max(slot, 0);
  if (slot < min(next, size)) to[slot] = particle;
}

// Marks the slots of kItems particles by integers alone, which a thread in some thousands needs. Their weights are read
// once more, so that the loop is short and the usual way has registers to spare.
template <class T>
__device__ __forceinline__ void mark_exactly(const T* log_weights, int64_t first, int64_t prefix,
                                             const Population& state, int64_t n, int bits, int32_t begin,
                                             int32_t size, int32_t* to) {
  const SlotMap map(n, state.total, state.threshold, state.ratio);
  const double maximum = from_ordered_key(state.maximum);
  int32_t slot = static_cast<int32_t>(map.first_slot(prefix)) - begin;
#pragma unroll 1
  for (int64_t i = first; i < first + kItems && i < n; ++i) {
    prefix += integer_weight(log_weights[i], maximum, bits);
    const int32_t next = static_cast<int32_t>(map.first_slot(prefix)) - begin;
    mark_slot(slot, next, size, static_cast<int32_t>(i), to);
    slot = next;
  }
}

// Every particle of a tile marks its first slot of a piece of the tile's slots, by its own number. `piece` is in shared
// memory, where the first thread may have written it just before. `before` is the sum of the weights before the tile.
// A piece begins at mark `lead_of` of it, so that groups of slots are aligned. All threads must meet before marks are
// read.
template <class T>
__device__ __forceinline__ void mark_piece(const ResampleJob<T>& job, int64_t p, int64_t tile, int64_t before,
                                           const Piece& piece, const Slots& slots, double maximum,
                                           const QuickSlots& quick, int bits, Four (&marks)[kMarks / 4]) {
  __shared__ int64_t shared[8];
  const int64_t n = job.particles, first = tile * kTile + threadIdx.x * kItems;
  const T* log_weights = job.log_weights + p * n;
  T values[kItems];
  load_items(log_weights, first, n, static_cast<T>(kMissing), values);
#pragma unroll
  for (int j = 0; j < (kMarks / 4 + kThreads - 1) / kThreads; ++j)
    if (j * kThreads + threadIdx.x < kMarks / 4) marks[j * kThreads + threadIdx.x] = {{0, 0, 0, 0}};
  int64_t weights[kItems], own = 0;
  quantise(values, maximum, bits, weights);
#pragma unroll
  for (int j = 0; j < kItems; ++j) own += weights[j];
  // its barrier also separates the zeros from the marks, and the piece from its use
  const int64_t start = before + sum_before(own, shared);
  int32_t found[kItems + 1];
  bool unsure = false;
  int64_t prefix = start;
#pragma unroll
  for (int j = 0; j <= kItems; ++j) {
    const uint64_t position = quick.position(prefix);
    found[j] = QuickSlots::slot(position);
    unsure = unsure || QuickSlots::unsure(position);
    if (j < kItems) prefix += weights[j];
  }
  const int32_t begin = piece.begin, size = piece.end - begin;
  int32_t* to = &marks[0].item[0] + lead_of(p * n, piece);
  if (unsure) return mark_exactly(log_weights, first, start, slots.state, n, bits, begin, size, to);
#pragma unroll
  for (int j = 0; j < kItems; ++j)
    mark_slot(found[j] - begin, found[j + 1] - begin, size, static_cast<int32_t>(first) + j, to);
}

// The marks of this thread: whole groups [from, to), and the largest mark before them, which names the owner of the
// slot before.
struct Run {
  int from, to;
  int32_t mark;
};

// A running maximum carries the marks on over the slots that follow, whatever their number for each particle.
__device__ __forceinline__ Run run_of(const Four (&marks)[kMarks / 4], int count) {
  __shared__ int32_t shared[8];
  const int groups = (count + 3) / 4, each = (groups + kThreads - 1) / kThreads;
  const int from = min(static_cast<int>(threadIdx.x) * each, groups), to = min(from + each, groups);
  int32_t mark = 0;
#pragma unroll 1
  for (int g = from; g < to; ++g) {
    const Four four = marks[g];
#pragma unroll
    for (int k = 0; k < 4; ++k) mark = max(mark, four.item[k]);
  }
  return {from, to, maximum_before(mark, shared)};
}

}  // namespace edmfast
