// Systematic resampling of a whole job: small populations in groups, large ones in chunks by three passes.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "allocate.h"
#include "resample_kernels.h"
#include "resample_small.h"

namespace edmfast {

constexpr int64_t kChunk = 16384;
constexpr int64_t kBlock = 1024;

// What every resampling operator returns.
struct ResampledTensors {
  torch::stable::Tensor ancestors, log_mean, ess, resampled, degenerate;

  ResampledTensors(int64_t populations, int64_t count)
      : ancestors(empty_cpu({populations, count}, torch::headeronly::ScalarType::Int)),
        log_mean(empty_cpu({populations}, torch::headeronly::ScalarType::Double)),
        ess(empty_cpu({populations}, torch::headeronly::ScalarType::Double)),
        resampled(empty_cpu({populations}, torch::headeronly::ScalarType::Bool)),
        degenerate(empty_cpu({populations}, torch::headeronly::ScalarType::Int)) {}
};

template <class T>
struct ResampleJob {
  const T* log_weights;
  const double* uniform;
  double ess_threshold;
  int64_t populations, particles;
  int32_t* ancestors;
  double* log_mean;
  double* ess;
  bool* resampled;
  int32_t* degenerate;

  ResampleJob(const torch::stable::Tensor& weights, const double* uniform_, double threshold,
              const ResampledTensors& out)
      : log_weights(static_cast<const T*>(weights.data_ptr())),
        uniform(uniform_),
        ess_threshold(threshold),
        populations(weights.size(0)),
        particles(weights.size(1)),
        ancestors(static_cast<int32_t*>(out.ancestors.data_ptr())),
        log_mean(static_cast<double*>(out.log_mean.data_ptr())),
        ess(static_cast<double*>(out.ess.data_ptr())),
        resampled(static_cast<bool*>(out.resampled.data_ptr())),
        degenerate(static_cast<int32_t*>(out.degenerate.data_ptr())) {}
};

// Decides one population from its totals; false where the ancestors stay the identity.
template <class T>
bool decide_population(const ResampleJob<T>& job, int64_t p, const Maximum& maximum, int64_t total,
                       unsigned __int128 squares) {
  const Decision decision = decide(maximum.value, maximum.has_nan, total, static_cast<uint64_t>(squares >> 64),
                                   static_cast<uint64_t>(squares), job.particles, job.ess_threshold);
  job.ess[p] = decision.ess;
  job.log_mean[p] = decision.log_mean;
  job.resampled[p] = decision.resampled;
  job.degenerate[p] = decision.degenerate;
  return decision.resampled;
}

// Leaves in `prefix` the sum of the weights of this chunk before each particle.
template <class T>
WeightSums scan_chunk(const T* log_weights, int64_t n, double maximum, int bits, int64_t* prefix) {
  WeightSums sums;
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t size = std::min(kBlock, n - start);
    quantise(log_weights + start, maximum, bits, prefix + start, size);
    sums += scan_weights(prefix + start, size, sums.total);
  }
  return sums;
}

// `offset`, `end`: the exact sums of all weights before this chunk, and up to its end.
inline void fill_chunk(const int64_t* prefix, int64_t first, int64_t n, int64_t offset, int64_t end, const SlotMap& map,
                int32_t* ancestors) {
  int32_t slots[kBlock + 1];
  const int32_t last = static_cast<int32_t>(map.first_slot(end));
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t size = std::min(kBlock, n - start);
    const bool at_end = start + size == n;
    first_slots(prefix + start, offset, map, slots, size + (at_end ? 0 : 1));
    if (at_end) slots[size] = last;
    fill_slots(slots, first + start, size, ancestors);
  }
}

// Room for integers. Up to 16 MiB stay with the thread for its next call: fresh pages cost more than the work.
class Scratch {
 public:
  int64_t* of(int64_t size) {
    constexpr int64_t kKept = int64_t{1} << 21;
    thread_local std::unique_ptr<int64_t[]> kept;
    thread_local int64_t capacity = 0;
    if (size > kKept) {
      own_.reset(new int64_t[size]);
      return own_.get();
    }
    if (size > capacity) {
      kept.reset(new int64_t[size]);
      capacity = size;
    }
    return kept.get();
  }

 private:
  std::unique_ptr<int64_t[]> own_;
};

inline void keep_order(int64_t first, int64_t n, int32_t* ancestors) {
  for (int64_t i = first; i < first + n; ++i) ancestors[i] = static_cast<int32_t>(i);
}

template <class T>
void resample_small(const ResampleJob<T>& job) {
  const int64_t n = job.particles;
  const int64_t populations = kSmall / n;
  const int64_t groups = (job.populations + populations - 1) / populations;
  const int bits = fraction_bits(n);
  torch::stable::parallel_for(0, groups, 4, [&](int64_t begin, int64_t end) {
    SmallGroup group;
    for (int64_t p = begin * populations; p < std::min(end * populations, job.populations); p += populations) {
      const int64_t size = std::min(populations, job.populations - p);
      weigh(job.log_weights + p * n, size, n, bits, group);
      for (int64_t k = 0; k < size; ++k) {
        int64_t* prefix = group.weights + k * n;
        int32_t* ancestors = job.ancestors + (p + k) * n;
        const SmallSums sums = scan_small(prefix, n);
        if (decide_population(job, p + k, group.maxima[k], sums.total, sums.squares)) {
          fill_small(prefix, n, SlotMap(n, sums.total, job.uniform[p + k]), group.slots, ancestors);
        } else {
          keep_order(0, n, ancestors);
        }
      }
    }
  });
}

template <class T>
void resample_large(const ResampleJob<T>& job) {
  const int64_t particles = job.particles;
  const int64_t chunks = (particles + kChunk - 1) / kChunk;
  const int64_t tasks = job.populations * chunks;
  const int bits = fraction_bits(particles);
  // kept between the passes: a second exponential would cost more than reading the integers back
  Scratch scratch;
  int64_t* prefix = scratch.of(job.populations * particles);
  std::vector<Maximum> maxima(tasks);
  std::vector<WeightSums> sums(tasks);
  std::vector<int64_t> offsets(tasks);
  std::vector<char> active(job.populations);

  const auto each_chunk = [&](const auto& body) {
    torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t p = task / chunks;
        const int64_t first = (task % chunks) * kChunk;
        body(task, p, first, std::min(kChunk, particles - first), job.log_weights + p * particles + first);
      }
    });
  };

  each_chunk([&](int64_t task, int64_t, int64_t, int64_t n, const T* w) { maxima[task] = find_maximum(w, n); });
  for (int64_t p = 0; p < job.populations; ++p) {
    Maximum& whole = maxima[p * chunks];
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      whole.value = std::max(whole.value, maxima[p * chunks + chunk].value);
      whole.has_nan |= maxima[p * chunks + chunk].has_nan;
    }
  }
  each_chunk([&](int64_t task, int64_t p, int64_t, int64_t n, const T* w) {
    sums[task] = scan_chunk(w, n, maxima[p * chunks].value, bits, prefix + (w - job.log_weights));
  });
  std::vector<int64_t> totals(job.populations);
  for (int64_t p = 0; p < job.populations; ++p) {
    WeightSums whole;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      offsets[p * chunks + chunk] = whole.total;
      whole += sums[p * chunks + chunk];
    }
    totals[p] = whole.total;
    active[p] = decide_population(job, p, maxima[p * chunks], whole.total, whole.squares());
  }
  each_chunk([&](int64_t task, int64_t p, int64_t first, int64_t n, const T* w) {
    int32_t* ancestors = job.ancestors + p * particles;
    if (active[p]) {
      const SlotMap map(particles, totals[p], job.uniform[p]);
      fill_chunk(prefix + (w - job.log_weights), first, n, offsets[task], offsets[task] + sums[task].total, map,
                 ancestors);
    } else {
      keep_order(first, n, ancestors);
    }
  });
}

template <class T>
void resample_systematic(const ResampleJob<T>& job) {
  if (job.populations > 0) job.particles <= kSmall ? resample_small(job) : resample_large(job);
}

}  // namespace edmfast
