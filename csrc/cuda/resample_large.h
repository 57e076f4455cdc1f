// Large populations, with many blocks for each, in three launches, so that no block waits for another: the maximum;
// the sums of tiles, which the last block of a population turns into offsets and its decision; the slots. The weights
// are read three times and the ancestors are written once: 16 bytes a particle in float32, 28 in float64. A second
// exponential costs less than writing the integers and reading them back. While a byte passes its memory, an H200 starts
// 8 instructions of a thread at most, of which 4 on doubles, and an exponential is 27 on doubles. So the sums have room
// for 62 instructions a particle, and the slots for 155.
#pragma once
#include "resample_tile.h"

namespace edmfast {

// The slots that a block writes at a time. A tile of particles with ordinary weights owns about kTile slots.
constexpr int kStrip = 2 * kTile;

EDMFAST_HD int64_t strips_of(int64_t particles) { return (particles + kStrip - 1) / kStrip; }

// The data that the blocks of one population exchange. It starts as zeros.
struct Population {
  unsigned long long maximum;  // ordered_key
  int32_t has_nan;
  uint32_t finished;  // tiles summed so far
  // the numbers of the map from prefix sums to slots, see fixed_point.h
  int64_t total, threshold;
  double ratio, scale, shift;
  int64_t spills;  // whether a tile may own more than kStrip slots
};

// Tiles that a block may sum one after the other, so that what it does once is shared by them; and its sums: of the
// weights of each tile, and over all of them of three products of digits.
constexpr int kTogether = 4;
constexpr int kSums = kTogether + 3;

template <class T>
struct LargeJob : ResampleJob<T> {
  Population* state;  // for each population
  uint64_t* digits;   // for each tile of each population, three sums of products; some tiles have the sums of others
  int64_t* offsets;   // for each tile: the sum of its weights, then that of the weights before it
  Spread* spreads;    // for each tile, where weights are written: of its increments
  // For each tile: 0, or 1 + a root, left by the first of the two blocks that write the slots around its last one.
  unsigned* seams;
  int bits;      // fraction_bits, whose loop not every thread should run
  int together;  // the tiles that a block sums, up to kTogether
};

// The blocks that sum the tiles of a population.
EDMFAST_HD int64_t sums_of(int64_t tiles, int together) { return (tiles + together - 1) / together; }

// Many tiles are summed together only where enough blocks are left to fill a device.
EDMFAST_HD int together_of(int64_t tiles) { return tiles >= 8192 ? kTogether : 1; }

EDMFAST_HD int64_t scratch_words(int64_t populations, int64_t particles) {
  return populations * (int64_t{sizeof(Population) / 8} + 8 * tiles_of(particles));
}

// Divides the scratch words; the states come first.
template <class T>
LargeJob<T> large_job(const ResampleJob<T>& job, int64_t* scratch) {
  const int64_t tiles = job.populations * tiles_of(job.particles);
  int64_t* digits = scratch + job.populations * int64_t{sizeof(Population) / 8};
  int64_t* offsets = digits + 3 * tiles;
  int64_t* spreads = offsets + tiles;
  int64_t* seams = spreads + 3 * tiles;
  return {job,
          reinterpret_cast<Population*>(scratch),
          reinterpret_cast<uint64_t*>(digits),
          offsets,
          reinterpret_cast<Spread*>(spreads),
          reinterpret_cast<unsigned*>(seams),
          fraction_bits(job.particles),
          together_of(tiles)};
}

// A tile of a population.
struct Place {
  int64_t population, tile;
};

// The place of a number among `each` for every population. Divisions are of 32 bits, because one of 64 bits is a
// function call.
template <class T>
__device__ __forceinline__ Place place_of(unsigned index, const ResampleJob<T>& job, unsigned each) {
  if (job.populations == 1) return {0, index};
  return {index / each, index % each};
}

template <class T>
__device__ __forceinline__ Place place_of(unsigned index, const ResampleJob<T>& job) {
  return place_of(index, job, static_cast<unsigned>(tiles_of(job.particles)));
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
  __shared__ int64_t shared_offsets[kWarp];
  __shared__ uint64_t shared[64];
  const int64_t tiles = tiles_of(job.particles), blocks = sums_of(tiles, job.together);
  int64_t* offsets = job.offsets + p * tiles;
  const uint64_t* digits = job.digits + 3 * p * blocks;
  uint64_t totals[8] = {};
  // other multiprocessors wrote these sums, so they must not be read through the L1 cache of this one
  for (int64_t block = threadIdx.x; block < blocks; block += kThreads)
#pragma unroll
    for (int k = 0; k < 3; ++k) totals[k] += __ldcg(digits + 3 * block + k);
  int64_t before = 0, largest = 0;
  for (int64_t start = 0; start < tiles; start += kTile) {
    const int64_t first = start + threadIdx.x * kItems;
    int64_t sums[kItems], own = 0;
#pragma unroll
    for (int j = 0; j < kItems; ++j) sums[j] = first + j < tiles ? __ldcg(offsets + first + j) : 0;
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      largest = sums[j] > largest ? sums[j] : largest;
      own += sums[j];
    }
    const auto sum = [](int64_t a, int64_t b) { return a + b; };
    const Scan<int64_t> scan = block_scan(own, int64_t{0}, sum, shared_offsets);
    int64_t offset = before + scan.inclusive - own;
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      if (first + j < tiles) offsets[first + j] = offset;
      offset += sums[j];
    }
    before += scan.all;
  }
  const uint64_t whole = block_sums(totals, shared);
  const auto larger_sum = [](int64_t a, int64_t b) { return a > b ? a : b; };
  largest = block_reduce(largest, int64_t{0}, larger_sum, shared_offsets);
  // the first three threads have a sum each; all are still here
  if (threadIdx.x < 8) shared[threadIdx.x] = whole;
  __syncthreads();
  if (job.carried.increment_sd != nullptr) finish_spread(job, p);
  if (threadIdx.x > 0) return;
  // the next launch adds the changes of the root from slot to slot
  if (job.carried.survivors != nullptr) job.carried.survivors[p] = 1;
  Population& state = job.state[p];
  const int64_t total = before;
  const Words squares = words_of_digits(shared[0], shared[1], shared[2], digit_bits(job.bits));
  if (!decide_population(job, p, Maximum{maximum, state.has_nan}, {total, squares.high, squares.low})) return;
  const double uniform = uniform_of(job, p);
  const SlotMap map(job.particles, total, uniform);
  const QuickSlots quick(map, uniform);
  state.total = total;
  state.threshold = map.threshold;
  state.ratio = map.ratio;
  state.scale = quick.scale;
  state.shift = quick.shift;
  const double slots =
      static_cast<double>(largest) / static_cast<double>(total) * static_cast<double>(job.particles);
  // an owner of s expected slots gets fewer than s + 1, and the estimate is off by a few ulps
  state.spills = slots > kStrip - 2 ? 1 : 0;
}

template <class T>
__global__ void __launch_bounds__(kThreads, kResident) sum_kernel(LargeJob<T> job) {
  __shared__ uint64_t shared[64];
  __shared__ bool last;
  // backwards, because the tiles that the maximum read last are the likeliest to be cached still
  const unsigned index = gridDim.x - 1 - blockIdx.x;
  const int64_t n = job.particles, tiles = tiles_of(n);
  const unsigned blocks = static_cast<unsigned>(sums_of(tiles, job.together));
  const auto [p, block] = place_of(index, job, blocks);
  const int64_t first = block * job.together;
  Population& state = job.state[p];
  const double maximum = from_ordered_key(state.maximum);
  const int d = digit_bits(job.bits);
  const uint32_t digit = (uint32_t{1} << d) - 1;
  uint64_t sums[8] = {};
  for (int turn = 0; turn < job.together && first + turn < tiles; ++turn) {
    T values[kItems];
    load_in_any_order(job.log_weights + p * n, first + turn, n, static_cast<T>(kMissing), values);
    int64_t weights[kItems];
    quantise(values, maximum, job.bits, weights);
    uint64_t total = 0;
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const uint64_t q = static_cast<uint64_t>(weights[j]);
      const uint32_t high = static_cast<uint32_t>(q >> d), low = static_cast<uint32_t>(q) & digit;
      total += q;
      sums[kTogether] += uint64_t{high} * high;
      sums[kTogether + 1] += uint64_t{high} * low;
      sums[kTogether + 2] += uint64_t{low} * low;
    }
    // the index is constant, so that the sums stay in registers
#pragma unroll
    for (int k = 0; k < kTogether; ++k) sums[k] = k == turn ? total : sums[k];
  }
  const uint64_t sum = block_sums(sums, shared);
  const int k = threadIdx.x;
  if (k < job.together && first + k < tiles) {
    job.offsets[p * tiles + first + k] = static_cast<int64_t>(sum);
    job.seams[p * tiles + first + k] = 0;
  } else if (k >= kTogether && k < kSums) {
    job.digits[3 * int64_t{index} + k - kTogether] = sum;
  }
  // the sums must be visible before the count, and the count must be seen before the sums are read
  if (k < 8) __threadfence();
  __syncthreads();
  if (k == 0) {
    last = atomicAdd(&state.finished, 1u) == blocks - 1;
    __threadfence();
  }
  __syncthreads();
  if (last) finish_population(job, p, maximum);
}

}  // namespace edmfast
