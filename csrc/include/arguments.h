// The checks that the host functions of operators make before they read anything, the same on every device.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models.h"

namespace edmfast {

using SizeList = std::initializer_list<int64_t>;

template <class Sizes>
std::string text_of(const Sizes& sizes) {
  std::string text = "[";
  for (const int64_t size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

inline std::string shape_text(const torch::stable::Tensor& tensor) {
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < tensor.dim(); ++i) sizes.push_back(tensor.size(i));
  return text_of(sizes);
}

inline bool has_shape(const torch::stable::Tensor& tensor, SizeList sizes) {
  if (tensor.dim() != static_cast<int64_t>(sizes.size())) return false;
  int64_t i = 0;
  for (const int64_t size : sizes)
    if (tensor.size(i++) != size) return false;
  return true;
}

inline bool on_device_of(const torch::stable::Tensor& tensor, const torch::stable::Tensor& like) {
  return tensor.is_cpu() == like.is_cpu() && tensor.is_cuda() == like.is_cuda() &&
         tensor.get_device_index() == like.get_device_index();
}

// Some programs free the memory of a tensor and leave its shape.
inline bool has_memory(const torch::stable::Tensor& tensor) {
  int64_t bytes = 0, offset = 0;
  if (aoti_torch_get_storage_size(tensor.get(), &bytes) != 0) return false;
  if (aoti_torch_get_storage_offset(tensor.get(), &offset) != 0) return false;
  if (tensor.numel() == 0) return true;
  int64_t last = offset;
  for (int64_t i = 0; i < tensor.dim(); ++i) last += (tensor.size(i) - 1) * tensor.stride(i);
  return last < bytes / static_cast<int64_t>(tensor.element_size());
}

// Throws unless the tensor has this dtype and shape and lies on the device of `like`.
inline void check_tensor(const torch::stable::Tensor& tensor, const char* name, torch::headeronly::ScalarType dtype,
                         SizeList sizes, const torch::stable::Tensor& like) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, " must be of dtype ", dtype, ", got ", tensor.scalar_type());
  STD_TORCH_CHECK(has_shape(tensor, sizes), name, " must be ", text_of(sizes), ", got ", shape_text(tensor));
  STD_TORCH_CHECK(on_device_of(tensor, like), "all tensors must be on one device, ", name, " is on another");
  STD_TORCH_CHECK(has_memory(tensor), name, " has less memory than its shape needs");
}

// Returns the tensor, checked and contiguous.
inline torch::stable::Tensor taken(const torch::stable::Tensor& tensor, const char* name,
                                   torch::headeronly::ScalarType dtype, SizeList sizes,
                                   const torch::stable::Tensor& like) {
  check_tensor(tensor, name, dtype, sizes, like);
  return torch::stable::contiguous(tensor);
}

inline torch::stable::Tensor checked_rng(const torch::stable::Tensor& rng, const torch::stable::Tensor& like) {
  return taken(rng, "rng", torch::headeronly::ScalarType::Long, {2}, like);
}

inline void check_log_weights(const torch::stable::Tensor& log_weights) {
  STD_TORCH_CHECK(log_weights.dim() == 2, "log_weights must be [P, N], got ", shape_text(log_weights));
  STD_TORCH_CHECK(log_weights.size(1) < (int64_t{1} << 31),
                  "log_weights must hold at most 2^31 - 1 particles, got ", log_weights.size(1));
  STD_TORCH_CHECK(log_weights.size(1) > 0 || log_weights.size(0) == 0,
                  "log_weights must be [P, N] with N >= 1, got ", shape_text(log_weights));
}

inline void check_threshold(double ess_threshold) {
  STD_TORCH_CHECK(ess_threshold == ess_threshold, "ess_threshold must be a number, got NaN");
}

// The words of a counter hold a stream of four bits, a population of 28 and a particle of 32.
inline void check_populations(int64_t first, int64_t populations) {
  constexpr int64_t kMost = int64_t{1} << 28;
  STD_TORCH_CHECK(first >= 0 && populations <= kMost && first <= kMost - populations,
                  "populations first_population to first_population + P must lie in 0 to 2^28, got ", first,
                  " and P = ", populations);
}

inline void check_particles(int64_t first, int64_t particles) {
  constexpr int64_t kMost = int64_t{1} << 32;
  STD_TORCH_CHECK(first >= 0 && particles <= kMost && first <= kMost - particles,
                  "particles first_particle to first_particle + N must lie in 0 to 2^32, got ", first,
                  " and N = ", particles);
}

struct PropagateArguments {
  torch::stable::Tensor x;
  std::vector<torch::stable::Tensor> scores;
  torch::stable::Tensor ancestors, coefficients, rng;
  std::optional<torch::stable::Tensor> mask;
  int64_t models, populations, particles, elements;
  bool each;  // whether every particle has coefficients of its own

  PropagateArguments(const torch::stable::Tensor& x_, std::vector<torch::stable::Tensor> scores_,
                     const torch::stable::Tensor& ancestors_, const torch::stable::Tensor& coefficients_,
                     const torch::stable::Tensor& rng_, std::optional<torch::stable::Tensor> mask_,
                     int64_t first_population, int64_t first_particle)
      : x(x_),
        scores(std::move(scores_)),
        ancestors(ancestors_),
        coefficients(coefficients_),
        rng(checked_rng(rng_, x_)),
        mask(std::move(mask_)),
        models(static_cast<int64_t>(scores.size())) {
    using torch::headeronly::ScalarType;
    STD_TORCH_CHECK(models >= 1 && models <= kMaxModels, "1 to 8 scores are needed, got ", models);
    STD_TORCH_CHECK(x.dim() == 3, "x must be [P, N, d], got ", shape_text(x));
    populations = x.size(0), particles = x.size(1), elements = x.size(2);
    check_populations(first_population, populations);
    check_particles(first_particle, particles);
    const ScalarType dtype = x.scalar_type();
    x = taken(x_, "x", dtype, {populations, particles, elements}, x_);
    ancestors = taken(ancestors_, "ancestors", ScalarType::Int, {populations, particles}, x_);
    each = coefficients_.dim() == 3;
    coefficients = each ? taken(coefficients_, "coefficients", ScalarType::Double,
                                {populations, particles, models + 2}, x_)
                        : taken(coefficients_, "coefficients", ScalarType::Double, {populations, models + 2}, x_);
    for (torch::stable::Tensor& score : scores)
      score = taken(score, "every score", dtype, {populations, particles, elements}, x_);
    if (mask) mask = taken(*mask, "mask", ScalarType::Bool, {populations, elements}, x_);
  }

  torch::headeronly::ScalarType ratio_dtype() const {
    using torch::headeronly::ScalarType;
    return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }
  const uint8_t* mask_data() const { return mask ? static_cast<const uint8_t*>(mask->data_ptr()) : nullptr; }
};

}  // namespace edmfast
