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
  Resampling job{log_weights.scalar_type(), populations, log_weights.size(1), log_weights.data_ptr(),
                 static_cast<const double*>(uniform.data_ptr()), ess_threshold};
  job.ancestors = static_cast<int32_t*>(out.ancestors.data_ptr());
  job.log_mean = static_cast<double*>(out.log_mean.data_ptr()), job.ess = static_cast<double*>(out.ess.data_ptr());
  job.resampled = static_cast<bool*>(out.resampled.data_ptr());
  job.degenerate = static_cast<int32_t*>(out.degenerate.data_ptr());
  resample_systematic(job);
  return {out.ancestors, out.log_mean, out.ess, out.resampled, out.degenerate};
}

}  // namespace

void resample_systematic(const Resampling& job) {
  switch (job.dtype) {
    case ScalarType::Float: return resample_systematic(ResampleJob<float>(job), Given{});
    case ScalarType::Double: return resample_systematic(ResampleJob<double>(job), Given{});
    default: STD_TORCH_CHECK(false, "log_weights must be float32 or float64, got ", job.dtype);
  }
}

}  // namespace edmfast

EDMFAST_KERNELS(CPU, m) {
  m.impl("systematic_resample", TORCH_BOX(&edmfast::systematic_resample));
}
