// The checks of the host functions of weigh_and_resample, and the contiguous forms of its arguments, the same on every
// device.
#pragma once
#include "arguments.h"

namespace edmfast {

struct WeighArguments {
  using Tensor = torch::stable::Tensor;
  using ScalarType = torch::headeronly::ScalarType;
  Tensor log_weights, log_z, ancestors, root, resampled, degenerate, ratio;
  std::vector<Tensor> energies, energies_before;
  std::optional<Tensor> exponents;
  Tensor rng;
  int64_t models, populations, particles;

  WeighArguments(const Tensor& log_weights_, const Tensor& log_z_, const Tensor& ancestors_, const Tensor& root_,
                 const Tensor& resampled_, const Tensor& degenerate_, const Tensor& ratio_,
                 std::vector<Tensor> energies_, std::vector<Tensor> energies_before_,
                 std::optional<Tensor> exponents_, const Tensor& rng_, int64_t first_population,
                 double ess_threshold)
      : log_weights(log_weights_),
        log_z(log_z_),
        ancestors(ancestors_),
        root(root_),
        resampled(resampled_),
        degenerate(degenerate_),
        ratio(ratio_),
        energies(std::move(energies_)),
        energies_before(std::move(energies_before_)),
        exponents(std::move(exponents_)),
        rng(checked_rng(rng_, log_weights_)),
        models(static_cast<int64_t>(energies.size())) {
    check_log_weights(log_weights);
    populations = log_weights.size(0), particles = log_weights.size(1);
    check_populations(first_population, populations);
    check_threshold(ess_threshold);
    STD_TORCH_CHECK(models <= kMaxModels && energies_before.size() == energies.size(),
                    "at most 8 energies are taken, and as many before, got ", models, " and ", energies_before.size());
    const SizeList each = {populations, particles}, per_population = {populations};
    const auto take = [&](Tensor& tensor, const char* name, ScalarType dtype, SizeList sizes) {
      tensor = taken(tensor, name, dtype, sizes, log_weights_);
    };
    take(log_weights, "log_weights", ScalarType::Double, each);
    take(log_z, "log_z", ScalarType::Double, per_population);
    take(ancestors, "ancestors", ScalarType::Int, each);
    take(root, "root", ScalarType::Int, each);
    take(resampled, "resampled", ScalarType::Bool, per_population);
    take(degenerate, "degenerate", ScalarType::Int, per_population);
    const ScalarType number = ratio.scalar_type();
    STD_TORCH_CHECK(number == ScalarType::Float || number == ScalarType::Double,
                    "ratio must be float32 or float64, got ", number);
    take(ratio, "ratio", number, each);
    for (Tensor& energy : energies) take(energy, "every energy", number, each);
    for (Tensor& energy : energies_before) take(energy, "every energy before", number, each);
    if (exponents) take(*exponents, "exponents", ScalarType::Double, {populations, models});
  }
};

}  // namespace edmfast
