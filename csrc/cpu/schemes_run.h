// Resampling of a whole job by any scheme, with uniforms from a counter and any number of offspring.
#pragma once
#include <vector>

#include "resample_run.h"
#include "schemes_kernels.h"

namespace edmfast {

struct Choice {
  Scheme scheme;
  int64_t count, first_population;
  uint64_t seed;
  uint32_t step;

  Choice(int64_t scheme_, int64_t count_, int64_t first_population_, const torch::stable::Tensor& rng)
      : scheme(static_cast<Scheme>(scheme_)),
        count(count_),
        first_population(first_population_),
        seed(static_cast<uint64_t>(static_cast<const int64_t*>(rng.data_ptr())[0])),
        step(static_cast<uint32_t>(static_cast<const int64_t*>(rng.data_ptr())[1])) {
    STD_TORCH_CHECK(scheme >= 0 && scheme < kSchemes, "unknown scheme ", scheme_);
    STD_TORCH_CHECK(count >= 1, "count must be at least 1, got ", count);
  }

  SlotNoise noise(int64_t population) const { return {seed, step, stream_word(3, first_population + population)}; }
};

// u_0 of each population.
EDMFAST_MULTIVERSION inline void first_uniforms(uint64_t seed, uint32_t step, int64_t first_population,
                                                int64_t populations, double* uniform) {
  for (int64_t p = 0; p < populations; ++p) {
    const SlotNoise noise{seed, step, stream_word(3, first_population + p)};
    uniform[p] = mul(static_cast<double>(static_cast<int64_t>(noise.first(0) >> 11)), 1.1102230246251565e-16);
  }
}

// The general way: each thread takes one population after the other.
template <class T, class Source>
void resample_each(const ResampleJob<T>& job, const Choice& choice, const Source& source) {
  const int64_t n = job.particles;
  in_parallel(job.populations, grain_of(n), [&](int64_t begin, int64_t end) {
    IntegerWeights weights;
    std::vector<int64_t> prefix;
    for (int64_t p = begin; p < end; ++p) {
      const T* w = job.log_weights + p * n;
      int32_t* ancestors = job.ancestors + p * choice.count;
      source.prepare(p, 0, n);
      const Maximum maximum = find_maximum(w, n);
      weights.q.resize(n);
      quantise(w, maximum.value, job.bits, weights.q.data(), n);
      prefix = weights.q;
      const WeightSums sums = scan_weights(prefix.data(), n, 0);
      weights.total = sums.total;
      const bool small = decide_population(job, p, maximum, sums);
      const bool collapsed = (job.degenerate[p] & kCollapsed) != 0;
      job.resampled[p] = (small || choice.count != n) && !collapsed;
      if (job.resampled[p]) {
        choose(choice.scheme, weights, choice.noise(p), choice.count, ancestors);
      } else {
        for (int64_t k = 0; k < choice.count; ++k) ancestors[k] = static_cast<int32_t>(k * n / choice.count);
      }
    }
  });
}

// `job` has no uniforms yet.
template <class T, class Source>
void resample_by(const Choice& choice, ResampleJob<T> job, const Source& source) {
  if (job.populations == 0) return;
  const KeepSubnormals mode;
  // the common case has a faster way, which reads its uniforms from memory
  if (choice.scheme == kSystematic && choice.count == job.particles) {
    std::vector<double> uniform(job.populations);
    first_uniforms(choice.seed, choice.step, choice.first_population, job.populations, uniform.data());
    job.uniform = uniform.data();
    resample_systematic(job, source);
  } else {
    resample_each(job, choice, source);
  }
}

}  // namespace edmfast
