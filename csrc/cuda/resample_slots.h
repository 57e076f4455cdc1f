// The last launch of a large population. Every block writes the slots that its tile of particles owns, up to kStrip of
// them. Where a tile owns more, other blocks share the rest: a block is also responsible for one strip of kStrip
// slots. A strip cannot need two tiles: a slot that is left over has the first kStrip slots of its owner before it, so
// its owner also owns the first slot of the strip. So even one particle that takes every slot costs a block at most
// two tiles of work.
#pragma once
#include "resample_large.h"

namespace edmfast {

// The slots that the tiles of a population own.
struct TileSlots {
  const SlotMap& map;
  const int64_t* offsets;  // sums of the weights before each tile
  int64_t tiles;

  __device__ __forceinline__ int64_t first(int64_t tile) const {
    return map.first_slot(tile < tiles ? offsets[tile] : map.total);
  }

  // The tile that owns a slot.
  __device__ __forceinline__ int64_t owner_of(int64_t slot) const {
    int64_t tile = 0, beyond = tiles;
    while (beyond - tile > 1) {
      const int64_t middle = (tile + beyond) / 2;
      (first(middle) <= slot ? tile : beyond) = middle;
    }
    return tile;
  }

  // The slots that the tile writes itself.
  __device__ __forceinline__ Piece own(int64_t tile) const {
    const int64_t begin = first(tile), end = first(tile + 1), written = begin + kStrip;
    return {tile, offsets[tile], begin, end < written ? end : written, true, end <= written};
  }

  // The slots of a strip that are left over by the tile that owns its first slot, after the slot before them.
  __device__ __forceinline__ Piece left_over(int64_t strip) const {
    const int64_t slot = strip * kStrip, tile = owner_of(slot), beyond = slot + kStrip;
    const int64_t written = first(tile) + kStrip, end = first(tile + 1);
    const int64_t begin = slot > written ? slot : written;
    return {tile, offsets[tile], begin - 1, end < beyond ? end : beyond, false, end <= beyond};
  }

  // The tile that owns the slot before `begin`, which is above 0 and the first slot of `tile`.
  __device__ __forceinline__ int64_t left_of(int64_t tile, int64_t begin) const {
    return first(tile - 1) < begin ? tile - 1 : owner_of(begin - 1);
  }
};

// Leaves the root on one side of the seam behind a tile, and returns 1 where the other side was there already and
// differs. So no block waits for another.
template <class T>
__device__ __forceinline__ int differs_across(const LargeJob<T>& job, int64_t p, int64_t tile, int32_t root) {
  const unsigned mine = static_cast<unsigned>(root) + 1;
  const unsigned other = atomicExch(&job.seams[p * tiles_of(job.particles) + tile], mine);
  return other != 0 && other != mine ? 1 : 0;
}

// Writes the slots of a piece, and returns how many of this thread have another root than the slot before.
template <class T>
__device__ __forceinline__ int write_piece(const LargeJob<T>& job, int64_t p, const Piece& piece,
                                           const TileSlots& slots, const int32_t* owners) {
  const int32_t first = static_cast<int32_t>(piece.tile * kTile);
  const int count = static_cast<int>(piece.end - piece.begin);
  int changes = 0;
  for (int k = threadIdx.x + (piece.starts ? 0 : 1); k < count; k += kThreads) {
    const int32_t root = store_ancestor(job, p, piece.begin + k, first + owners[k]);
    if (job.carried.root == nullptr) continue;
    if (k > 0) {
      changes += root != root_of(job, p, first + owners[k - 1]) ? 1 : 0;
    } else if (piece.begin > 0) {
      changes += differs_across(job, p, slots.left_of(piece.tile, piece.begin), root);
    }
    if (k == count - 1 && piece.ends && piece.end < job.particles) changes += differs_across(job, p, piece.tile, root);
  }
  return changes;
}

// The same for the particles of a tile where every slot keeps its own.
template <class T>
__device__ __forceinline__ int write_in_order(const ResampleJob<T>& job, int64_t p, int64_t tile) {
  const int64_t first = tile * kTile, end = min(first + kTile, job.particles);
  int changes = 0;
  for (int64_t i = first + threadIdx.x; i < end; i += kThreads) {
    const int32_t root = store_ancestor(job, p, i, static_cast<int32_t>(i));
    if (i > 0 && root != root_of(job, p, i - 1)) changes += 1;
  }
  return changes;
}

template <class T>
__device__ __forceinline__ void add_changes(const ResampleJob<T>& job, int64_t p, int changes) {
  if (job.carried.survivors == nullptr) return;
  __shared__ int shared[kWarp];
  changes = block_reduce(changes, 0, [](int a, int b) { return a + b; }, shared);
  auto* survivors = reinterpret_cast<unsigned long long*>(job.carried.survivors);
  if (threadIdx.x == 0 && changes > 0) atomicAdd(survivors + p, static_cast<unsigned long long>(changes));
}

template <class T>
__global__ void __launch_bounds__(kThreads, kResident) slots_kernel(LargeJob<T> job) {
  // divisions are of 32 bits, because one of 64 bits is a function call
  const unsigned tiles = static_cast<unsigned>(tiles_of(job.particles));
  const int64_t n = job.particles, p = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  if (!job.resampled[p]) return add_changes(job, p, write_in_order(job, p, tile));
  const Population& state = job.state[p];
  const double maximum = from_ordered_key(state.maximum);
  const SlotMap map(n, state.total, state.uniform);
  const TileSlots slots{map, job.offsets + p * tiles, tiles};
  const int turns = state.spills != 0 && tile < strips_of(n) ? 2 : 1;
  int changes = 0;
  for (int turn = 0; turn < turns; ++turn) {
    const Piece piece = turn == 0 ? slots.own(tile) : slots.left_over(tile);
    const bool empty = piece.end - piece.begin <= (piece.starts ? 0 : 1);
    if (!empty) changes += write_piece(job, p, piece, slots, fill_piece(job, p, piece, maximum, job.bits, map));
    __syncthreads();
  }
  add_changes(job, p, changes);
}

}  // namespace edmfast
