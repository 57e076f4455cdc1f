// Resampling by any scheme, with uniforms from a counter and any number of offspring.
#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "../include/arguments.h"
#include "../include/library.h"
#include "schemes_run.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> resample(Tensor log_weights, Tensor rng, int64_t count,
                                                            double ess_threshold, int64_t scheme,
                                                            int64_t first_population) {
  check_log_weights(log_weights);
  const int64_t populations = log_weights.size(0), particles = log_weights.size(1);
  STD_TORCH_CHECK(scheme != kKilling || count == particles, "killing keeps the number of particles, ", particles,
                  ", got count=", count);
  STD_TORCH_CHECK(count < (int64_t{1} << 31), "count must be at most 2^31 - 1, got ", count);
  check_threshold(ess_threshold);
  check_populations(first_population, populations);
  rng = checked_rng(rng, log_weights);
  log_weights = taken(log_weights, "log_weights", log_weights.scalar_type(), {populations, particles}, log_weights);
  const Choice choice(scheme, count, first_population, rng);
  const ResampledTensors out(populations, count);
  if (log_weights.scalar_type() == ScalarType::Float) {
    resample_by(choice, ResampleJob<float>(log_weights, nullptr, ess_threshold, out), Given{});
  } else if (log_weights.scalar_type() == ScalarType::Double) {
    resample_by(choice, ResampleJob<double>(log_weights, nullptr, ess_threshold, out), Given{});
  } else {
    STD_TORCH_CHECK(false, "log_weights must be float32 or float64, got ", log_weights.scalar_type());
  }
  return {out.ancestors, out.log_mean, out.ess, out.resampled, out.degenerate};
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CPU, m) { m.impl("resample", TORCH_BOX(&edmfast::resample)); }
