// Resampling by any scheme, with counter-based uniforms and any number of offspring.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <tuple>
#include <vector>

#include "resample_run.h"
#include "schemes_kernels.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Choice {
  Scheme scheme;
  int64_t count, first_population;
  uint64_t seed;
  uint32_t step;

  SlotNoise noise(int64_t population) const {
    return {seed, step, stream_word(3, first_population + population)};
  }
};

// The general way: one population after the other on each thread.
template <class T>
void resample_each(const ResampleJob<T>& job, const Choice& choice) {
  const int64_t n = job.particles;
  torch::stable::parallel_for(0, job.populations, grain_of(n), [&](int64_t begin, int64_t end) {
    Population weights;
    std::vector<int64_t> prefix;
    for (int64_t p = begin; p < end; ++p) {
      const T* w = job.log_weights + p * n;
      int32_t* ancestors = job.ancestors + p * choice.count;
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

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> resample(Tensor log_weights, Tensor rng, int64_t count,
                                                            double ess_threshold, int64_t scheme,
                                                            int64_t first_population) {
  STD_TORCH_CHECK(log_weights.dim() == 2 && (log_weights.size(1) > 0 || log_weights.size(0) == 0),
                  "log_weights must be [P, N] with at least one particle");
  STD_TORCH_CHECK(rng.scalar_type() == ScalarType::Long && rng.dim() == 1 && rng.size(0) == 2, "rng must be int64 [2]");
  STD_TORCH_CHECK(scheme >= 0 && scheme < kSchemes && count >= 1, "unknown scheme, or no offspring");
  const int64_t populations = log_weights.size(0), particles = log_weights.size(1);
  STD_TORCH_CHECK(scheme != kKilling || count == particles, "killing keeps the number of particles");
  STD_TORCH_CHECK(particles < (int64_t{1} << 31) && count < (int64_t{1} << 31), "at most 2^31 - 1 particles");
  log_weights = torch::stable::contiguous(log_weights);
  rng = torch::stable::contiguous(rng);
  const int64_t* state = static_cast<const int64_t*>(rng.data_ptr());
  const Choice choice{static_cast<Scheme>(scheme), count, first_population, static_cast<uint64_t>(state[0]),
                      static_cast<uint32_t>(state[1])};
  // the common case has a faster way, which takes its uniforms from memory
  const bool systematic = scheme == kSystematic && count == particles;
  std::vector<double> uniform(systematic ? populations : 0);
  for (size_t p = 0; p < uniform.size(); ++p)
    uniform[p] = mul(static_cast<double>(choice.noise(static_cast<int64_t>(p)).first(0) >> 11), 1.1102230246251565e-16);
  const ResampledTensors out(populations, count);
  const auto launch = [&](auto sample) {
    using T = decltype(sample);
    const ResampleJob<T> job(log_weights, uniform.data(), ess_threshold, out);
    if (systematic) {
      resample_systematic(job, Given{});
    } else if (populations > 0) {
      resample_each(job, choice);
    }
  };
  if (log_weights.scalar_type() == ScalarType::Float) {
    launch(float{});
  } else if (log_weights.scalar_type() == ScalarType::Double) {
    launch(double{});
  } else {
    STD_TORCH_CHECK(false, "log_weights must be float32 or float64");
  }
  return {out.ancestors, out.log_mean, out.ess, out.resampled, out.degenerate};
}

}  // namespace
}  // namespace edmfast

STABLE_TORCH_LIBRARY_IMPL(edmfast, CPU, m) { m.impl("resample", TORCH_BOX(&edmfast::resample)); }
