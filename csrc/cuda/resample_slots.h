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

  // The slots that the tile writes itself.
  __device__ __forceinline__ Piece own(int64_t tile) const {
    const int64_t begin = first(tile), end = first(tile + 1);
    return {tile, offsets[tile], begin, end < begin + kStrip ? end : begin + kStrip};
  }

  // The slots of a strip that are left over by the tile that owns its first slot.
  __device__ __forceinline__ Piece left_over(int64_t strip) const {
    const int64_t slot = strip * kStrip;
    int64_t tile = 0, beyond = tiles;
    while (beyond - tile > 1) {
      const int64_t middle = (tile + beyond) / 2;
      (first(middle) <= slot ? tile : beyond) = middle;
    }
    const int64_t written = first(tile) + kStrip, end = first(tile + 1);
    return {tile, offsets[tile], slot > written ? slot : written, end < slot + kStrip ? end : slot + kStrip};
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, kResident) slots_kernel(LargeJob<T> job) {
  // divisions are of 32 bits, because one of 64 bits is a function call
  const unsigned tiles = static_cast<unsigned>(tiles_of(job.particles));
  const int64_t n = job.particles, p = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  if (!job.resampled[p]) {
    const int64_t end = tile + 1 < tiles ? (tile + 1) * kTile : n;
    for (int64_t i = tile * kTile + threadIdx.x; i < end; i += kThreads)
      store_ancestor(job, p, i, static_cast<int32_t>(i));
    return;
  }
  const Population& state = job.state[p];
  const double maximum = from_ordered_key(state.maximum);
  const SlotMap map(n, state.total, state.uniform);
  const TileSlots slots{map, job.offsets + p * tiles, tiles};
  const int turns = state.spills != 0 && tile < strips_of(n) ? 2 : 1;
  for (int turn = 0; turn < turns; ++turn) {
    const Piece piece = turn == 0 ? slots.own(tile) : slots.left_over(tile);
    if (piece.begin < piece.end) fill_piece(job, p, piece, maximum, job.bits, map);
    __syncthreads();
  }
}

}  // namespace edmfast
