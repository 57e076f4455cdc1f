// Reversal-matched proposals and log-weights: the trace, the curvatures, their product and its normalisation for each
// particle, in one pass over scores, products and probes.

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "../include/library.h"
#include "../include/reversal_arguments.h"
#include "allocate.h"
#include "parallel.h"
#include "reversal_kernels.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class S>
void run(const ReversalJob<S>& job) {
  const ReversalStep step(job.levels, job.elements);
  const int64_t read = job.models * job.elements * (1 + job.count) + job.count * job.elements;
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(64, read));
  in_parallel(job.rows, grain, [&](int64_t begin, int64_t end) {
    weigh_rows(job, step, begin, end);
  });
}

std::tuple<Tensor, Tensor> reversal(std::vector<Tensor> scores, Tensor exponents, Tensor levels,
                                    std::optional<Tensor> traces, std::vector<Tensor> products,
                                    std::optional<Tensor> probes) {
  const ReversalArguments in(std::move(scores), exponents, levels, std::move(traces), std::move(products),
                             std::move(probes));
  Tensor coefficients = empty_cpu({in.populations, in.particles, in.models + 2}, ScalarType::Double);
  Tensor log_weights = empty_cpu({in.populations, in.particles}, ScalarType::Double);
  const auto launch = [&](auto sample) {
    using S = decltype(sample);
    ReversalJob<S> job{};
    in.fill(job);
    job.coefficients = static_cast<double*>(coefficients.data_ptr());
    job.log_weights = static_cast<double*>(log_weights.data_ptr());
    run(job);
  };
  switch (in.dtype) {
    case ScalarType::Float: launch(float{}); break;
    case ScalarType::Double: launch(double{}); break;
    case ScalarType::Half: launch(Half{}); break;
    case ScalarType::BFloat16: launch(BFloat16{}); break;
    default: STD_TORCH_CHECK(false, "scores must be float16, bfloat16, float32 or float64, got ", in.dtype);
  }
  return {coefficients, log_weights};
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CPU, m) { m.impl("reversal", TORCH_BOX(&edmfast::reversal)); }
