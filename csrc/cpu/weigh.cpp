// Adds the log-weight increments of a step of sequential Monte Carlo, and resamples, in one operator.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <tuple>
#include <vector>

#include "../include/library.h"
#include "../include/weigh_arguments.h"
#include "parallel.h"
#include "schemes_run.h"
#include "weigh_kernels.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// a chunk prepares kBlock particles at a time, so it must begin at a block
static_assert(kBlock % kWeighBlock == 0);

template <class E>
Increments<E> increments_of(const WeighArguments& in, bool weigh, double* out, Spread* spreads,
                            std::atomic<bool>* outside) {
  Increments<E> source{static_cast<const double*>(in.log_weights.data_ptr()),
                       static_cast<const bool*>(in.resampled.data_ptr()),
                       static_cast<const int32_t*>(in.ancestors.data_ptr()),
                       static_cast<const E*>(in.ratio.data_ptr()),
                       {},
                       {},
                       in.exponents ? static_cast<const double*>(in.exponents->data_ptr()) : nullptr,
                       in.models,
                       in.particles,
                       weigh,
                       out,
                       spreads,
                       outside};
  for (int64_t k = 0; k < in.models; ++k) {
    source.energies[k] = static_cast<const E*>(in.energies[k].data_ptr());
    source.energies_before[k] = static_cast<const E*>(in.energies_before[k].data_ptr());
  }
  return source;
}

// Writes the roots [P, N] that the slots descend from, and the number of different ones in each population.
void descend(const int32_t* old_root, const int32_t* ancestors, int64_t populations, int64_t n, bool sorted,
             int32_t* root, int64_t* survivors) {
  if (populations == 0) return;
  const int64_t chunks = (n + kChunk - 1) / kChunk;
  std::vector<int64_t> changes(populations * chunks);
  in_parallel(populations * chunks, grain_of(n), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / chunks * n, first = row + task % chunks * kChunk;
      changes[task] = gather_roots(old_root + row, ancestors + first, root + first, std::min(kChunk, row + n - first));
      // other threads may not have written the root before this chunk yet
      if (first > row) changes[task] += root[first] != old_root[row + ancestors[first - 1]] ? 1 : 0;
    }
  });
  for (int64_t p = 0; p < populations; ++p) {
    if (sorted) {
      survivors[p] = std::accumulate(changes.begin() + p * chunks, changes.begin() + (p + 1) * chunks, int64_t{1});
    } else {
      std::vector<int32_t> own(root + p * n, root + (p + 1) * n);
      std::sort(own.begin(), own.end());
      survivors[p] = std::unique(own.begin(), own.end()) - own.begin();
    }
  }
}

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Outputs weigh_and_resample(Tensor log_weights, Tensor log_z, Tensor ancestors, Tensor root, Tensor resampled,
                           Tensor degenerate, Tensor ratio, std::vector<Tensor> energies,
                           std::vector<Tensor> energies_before, std::optional<Tensor> exponents, Tensor rng, bool weigh,
                           double ess_threshold, int64_t scheme, int64_t first_population) {
  const WeighArguments in(log_weights, log_z, ancestors, root, resampled, degenerate, ratio, std::move(energies),
                          std::move(energies_before), std::move(exponents), rng, first_population, ess_threshold);
  const int64_t populations = in.populations, particles = in.particles;
  const Choice choice(scheme, std::max<int64_t>(1, particles), first_population, in.rng);
  const ResampledTensors out(populations, particles);
  const Tensor new_weights = empty_cpu({populations, particles}, ScalarType::Double);
  const Tensor new_log_z = empty_cpu({populations}, ScalarType::Double);
  const Tensor new_root = empty_cpu({populations, particles}, ScalarType::Int);
  const Tensor deviation = empty_cpu({populations}, ScalarType::Double);
  const Tensor survivors = empty_cpu({populations}, ScalarType::Long);

  double* weights = static_cast<double*>(new_weights.data_ptr());
  std::vector<Spread> spreads(populations * ((particles + kWeighBlock - 1) / kWeighBlock));
  std::atomic<bool> outside{false};
  const auto run = [&](auto number) {
    const auto source = increments_of<decltype(number)>(in, weigh, weights, spreads.data(), &outside);
    resample_by(choice, ResampleJob<double>(new_weights, nullptr, ess_threshold, out), source);
    double* to = static_cast<double*>(deviation.data_ptr());
    for (int64_t p = 0; p < populations; ++p) to[p] = source.standard_deviation(p);
  };
  in.ratio.scalar_type() == ScalarType::Float ? run(float{}) : run(double{});
  check_inside(!outside, particles);

  const bool* chosen = static_cast<const bool*>(out.resampled.data_ptr());
  const double* log_mean = static_cast<const double*>(out.log_mean.data_ptr());
  const double* old_log_z = static_cast<const double*>(in.log_z.data_ptr());
  double* sum = static_cast<double*>(new_log_z.data_ptr());
  const int32_t* old_flags = static_cast<const int32_t*>(in.degenerate.data_ptr());
  int32_t* flags = static_cast<int32_t*>(out.degenerate.data_ptr());
  for (int64_t p = 0; p < populations; ++p) {
    sum[p] = chosen[p] ? old_log_z[p] + log_mean[p] : old_log_z[p];
    flags[p] |= old_flags[p];
  }
  descend(static_cast<const int32_t*>(in.root.data_ptr()), static_cast<const int32_t*>(out.ancestors.data_ptr()),
          populations, particles, choice.scheme != kKilling, static_cast<int32_t*>(new_root.data_ptr()),
          static_cast<int64_t*>(survivors.data_ptr()));
  return {new_weights,  new_log_z,     out.ancestors,  new_root,  out.ess,
          out.log_mean, out.resampled, out.degenerate, deviation, survivors};
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CPU, m) { m.impl("weigh_and_resample", TORCH_BOX(&edmfast::weigh_and_resample)); }
