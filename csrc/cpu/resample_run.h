// Systematic resampling of a whole job: small populations in lanes, those of middle size one by one, large ones in
// chunks by three passes.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "allocate.h"
#include "parallel.h"
#include "resample_kernels.h"
#include "resample_lanes.h"
#include "systematic_resample.h"

namespace edmfast {

// Populations of at most kWhole particles are one task each; larger ones are cut into chunks.
constexpr int64_t kWhole = 16384;
constexpr int64_t kChunk = 8192;
constexpr int64_t kBlock = 1024;
// The populations of one task, enough to be worth a thread.
inline int64_t grain_of(int64_t particles) { return std::max<int64_t>(1, 4096 / particles); }

// The results of every resampling operator.
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
  int bits;
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
        bits(fraction_bits(particles)),
        ancestors(static_cast<int32_t*>(out.ancestors.data_ptr())),
        log_mean(static_cast<double*>(out.log_mean.data_ptr())),
        ess(static_cast<double*>(out.ess.data_ptr())),
        resampled(static_cast<bool*>(out.resampled.data_ptr())),
        degenerate(static_cast<int32_t*>(out.degenerate.data_ptr())) {}

  explicit ResampleJob(const Resampling& on)
      : log_weights(static_cast<const T*>(on.log_weights)),
        uniform(on.uniform),
        ess_threshold(on.ess_threshold),
        populations(on.populations),
        particles(on.particles),
        bits(fraction_bits(on.particles)),
        ancestors(on.ancestors),
        log_mean(on.log_mean),
        ess(on.ess),
        resampled(on.resampled),
        degenerate(on.degenerate) {}
};

// A source of log-weights that exist already. Other sources write them first, one piece of a population at a time.
struct Given {
  void prepare(int64_t, int64_t, int64_t) const {}
};

// Decides one population from its totals; false where the ancestors stay the identity.
template <class T>
bool decide_population(const ResampleJob<T>& job, int64_t p, const Maximum& maximum, const WeightSums& sums) {
  const Words squares = sums.squares();
  const Decision decision = decide(maximum.value, maximum.has_nan, sums.total, squares.high, squares.low,
                                   job.particles, job.bits, job.ess_threshold);
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

// `offset` and `end` are the exact sums of all weights before this chunk and up to its end.
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

// Memory for integers. A thread keeps up to 16 MiB for its next call, because fresh pages cost more than the work.
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

template <class T, class Source>
void resample_in_lanes(const ResampleJob<T>& job, const Source& source) {
  const int64_t n = job.particles, groups = (job.populations + kLanes - 1) / kLanes;
  const int64_t grain = std::max<int64_t>(1, grain_of(n) / kLanes);
  in_parallel(groups, grain, [&](int64_t begin, int64_t end) {
    LaneDecisions found;
    for (int64_t p = begin * kLanes; p < std::min(end * kLanes, job.populations); p += kLanes) {
      const int64_t size = std::min<int64_t>(kLanes, job.populations - p);
      for (int64_t k = 0; k < size; ++k) source.prepare(p + k, 0, n);
      resample_lanes(job.log_weights + p * n, size, n, job.bits, job.uniform + p, job.ess_threshold, found,
                     job.ancestors + p * n);
      std::copy_n(found.log_mean, size, job.log_mean + p);
      std::copy_n(found.ess, size, job.ess + p);
      std::copy_n(found.resampled, size, job.resampled + p);
      std::copy_n(found.degenerate, size, job.degenerate + p);
    }
  });
}

template <class T, class Source>
void resample_whole(const ResampleJob<T>& job, const Source& source) {
  const int64_t n = job.particles;
  in_parallel(job.populations, grain_of(n), [&](int64_t begin, int64_t end) {
    Scratch scratch;
    int64_t* prefix = scratch.of(n);
    for (int64_t p = begin; p < end; ++p) {
      const T* w = job.log_weights + p * n;
      source.prepare(p, 0, n);
      const Maximum maximum = find_maximum(w, n);
      const WeightSums sums = scan_chunk(w, n, maximum.value, job.bits, prefix);
      if (decide_population(job, p, maximum, sums)) {
        fill_chunk(prefix, 0, n, 0, sums.total, SlotMap(n, sums.total, job.uniform[p]), job.ancestors + p * n);
      } else {
        keep_order(0, n, job.ancestors + p * n);
      }
    }
  });
}

template <class T, class Source>
void resample_in_chunks(const ResampleJob<T>& job, const Source& source) {
  const int64_t particles = job.particles;
  const int64_t chunks = (particles + kChunk - 1) / kChunk;
  const int64_t tasks = job.populations * chunks;
  // kept between the passes, since a second exponential would cost more than reading the integers back
  Scratch scratch;
  int64_t* prefix = scratch.of(job.populations * particles);
  std::vector<Maximum> maxima(tasks);
  std::vector<WeightSums> sums(tasks), wholes(job.populations);
  std::vector<int64_t> offsets(tasks);

  const auto each_chunk = [&](const auto& body) {
    in_parallel(tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t p = task / chunks;
        const int64_t first = (task % chunks) * kChunk;
        body(task, p, first, std::min(kChunk, particles - first), job.log_weights + p * particles + first);
      }
    });
  };

  each_chunk([&](int64_t task, int64_t p, int64_t first, int64_t n, const T* w) {
    for (int64_t start = 0; start < n; start += kBlock) {
      const int64_t size = std::min(kBlock, n - start);
      source.prepare(p, first + start, size);
      maxima[task] = larger(maxima[task], find_maximum(w + start, size));
    }
  });
  for (int64_t p = 0; p < job.populations; ++p) {
    Maximum& whole = maxima[p * chunks];
    for (int64_t chunk = 1; chunk < chunks; ++chunk) whole = larger(whole, maxima[p * chunks + chunk]);
  }
  each_chunk([&](int64_t task, int64_t p, int64_t, int64_t n, const T* w) {
    sums[task] = scan_chunk(w, n, maxima[p * chunks].value, job.bits, prefix + (w - job.log_weights));
  });
  for (int64_t p = 0; p < job.populations; ++p) {
    WeightSums& whole = wholes[p];
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      offsets[p * chunks + chunk] = whole.total;
      whole += sums[p * chunks + chunk];
    }
    decide_population(job, p, maxima[p * chunks], whole);
  }
  each_chunk([&](int64_t task, int64_t p, int64_t first, int64_t n, const T* w) {
    int32_t* ancestors = job.ancestors + p * particles;
    if (job.resampled[p]) {
      const SlotMap map(particles, wholes[p].total, job.uniform[p]);
      fill_chunk(prefix + (w - job.log_weights), first, n, offsets[task], offsets[task] + sums[task].total, map,
                 ancestors);
    } else {
      keep_order(first, n, ancestors);
    }
  });
}

template <class T, class Source>
void resample_systematic(const ResampleJob<T>& job, const Source& source) {
  if (job.populations == 0) return;
  const KeepSubnormals mode;
  if (job.particles <= kLaneParticles) {
    resample_in_lanes(job, source);
  } else if (job.particles <= kWhole) {
    resample_whole(job, source);
  } else {
    resample_in_chunks(job, source);
  }
}

}  // namespace edmfast
