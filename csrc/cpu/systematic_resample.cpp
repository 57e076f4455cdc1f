// Adaptive systematic resampling with uniforms that the caller gives.
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <tuple>

#include "../include/arguments.h"
#include "../include/library.h"
#include "resample_run.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> systematic_resample(Tensor log_weights, Tensor uniform,
                                                                       double ess_threshold) {
  check_log_weights(log_weights);
  check_threshold(ess_threshold);
  const int64_t populations = log_weights.size(0);
  uniform = taken(uniform, "uniform", ScalarType::Double, {populations}, log_weights);
  log_weights = taken(log_weights, "log_weights", log_weights.scalar_type(), {populations, log_weights.size(1)},
                      log_weights);
  const ResampledTensors out(log_weights.size(0), log_weights.size(1));
  const double* points = static_cast<const double*>(uniform.data_ptr());
  if (log_weights.scalar_type() == ScalarType::Float) {
    resample_systematic(ResampleJob<float>(log_weights, points, ess_threshold, out), Given{});
  } else if (log_weights.scalar_type() == ScalarType::Double) {
    resample_systematic(ResampleJob<double>(log_weights, points, ess_threshold, out), Given{});
  } else {
    STD_TORCH_CHECK(false, "log_weights must be float32 or float64, got ", log_weights.scalar_type());
  }
  return {out.ancestors, out.log_mean, out.ess, out.resampled, out.degenerate};
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CPU, m) {
  m.impl("systematic_resample", TORCH_BOX(&edmfast::systematic_resample));
}
