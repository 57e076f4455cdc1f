// What the host functions of weigh_and_resample check and make contiguous, the same on every device.
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
                 std::optional<Tensor> exponents_, const Tensor& rng_)
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
        rng(checked_rng(rng_)),
        models(static_cast<int64_t>(energies.size())) {
    check_log_weights(log_weights);
    populations = log_weights.size(0), particles = log_weights.size(1);
    STD_TORCH_CHECK(models <= kMaxModels && energies_before.size() == energies.size(),
                    "at most 8 energies, and as many before");
    take(log_weights, ScalarType::Double, populations * particles, "log_weights");
    take(log_z, ScalarType::Double, populations, "log_z");
    take(ancestors, ScalarType::Int, populations * particles, "ancestors");
    take(root, ScalarType::Int, populations * particles, "root");
    take(resampled, ScalarType::Bool, populations, "resampled");
    take(degenerate, ScalarType::Int, populations, "degenerate");
    const ScalarType number = ratio.scalar_type();
    STD_TORCH_CHECK(number == ScalarType::Float || number == ScalarType::Double, "ratio must be float32 or float64");
    take(ratio, number, populations * particles, "ratio");
    for (Tensor& energy : energies) take(energy, number, populations * particles, "energies");
    for (Tensor& energy : energies_before) take(energy, number, populations * particles, "energies_before");
    if (exponents) take(*exponents, ScalarType::Double, populations * models, "exponents");
  }

 private:
  static void take(Tensor& tensor, ScalarType dtype, int64_t size, const char* name) {
    STD_TORCH_CHECK(tensor.scalar_type() == dtype && tensor.numel() == size, name, " has another dtype or size");
    tensor = torch::stable::contiguous(tensor);
  }
};

}  // namespace edmfast
