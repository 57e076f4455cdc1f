// What the host functions of an operator check and make contiguous, the same on every device.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <utility>
#include <vector>

#include "models.h"

namespace edmfast {

inline torch::stable::Tensor checked_rng(const torch::stable::Tensor& rng) {
  STD_TORCH_CHECK(rng.scalar_type() == torch::headeronly::ScalarType::Long && rng.dim() == 1 && rng.size(0) == 2,
                  "rng must be int64 [2]");
  return torch::stable::contiguous(rng);
}

inline void check_log_weights(const torch::stable::Tensor& log_weights) {
  STD_TORCH_CHECK(log_weights.dim() == 2, "log_weights must be [P, N]");
  STD_TORCH_CHECK(log_weights.size(1) < (int64_t{1} << 31), "at most 2^31 - 1 particles");
  STD_TORCH_CHECK(log_weights.size(1) > 0 || log_weights.size(0) == 0, "at least one particle is needed");
}

struct PropagateArguments {
  torch::stable::Tensor x;
  std::vector<torch::stable::Tensor> scores;
  torch::stable::Tensor ancestors, coefficients, rng;
  std::optional<torch::stable::Tensor> mask;
  int64_t models, populations, particles, elements;

  PropagateArguments(const torch::stable::Tensor& x_, std::vector<torch::stable::Tensor> scores_,
                     const torch::stable::Tensor& ancestors_, const torch::stable::Tensor& coefficients_,
                     const torch::stable::Tensor& rng_, std::optional<torch::stable::Tensor> mask_)
      : x(torch::stable::contiguous(x_)),
        scores(std::move(scores_)),
        ancestors(torch::stable::contiguous(ancestors_)),
        coefficients(torch::stable::contiguous(coefficients_)),
        rng(checked_rng(rng_)),
        mask(std::move(mask_)),
        models(static_cast<int64_t>(scores.size())) {
    using torch::headeronly::ScalarType;
    STD_TORCH_CHECK(models >= 1 && models <= kMaxModels, "1 to 8 scores");
    STD_TORCH_CHECK(x.dim() == 3 && ancestors.dim() == 2, "x, scores [P, N, d]; ancestors [P, N]");
    populations = x.size(0), particles = x.size(1), elements = x.size(2);
    STD_TORCH_CHECK(ancestors.scalar_type() == ScalarType::Int, "ancestors must be int32");
    STD_TORCH_CHECK(coefficients.scalar_type() == ScalarType::Double && coefficients.dim() == 2 &&
                        coefficients.size(1) == models + 2,
                    "coefficients must be float64 [P, M + 2]");
    for (torch::stable::Tensor& score : scores) {
      STD_TORCH_CHECK(score.scalar_type() == x.scalar_type() && score.numel() == x.numel(), "scores must be like x");
      score = torch::stable::contiguous(score);
    }
    if (!mask) return;
    STD_TORCH_CHECK(mask->scalar_type() == ScalarType::Bool, "mask must be bool");
    mask = torch::stable::contiguous(*mask);
  }

  torch::headeronly::ScalarType ratio_dtype() const {
    using torch::headeronly::ScalarType;
    return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }
  const uint8_t* mask_data() const { return mask ? static_cast<const uint8_t*>(mask->data_ptr()) : nullptr; }
};

}  // namespace edmfast
