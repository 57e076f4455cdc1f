// The arguments of `curvature` and `curvature_matched`, checked and contiguous, the same on every device.
#pragma once
#include <optional>

#include "arguments.h"

namespace edmfast {

// Returns the exponents, float64 [P], checked and contiguous where they are given.
inline std::optional<torch::stable::Tensor> checked_exponents(const std::optional<torch::stable::Tensor>& exponents,
                                                              int64_t populations,
                                                              const torch::stable::Tensor& like) {
  if (!exponents) return exponents;
  return taken(*exponents, "exponents", torch::headeronly::ScalarType::Double, {populations}, like);
}

inline const double* doubles_of(const std::optional<torch::stable::Tensor>& tensor) {
  return tensor ? static_cast<const double*>(tensor->data_ptr()) : nullptr;
}

struct CurvatureArguments {
  torch::stable::Tensor products, probes;
  std::optional<torch::stable::Tensor> exponents;
  torch::headeronly::ScalarType dtype;
  int64_t populations, particles, elements;

  CurvatureArguments(const torch::stable::Tensor& products_, const torch::stable::Tensor& probes_,
                     const std::optional<torch::stable::Tensor>& exponents_)
      : products(products_), probes(probes_), dtype(products_.scalar_type()) {
    using torch::headeronly::ScalarType;
    STD_TORCH_CHECK(products.dim() == 3, "products must be [P, N, d], got ", shape_text(products));
    STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                        dtype == ScalarType::BFloat16,
                    "products must be float16, bfloat16, float32 or float64, got ", dtype);
    populations = products.size(0), particles = products.size(1), elements = products.size(2);
    products = taken(products_, "products", dtype, {populations, particles, elements}, products_);
    probes = taken(probes_, "probes", dtype, {populations, particles, elements}, products_);
    exponents = checked_exponents(exponents_, populations, products_);
  }
};

struct MatchedArguments {
  torch::stable::Tensor curvature, ancestors, levels;
  std::optional<torch::stable::Tensor> exponents;
  int64_t populations, particles;

  MatchedArguments(const torch::stable::Tensor& curvature_, const torch::stable::Tensor& ancestors_,
                   const std::optional<torch::stable::Tensor>& exponents_, const torch::stable::Tensor& levels_)
      : curvature(curvature_), ancestors(ancestors_), levels(levels_) {
    using torch::headeronly::ScalarType;
    STD_TORCH_CHECK(curvature.dim() == 2, "curvature must be [P, N], got ", shape_text(curvature));
    populations = curvature.size(0), particles = curvature.size(1);
    STD_TORCH_CHECK(particles > 0 || populations == 0, "curvature must be [P, N] with N >= 1, got ",
                    shape_text(curvature));
    STD_TORCH_CHECK(particles < (int64_t{1} << 31), "curvature must hold at most 2^31 - 1 particles, got ", particles);
    curvature = taken(curvature_, "curvature", ScalarType::Double, {populations, particles}, curvature_);
    ancestors = taken(ancestors_, "ancestors", ScalarType::Int, {populations, particles}, curvature_);
    levels = taken(levels_, "levels", ScalarType::Double, {2}, curvature_);
    exponents = checked_exponents(exponents_, populations, curvature_);
  }
};

}  // namespace edmfast
