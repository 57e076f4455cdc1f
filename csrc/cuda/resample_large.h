// Large populations, with many blocks for each, in three launches, so that no block waits for another: the maximum;
// the sums of tiles, which the last block of a population turns into offsets and its decision; the slots. The weights
// are read three times and the ancestors are written once: 16 bytes a particle in float32, 28 in float64. A second
// exponential costs less than writing the integers and reading them back.
#pragma once
#include "resample_tile.h"

namespace edmfast {

// The data that the blocks of one population exchange. It starts as zeros.
struct Population {
  unsigned long long maximum;  // ordered_key
  int64_t total;
  int32_t has_nan;
  uint32_t finished;  // tiles summed so far
  int32_t spills;     // whether a tile may own more than kStrip slots
  int32_t unused;
  double uniform;
};

template <class T>
struct LargeJob : ResampleJob<T> {
  Population* state;  // for each population
  int64_t* offsets;   // for each tile of each population: its sum, then the sum of those before it
  uint64_t* squares;  // for each tile: high and low word of its sum of squares
  Spread* spreads;    // for each tile, where weights are written: of its increments
  // For each tile: 0, or 1 + a root, left by the first of the two blocks that write the slots around its last one.
  unsigned* seams;
  int bits;           // fraction_bits, whose loop not every thread should run
};

EDMFAST_HD int64_t scratch_words(int64_t populations, int64_t particles) {
  return populations * (int64_t{sizeof(Population) / 8} + 7 * tiles_of(particles));
}

// Divides the scratch words; the states come first.
template <class T>
LargeJob<T> large_job(const ResampleJob<T>& job, int64_t* scratch) {
  int64_t* offsets = scratch + job.populations * int64_t{sizeof(Population) / 8};
  int64_t* squares = offsets + job.populations * tiles_of(job.particles);
  int64_t* spreads = squares + 2 * job.populations * tiles_of(job.particles);
  int64_t* seams = spreads + 3 * job.populations * tiles_of(job.particles);
  return {job,
          reinterpret_cast<Population*>(scratch),
          offsets,
          reinterpret_cast<uint64_t*>(squares),
          reinterpret_cast<Spread*>(spreads),
          reinterpret_cast<unsigned*>(seams),
          fraction_bits(job.particles)};
}

constexpr int64_t kSignBit = std::numeric_limits<int64_t>::min();

// Unsigned integers in the order of the doubles, all above 0. The doubles must not be NaN.
EDMFAST_HD unsigned long long ordered_key(double value) {
  int64_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return static_cast<unsigned long long>(bits < 0 ? ~bits : bits ^ kSignBit);
}

EDMFAST_HD double from_ordered_key(unsigned long long key) {
  const int64_t bits = static_cast<int64_t>(key);
  return bits_to_double(bits < 0 ? bits ^ kSignBit : ~bits);
}

__device__ __forceinline__ void note_maximum(Population& state, const Maximum& maximum) {
  atomicMax(&state.maximum, ordered_key(maximum.value));
  if (maximum.has_nan != 0) atomicOr(&state.has_nan, 1);
}

// A population has `blocks` blocks, each of which takes every `blocks`-th tile.
template <class T>
__global__ void __launch_bounds__(kThreads) maximum_kernel(LargeJob<T> job, unsigned blocks) {
  __shared__ Maximum shared[kWarp];
  const int64_t p = blockIdx.x / blocks, n = job.particles, tiles = tiles_of(n);
  constexpr T kLowest = static_cast<T>(-kInfinity);
  T best = kLowest;
  int64_t has_nan = 0;
  for (int64_t tile = blockIdx.x % blocks; tile < tiles; tile += blocks) {
    T values[kItems];
    load_items(job.log_weights + p * n, tile * kTile + threadIdx.x * kItems, n, kLowest, values);
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      best = values[j] > best ? values[j] : best;
      has_nan |= values[j] != values[j] ? 1 : 0;
    }
  }
  const auto combine = [](const Maximum& a, const Maximum& b) { return larger(a, b); };
  const Maximum all = block_reduce({static_cast<double>(best), has_nan}, Maximum{-kInfinity, 0}, combine, shared);
  if (threadIdx.x > 0) return;
  note_maximum(job.state[p], all);
}

// Runs in one block; the order of summation depends on the tiles only.
template <class T>
__device__ __forceinline__ void finish_spread(const LargeJob<T>& job, int64_t p) {
  __shared__ Spread shared[kWarp];
  const int64_t tiles = tiles_of(job.particles);
  Spread all{0.0, 0.0, 0.0};
  for (int64_t tile = threadIdx.x; tile < tiles; tile += kThreads) all = combined(all, job.spreads[p * tiles + tile]);
  all = block_reduce(all, Spread{0.0, 0.0, 0.0}, [](const Spread& a, const Spread& b) { return combined(a, b); }, shared);
  if (threadIdx.x == 0) job.carried.increment_sd[p] = standard_deviation(all);
}

// Runs in one block, once all tiles of the population are summed: offsets of the tiles, totals, decision.
template <class T>
__device__ __forceinline__ void finish_population(const LargeJob<T>& job, int64_t p, double maximum) {
  __shared__ int64_t shared_sums[kWarp];
  __shared__ Totals shared_totals[kWarp];
  const int64_t tiles = tiles_of(job.particles);
  int64_t* offsets = job.offsets + p * tiles;
  const uint64_t* squares = job.squares + 2 * p * tiles;
  const auto sum = [](int64_t a, int64_t b) { return a + b; };
  Totals totals{0, 0, 0};
  int64_t before = 0, largest = 0;
  for (int64_t start = 0; start < tiles; start += kTile) {
    const int64_t first = start + threadIdx.x * kItems;
    int64_t sums[kItems], own = 0;
    // other multiprocessors wrote these, so they must not be read through the L1 cache of this one
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const bool inside = first + j < tiles;
      sums[j] = inside ? __ldcg(offsets + first + j) : 0;
      const uint64_t high = inside ? __ldcg(squares + 2 * (first + j)) : 0;
      const uint64_t low = inside ? __ldcg(squares + 2 * (first + j) + 1) : 0;
      totals = combined(totals, {sums[j], high, low});
      largest = sums[j] > largest ? sums[j] : largest;
      own += sums[j];
    }
    const Scan<int64_t> scan = block_scan(own, int64_t{0}, sum, shared_sums);
    int64_t offset = before + scan.inclusive - own;
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      if (first + j < tiles) offsets[first + j] = offset;
      offset += sums[j];
    }
    before += scan.all;
  }
  const auto add_totals = [](const Totals& a, const Totals& b) { return combined(a, b); };
  totals = block_reduce(totals, Totals{0, 0, 0}, add_totals, shared_totals);
  largest = block_reduce(largest, int64_t{0}, [](int64_t a, int64_t b) { return a > b ? a : b; }, shared_sums);
  if (job.carried.increment_sd != nullptr) finish_spread(job, p);
  if (threadIdx.x > 0) return;
  // the next launch adds the changes of the root from slot to slot
  if (job.carried.survivors != nullptr) job.carried.survivors[p] = 1;
  Population& state = job.state[p];
  if (!decide_population(job, p, Maximum{maximum, state.has_nan}, totals)) return;
  state.total = totals.total;
  state.uniform = uniform_of(job, p);
  const double slots = static_cast<double>(largest) / static_cast<double>(totals.total) *
                       static_cast<double>(job.particles);
  // an owner of s expected slots gets fewer than s + 1, and the estimate is off by a few ulps
  state.spills = slots > kStrip - 2 ? 1 : 0;
}

template <class T>
__global__ void __launch_bounds__(kThreads, kResident) sum_kernel(LargeJob<T> job) {
  __shared__ Totals shared[kWarp];
  __shared__ bool last;
  // backwards, because the tiles that the maximum read last are the likeliest to be cached still
  const unsigned index = gridDim.x - 1 - blockIdx.x, tiles = static_cast<unsigned>(tiles_of(job.particles));
  const int64_t n = job.particles, p = index / tiles;
  Population& state = job.state[p];
  const double maximum = from_ordered_key(state.maximum);
  int64_t weights[kItems];
  load_weights(job.log_weights + p * n, index % tiles, n, maximum, job.bits, weights);
  Totals own{0, 0, 0};
#pragma unroll
  for (int j = 0; j < kItems; ++j) own = combined(own, totals_of(weights[j]));
  const auto sum = [](const Totals& a, const Totals& b) { return combined(a, b); };
  own = block_reduce(own, Totals{0, 0, 0}, sum, shared);
  if (threadIdx.x == 0) {
    job.seams[index] = 0;
    job.offsets[index] = own.total;
    job.squares[2 * int64_t{index}] = own.high;
    job.squares[2 * int64_t{index} + 1] = own.low;
    // the sums must be visible before the count, and the count must be seen before the sums are read
    __threadfence();
    last = atomicAdd(&state.finished, 1u) == tiles - 1;
    __threadfence();
  }
  __syncthreads();
  if (last) finish_population(job, p, maximum);
}

}  // namespace edmfast
