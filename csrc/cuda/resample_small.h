// Small populations in one launch: a warp for each of at most 32 particles, and a block for each of the others.
#pragma once
#include "resample_weights.h"

namespace edmfast {

constexpr int kTinyThreads = 256;
constexpr int kSmallThreads = 1024;

// Lane i holds particle i, then slot i.
template <class T, class Source>
__global__ void __launch_bounds__(kTinyThreads) resample_warp_kernel(ResampleJob<T> job, Source source) {
  const int64_t p = (int64_t{blockIdx.x} * kTinyThreads + threadIdx.x) / kWarp, n = job.particles;
  if (p >= job.populations) return;
  const int lane = threadIdx.x % kWarp;
  const int bits = fraction_bits(n);
  Spread spread{0.0, 0.0, 0.0};
  const double value = lane < n ? source(p, lane, spread) : -kInfinity;
  const bool is_nan = value != value;
  const Maximum maximum =
      warp_reduce(Maximum{is_nan ? -kInfinity : value, is_nan ? 1 : 0},
                  [](const Maximum& a, const Maximum& b) { return larger(a, b); });
  const int64_t weight = lane < n ? integer_weight(value, maximum.value, bits) : 0;
  const Totals sums =
      warp_reduce(totals_of(weight), [](const Totals& a, const Totals& b) { return combined(a, b); });
  int active = lane == 0 ? decide_population(job, p, maximum, sums) : 0;
  active = __shfl_sync(kAllLanes, active, 0);
  if constexpr (Source::kSpreads) {
    spread = warp_reduce(spread, [](const Spread& a, const Spread& b) { return combined(a, b); });
    if (lane == 0) job.carried.increment_sd[p] = standard_deviation(spread);
  }
  int owner = lane;
  if (active) {
    const int64_t before = warp_scan(weight, [](int64_t a, int64_t b) { return a + b; }) - weight;
    const SlotMap map(n, sums.total, uniform_of(job, p));
    const int first = static_cast<int>(map.first_slot(before));
    // the last particle whose first slot is not after this one; lanes without a particle start at n
    owner = 0;
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2)
      if (__shfl_sync(kAllLanes, first, owner + step) <= lane) owner += step;
  }
  const int32_t root = lane < n ? store_ancestor(job, p, lane, owner) : 0;
  if constexpr (Source::kSpreads) {
    const int32_t left = __shfl_up_sync(kAllLanes, root, 1);
    const unsigned changes = __ballot_sync(kAllLanes, lane > 0 && lane < n && root != left);
    if (lane == 0) job.carried.survivors[p] = 1 + __popc(changes);
  }
}

template <class Source>
__device__ Maximum find_maximum(const Source& source, int64_t p, int64_t n, Spread& spread) {
  __shared__ Maximum shared[kWarp];
  constexpr Maximum kNone{-kInfinity, 0};
  Maximum own = kNone;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const double value = source(p, i, spread);
    own.value = value > own.value ? value : own.value;
    own.has_nan |= value != value ? 1 : 0;
  }
  return block_reduce(own, kNone, [](const Maximum& a, const Maximum& b) { return larger(a, b); }, shared);
}

template <class T>
__device__ Totals sum_weights(const T* log_weights, int64_t n, double maximum, int bits) {
  __shared__ Totals shared[kWarp];
  const auto sum = [](const Totals& a, const Totals& b) { return combined(a, b); };
  Totals own{0, 0, 0};
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
    own = combined(own, totals_of(integer_weight(log_weights[i], maximum, bits)));
  return block_reduce(own, Totals{0, 0, 0}, sum, shared);
}

// Writes every particle with offspring at its first slot. All other slots must hold 0.
template <class T>
__device__ void mark_first_slots(const T* log_weights, int64_t n, double maximum, int bits, const SlotMap& map,
                                 int32_t* ancestors) {
  __shared__ int64_t shared[kWarp];
  const auto sum = [](int64_t a, int64_t b) { return a + b; };
  int64_t before = 0;
  for (int64_t tile = 0; tile < n; tile += blockDim.x) {
    const int64_t i = tile + threadIdx.x;
    const int64_t weight = i < n ? integer_weight(log_weights[i], maximum, bits) : 0;
    const Scan<int64_t> scan = block_scan(weight, int64_t{0}, sum, shared);
    const int64_t slot = map.first_slot(before + scan.inclusive - weight);
    const int64_t next = map.first_slot(before + scan.inclusive);
    if (slot < next) ancestors[slot] = static_cast<int32_t>(i);
    before += scan.all;
  }
}

// A running maximum carries every mark over the slots that follow it. Returns how many slots of this thread have
// another root than the slot before.
template <class T>
__device__ int fill_slots(const ResampleJob<T>& job, int64_t p) {
  __shared__ int32_t shared[kWarp];
  const int64_t n = job.particles;
  const int32_t* marks = job.ancestors + p * n;
  const auto later = [](int32_t a, int32_t b) { return a > b ? a : b; };
  int32_t before = 0;
  int changes = 0;
  for (int64_t tile = 0; tile < n; tile += blockDim.x) {
    const int64_t slot = tile + threadIdx.x;
    const Scan<int32_t> scan = block_scan(slot < n ? marks[slot] : 0, 0, later, shared);
    const int32_t owner = later(before, scan.inclusive);
    const int32_t neighbour = __shfl_up_sync(kAllLanes, owner, 1);
    const int32_t left = threadIdx.x % kWarp > 0 ? neighbour : later(before, scan.before);
    if (slot < n && store_ancestor(job, p, slot, owner) != root_of(job, p, left) && slot > 0) changes += 1;
    before = later(before, scan.all);
  }
  return changes;
}

template <class T, class Source>
__global__ void __launch_bounds__(kSmallThreads, 1) resample_kernel(ResampleJob<T> job, Source source) {
  const int64_t p = blockIdx.x, n = job.particles;
  const T* log_weights = job.log_weights + p * n;
  int32_t* ancestors = job.ancestors + p * n;
  const int bits = fraction_bits(n);
  Spread spread{0.0, 0.0, 0.0};
  const Maximum maximum = find_maximum(source, p, n, spread);
  if constexpr (Source::kSpreads) {
    __shared__ Spread shared[kWarp];
    const auto sum = [](const Spread& a, const Spread& b) { return combined(a, b); };
    spread = block_reduce(spread, Spread{0.0, 0.0, 0.0}, sum, shared);
    if (threadIdx.x == 0) job.carried.increment_sd[p] = standard_deviation(spread);
  }
  // a thread reads back only what it has written itself
  const Totals sums = sum_weights(log_weights, n, maximum.value, bits);
  __shared__ bool resampled;
  if (threadIdx.x == 0) resampled = decide_population(job, p, maximum, sums);
  __syncthreads();
  int changes = 0;
  if (resampled) {
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) ancestors[i] = 0;
    // the barriers of its scan separate the zeros from the marks
    mark_first_slots(log_weights, n, maximum.value, bits, SlotMap(n, sums.total, uniform_of(job, p)), ancestors);
    __syncthreads();
    changes = fill_slots(job, p);
  } else {
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const int32_t root = store_ancestor(job, p, i, static_cast<int32_t>(i));
      if (i > 0 && root != root_of(job, p, i - 1)) changes += 1;
    }
  }
  if constexpr (Source::kSpreads) {
    __shared__ int shared[kWarp];
    changes = block_reduce(changes, 0, [](int a, int b) { return a + b; }, shared);
    if (threadIdx.x == 0) job.carried.survivors[p] = 1 + changes;
  }
}

}  // namespace edmfast
