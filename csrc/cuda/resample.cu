// Systematic resampling of P populations of N log-weights, one thread block per population: the bits of
// the CPU, since every sum is an exact integer. One block per population limits the speed at large N.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <tuple>

#include "../include/decision.h"
#include "collective.h"
#include "launch.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kMaxThreads = 1024;

template <class T>
struct ResampleJob {
  const T* log_weights;
  const double* uniform;
  double ess_threshold;
  int32_t* ancestors;
  double* log_mean;
  double* ess;
  bool* resampled;
  int32_t* degenerate;
  int64_t populations, particles;
};

// No default member values here and below: shared memory takes no constructors.
struct Maximum {
  double value;
  int64_t has_nan;
};

// Sum of the integer weights, and of their squares in 128 bits.
struct Totals {
  int64_t total;
  uint64_t high, low;
};

__device__ __forceinline__ Totals combined(const Totals& a, const Totals& b) {
  const uint64_t low = a.low + b.low;
  return {a.total + b.total, a.high + b.high + (low < a.low ? 1 : 0), low};
}

template <class T>
__device__ __forceinline__ int64_t integer_weight(T log_weight, double maximum, int bits) {
  const double value = static_cast<double>(log_weight);
  // equality first: it also serves a maximum of +inf
  return quantised_exp(value == maximum ? 0.0 : value - maximum, bits);
}

template <class T>
__device__ Maximum find_maximum(const T* log_weights, int64_t n) {
  __shared__ Maximum shared[kWarp];
  constexpr Maximum kNone{-kInfinity, 0};
  Maximum own = kNone;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const double value = static_cast<double>(log_weights[i]);
    own.value = value > own.value ? value : own.value;
    own.has_nan |= value != value ? 1 : 0;
  }
  const auto larger = [](const Maximum& a, const Maximum& b) {
    return Maximum{b.value > a.value ? b.value : a.value, a.has_nan | b.has_nan};
  };
  return block_reduce(own, kNone, larger, shared);
}

template <class T>
__device__ Totals sum_weights(const T* log_weights, int64_t n, double maximum, int bits) {
  __shared__ Totals shared[kWarp];
  const auto sum = [](const Totals& a, const Totals& b) { return combined(a, b); };
  Totals own{0, 0, 0};
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const int64_t weight = integer_weight(log_weights[i], maximum, bits);
    const uint64_t q = static_cast<uint64_t>(weight);
    own = combined(own, {weight, high_product(q, q), q * q});
  }
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

// Running maximum: carries every mark over the slots that follow it.
__device__ void fill_slots(int64_t n, int32_t* ancestors) {
  __shared__ int32_t shared[kWarp];
  const auto larger = [](int32_t a, int32_t b) { return a > b ? a : b; };
  int32_t before = 0;
  for (int64_t tile = 0; tile < n; tile += blockDim.x) {
    const int64_t slot = tile + threadIdx.x;
    const Scan<int32_t> scan = block_scan(slot < n ? ancestors[slot] : 0, 0, larger, shared);
    if (slot < n) ancestors[slot] = larger(before, scan.inclusive);
    before = larger(before, scan.all);
  }
}

template <class T>
__global__ void __launch_bounds__(kMaxThreads) resample_kernel(ResampleJob<T> job) {
  const int64_t p = blockIdx.x, n = job.particles;
  const T* log_weights = job.log_weights + p * n;
  int32_t* ancestors = job.ancestors + p * n;
  const int bits = fraction_bits(n);
  const Maximum maximum = find_maximum(log_weights, n);
  const Totals sums = sum_weights(log_weights, n, maximum.value, bits);
  __shared__ bool resampled;
  if (threadIdx.x == 0) {
    const Decision decision =
        decide(maximum.value, maximum.has_nan != 0, sums.total, sums.high, sums.low, n, job.ess_threshold);
    job.ess[p] = decision.ess;
    job.log_mean[p] = decision.log_mean;
    job.degenerate[p] = decision.degenerate;
    job.resampled[p] = resampled = decision.resampled;
  }
  __syncthreads();
  const bool active = resampled;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) ancestors[i] = active ? 0 : static_cast<int32_t>(i);
  if (!active) return;
  __syncthreads();
  mark_first_slots(log_weights, n, maximum.value, bits, SlotMap(n, sums.total, job.uniform[p]), ancestors);
  __syncthreads();
  fill_slots(n, ancestors);
}

template <class T>
void launch_resample(const ResampleJob<T>& job, cudaStream_t stream) {
  const int64_t warps = (std::min<int64_t>(job.particles, kMaxThreads) + kWarp - 1) / kWarp;
  resample_kernel<T><<<grid_of(job.populations, 1), static_cast<unsigned>(warps * kWarp), 0, stream>>>(job);
  check_launch("systematic_resample");
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> systematic_resample(Tensor log_weights, Tensor uniform,
                                                                       double ess_threshold) {
  STD_TORCH_CHECK(log_weights.dim() == 2 && uniform.dim() == 1 && uniform.size(0) == log_weights.size(0),
                  "log_weights must be [P, N] and uniform [P]");
  STD_TORCH_CHECK(uniform.scalar_type() == ScalarType::Double, "uniform must be float64");
  STD_TORCH_CHECK(log_weights.size(1) < (int64_t{1} << 31), "at most 2^31 - 1 particles");
  STD_TORCH_CHECK(log_weights.size(1) > 0 || log_weights.size(0) == 0, "at least one particle is needed");
  check_same_device(uniform, log_weights, "uniform");
  const torch::stable::accelerator::DeviceGuard guard(log_weights.get_device_index());
  log_weights = torch::stable::contiguous(log_weights);
  uniform = torch::stable::contiguous(uniform);
  const int64_t populations = log_weights.size(0), particles = log_weights.size(1);
  Tensor ancestors = torch::stable::new_empty(log_weights, {populations, particles}, ScalarType::Int);
  Tensor log_mean = torch::stable::new_empty(log_weights, {populations}, ScalarType::Double);
  Tensor ess = torch::stable::new_empty(log_weights, {populations}, ScalarType::Double);
  Tensor resampled = torch::stable::new_empty(log_weights, {populations}, ScalarType::Bool);
  Tensor degenerate = torch::stable::new_empty(log_weights, {populations}, ScalarType::Int);
  if (populations == 0) return {ancestors, log_mean, ess, resampled, degenerate};

  const auto run = [&](auto sample) {
    using T = decltype(sample);
    launch_resample(
        ResampleJob<T>{static_cast<const T*>(log_weights.data_ptr()), static_cast<const double*>(uniform.data_ptr()),
                       ess_threshold, static_cast<int32_t*>(ancestors.data_ptr()),
                       static_cast<double*>(log_mean.data_ptr()), static_cast<double*>(ess.data_ptr()),
                       static_cast<bool*>(resampled.data_ptr()), static_cast<int32_t*>(degenerate.data_ptr()),
                       populations, particles},
        current_stream(log_weights));
  };
  if (log_weights.scalar_type() == ScalarType::Float) {
    run(float{});
  } else if (log_weights.scalar_type() == ScalarType::Double) {
    run(double{});
  } else {
    STD_TORCH_CHECK(false, "log_weights must be float32 or float64");
  }
  return {ancestors, log_mean, ess, resampled, degenerate};
}

}  // namespace
}  // namespace edmfast

STABLE_TORCH_LIBRARY_IMPL(edmfast, CUDA, m) {
  m.impl("systematic_resample", TORCH_BOX(&edmfast::systematic_resample));
}
