// Adds the log-weight increments of a step of sequential Monte Carlo, and resamples by the systematic scheme: one
// launch for small populations, three for large ones.

#include <tuple>
#include <vector>

#include "../include/library.h"
#include "../include/weigh_arguments.h"
#include "resample_launch.h"
#include "weigh_increments.h"

namespace edmfast {

template <class E>
void launch_first(const LargeJob<double>& job, const Increments<E>& source, cudaStream_t stream) {
  weigh_kernel<E><<<grid_of(job.populations * tiles_of(job.particles), 1), kThreads, 0, stream>>>(job, source);
}

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

Outputs weigh_and_resample(Tensor log_weights, Tensor log_z, Tensor ancestors, Tensor root, Tensor resampled,
                           Tensor degenerate, Tensor ratio, std::vector<Tensor> energies,
                           std::vector<Tensor> energies_before, std::optional<Tensor> exponents, Tensor rng, bool weigh,
                           double ess_threshold, int64_t scheme, int64_t first_population) {
  STD_TORCH_CHECK(scheme == 0, "only the systematic scheme has a kernel on CUDA");
  const WeighArguments in(log_weights, log_z, ancestors, root, resampled, degenerate, ratio, std::move(energies),
                          std::move(energies_before), std::move(exponents), rng, first_population, ess_threshold);
  const Tensor& like = in.log_weights;
  for (const Tensor* tensor : {&in.log_z, &in.ancestors, &in.root, &in.resampled, &in.degenerate, &in.ratio, &in.rng})
    check_same_device(*tensor, like, "every tensor");
  for (const Tensor& energy : in.energies) check_same_device(energy, like, "every energy");
  for (const Tensor& energy : in.energies_before) check_same_device(energy, like, "every energy");
  if (in.exponents) check_same_device(*in.exponents, like, "exponents");
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  const int64_t populations = in.populations, particles = in.particles;
  const auto per_particle = [&](ScalarType type) {
    return torch::stable::new_empty(like, {populations, particles}, type);
  };
  const auto per_population = [&](ScalarType type) { return torch::stable::new_empty(like, {populations}, type); };
  const Tensor new_weights = per_particle(ScalarType::Double), new_ancestors = per_particle(ScalarType::Int);
  const Tensor new_root = per_particle(ScalarType::Int), new_log_z = per_population(ScalarType::Double);
  const Tensor ess = per_population(ScalarType::Double), log_mean = per_population(ScalarType::Double);
  const Tensor deviation = per_population(ScalarType::Double), chosen = per_population(ScalarType::Bool);
  const Tensor flags = per_population(ScalarType::Int), survivors = per_population(ScalarType::Long);
  const Outputs outputs{new_weights, new_log_z, new_ancestors, new_root,  ess,
                        log_mean,    chosen,    flags,         deviation, survivors};
  if (populations == 0) return outputs;

  const Carried carried{data<const int64_t>(in.rng),        first_population,
                        data<const double>(in.log_z),       data<double>(new_log_z),
                        data<const int32_t>(in.degenerate), data<const int32_t>(in.root),
                        data<int32_t>(new_root),            data<double>(deviation),
                        data<int64_t>(survivors)};
  const ResampleJob<double> job{data<const double>(new_weights),
                                nullptr,
                                ess_threshold,
                                data<int32_t>(new_ancestors),
                                data<double>(log_mean),
                                data<double>(ess),
                                data<bool>(chosen),
                                data<int32_t>(flags),
                                populations,
                                particles,
                                carried};
  const auto run = [&](auto number) {
    using E = decltype(number);
    Increments<E> source{data<const double>(in.log_weights),
                         data<const bool>(in.resampled),
                         data<const int32_t>(in.ancestors),
                         data<const E>(in.ratio),
                         {},
                         {},
                         in.exponents ? data<const double>(*in.exponents) : nullptr,
                         static_cast<int>(in.models),
                         particles,
                         weigh,
                         data<double>(new_weights)};
    for (int64_t k = 0; k < in.models; ++k) {
      source.energies[k] = data<const E>(in.energies[k]);
      source.energies_before[k] = data<const E>(in.energies_before[k]);
    }
    launch_resample(job, source, like);
  };
  in.ratio.scalar_type() == ScalarType::Float ? run(float{}) : run(double{});
  check_launch("weigh_and_resample");
  return outputs;
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CUDA, m) { m.impl("weigh_and_resample", TORCH_BOX(&edmfast::weigh_and_resample)); }
