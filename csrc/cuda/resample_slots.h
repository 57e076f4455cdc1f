// The last launch of a large population. Every block writes the slots that its tile of particles owns, up to kStrip of
// them. Where a tile owns more, other blocks share the rest: a block is also responsible for one strip of kStrip
// slots. A strip cannot need two tiles: a slot that is left over has the first kStrip slots of its owner before it, so
// its owner also owns the first slot of the strip. So even one particle that takes every slot costs a block at most
// two tiles of work.
#pragma once
#include "resample_marks.h"

namespace edmfast {

// The slots that the tiles of a population own.
struct TileSlots {
  const Slots& slots;
  const int64_t* offsets;  // sums of the weights before each tile
  int64_t tiles;

  __device__ __forceinline__ int64_t first(int64_t tile) const {
    return slots.first(tile < tiles ? offsets[tile] : slots.state.total);
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
    const int64_t begin = first(tile), end = first(tile + 1);
    return piece_of(tile, begin, end, begin + kStrip, true);
  }

  // The slots of a strip that are left over by the tile that owns its first slot, after the slot before them.
  __device__ __forceinline__ Piece left_over(int64_t strip) const {
    const int64_t slot = strip * kStrip, tile = owner_of(slot), beyond = slot + kStrip;
    const int64_t written = first(tile) + kStrip, end = first(tile + 1);
    return piece_of(tile, (slot > written ? slot : written) - 1, end, beyond, false);
  }

  // Ends at the end of the tile's slots, or at `most` before it.
  __device__ __forceinline__ static Piece piece_of(int64_t tile, int64_t begin, int64_t end, int64_t most,
                                                   bool starts) {
    return {static_cast<int32_t>(tile), static_cast<int32_t>(begin), static_cast<int32_t>(end < most ? end : most),
            starts, end <= most};
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

// Hides how an address was computed. Otherwise the compiler computes it anew for every element, from its parts.
template <class T>
__device__ __forceinline__ T* kept_address(T* address) {
#ifdef __CUDA_ARCH__
  asm("" : "+l"(address));
#endif
  return address;
}

// Writes the slots of a piece, and returns how many of this thread have another root than the slot before. kRoots:
// whether roots are carried.
template <bool kRoots, class T>
__device__ __forceinline__ int write_piece(const LargeJob<T>& job, int64_t p, const Piece& piece,
                                           const TileSlots& places, const Four (&marks)[kMarks / 4]) {
  const int64_t row = p * job.particles;
  const int lead = lead_of(row, piece), count = lead + piece.end - piece.begin;
  const Run run = run_of(marks, count);
  const int32_t* roots = kept_address(job.carried.root_before + row);
  int32_t* ancestors = job.ancestors + (row + piece.begin - lead);
  int32_t* new_roots = job.carried.root + (row + piece.begin - lead);
  int32_t mark = run.mark, left = kRoots ? roots[mark] : 0, front = 0;
  int changes = 0;
  // the ends of a piece are not whole groups
  const auto write_some = [&](int group) {
#pragma unroll 1
    for (int slot = max(4 * group, lead); slot < min(4 * group + 4, count); ++slot) {
      mark = max(mark, (&marks[0].item[0])[slot]);
      if (slot > lead || piece.starts) ancestors[slot] = mark;
      if constexpr (kRoots) {
        const int32_t root = roots[mark];
        if (slot > lead || piece.starts) new_roots[slot] = root;
        if (slot == lead) front = root;
        if (slot > lead && root != left) changes += 1;
        left = root;
      }
    }
  };
  if (threadIdx.x == 0) write_some(0);
  const int whole = min(run.to, count / 4);
#pragma unroll 1
  for (int g = max(run.from, 1); g < whole; ++g) {
    Four owners = marks[g];
#pragma unroll
    for (int k = 0; k < 4; ++k) owners.item[k] = mark = max(mark, owners.item[k]);
    reinterpret_cast<Four*>(ancestors)[g] = owners;
    if constexpr (kRoots) {
      Four own;
#pragma unroll
      for (int k = 0; k < 4; ++k) own.item[k] = __ldg(roots + static_cast<uint32_t>(owners.item[k]));
      reinterpret_cast<Four*>(new_roots)[g] = own;
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (own.item[k] != (k > 0 ? own.item[k - 1] : left)) ++changes;
      left = own.item[3];
    }
  }
  const bool last = run.from < run.to && 4 * run.to >= count;
  if (last && count % 4 != 0 && count > 4) write_some(count / 4);
  if constexpr (!kRoots) return 0;
  if (threadIdx.x == 0 && piece.starts && piece.begin > 0)
    changes += differs_across(job, p, places.left_of(piece.tile, piece.begin), front);
  if (last && piece.ends && piece.end < job.particles) changes += differs_across(job, p, piece.tile, left);
  return changes;
}

// The same for the particles of a tile where every slot keeps its own.
template <class T>
__device__ __forceinline__ int write_in_order(const ResampleJob<T>& job, int64_t p, int64_t tile) {
  const int64_t n = job.particles;
  int changes = 0;
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int64_t i = tile * kTile + j * kThreads + threadIdx.x;
    if (i >= n) break;
    const int32_t root = store_ancestor(job, p, i, static_cast<int32_t>(i));
    if (i > 0 && root != root_of(job, p, i - 1)) changes += 1;
  }
  return changes;
}

template <class T>
__device__ __forceinline__ void add_changes(const ResampleJob<T>& job, int64_t p, int changes) {
  if (job.carried.survivors == nullptr) return;
  __shared__ int shared[kThreads / kWarp];
  changes = warp_count(changes);
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = changes;
  __syncthreads();
  if (threadIdx.x > 0) return;
  int all = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / kWarp; ++warp) all += shared[warp];
  auto* survivors = reinterpret_cast<unsigned long long*>(job.carried.survivors);
  if (all > 0) atomicAdd(survivors + p, static_cast<unsigned long long>(all));
}

template <bool kRoots, class T>
__global__ void __launch_bounds__(kThreads, kResident) slots_kernel(LargeJob<T> job) {
  __shared__ Four marks[kMarks / 4];
  __shared__ Piece piece;
  const auto [p, tile] = place_of(blockIdx.x, job);
  const int64_t n = job.particles, tiles = tiles_of(n);
  const Population& state = job.state[p];
  const Slots slots{state, n};
  // these reads need not wait for one another
  const bool resampled = job.resampled[p];
  const unsigned long long key = state.maximum;
  const QuickSlots quick = slots.quick();
  const bool spills = state.spills != 0;
  const int64_t before = job.offsets[p * tiles + tile];
  if (!resampled) return add_changes(job, p, write_in_order(job, p, tile));
  const double maximum = from_ordered_key(key);
  const TileSlots places{slots, job.offsets + p * tiles, tiles};
  int changes = 0;
  for (int turn = 0;; ++turn) {
    // only one thread looks up where the slots are
    if (threadIdx.x == 0) piece = turn == 0 ? places.own(tile) : places.left_over(tile);
    if (turn > 0) __syncthreads();
    const int64_t from = turn == 0 ? tile : piece.tile;
    const int64_t sum = turn == 0 ? before : places.offsets[from];
    mark_piece(job, p, from, sum, piece, slots, maximum, quick, job.bits, marks);
    __syncthreads();
    if (piece.end - piece.begin > (piece.starts ? 0 : 1)) changes += write_piece<kRoots>(job, p, piece, places, marks);
    if (turn > 0 || !spills || tile >= strips_of(n)) break;
    __syncthreads();
  }
  add_changes(job, p, changes);
}

}  // namespace edmfast
