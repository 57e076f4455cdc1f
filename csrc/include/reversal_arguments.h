// The arguments of `reversal`, checked and contiguous, the same on every device.
#pragma once
#include <optional>
#include <utility>
#include <vector>

#include "arguments.h"

namespace edmfast {

struct ReversalArguments {
  std::vector<torch::stable::Tensor> scores, products;
  torch::stable::Tensor exponents, levels;
  std::optional<torch::stable::Tensor> traces, probes;
  torch::headeronly::ScalarType dtype;
  int64_t models, populations, particles, elements, count;  // `count` probes, 0 where the traces are given

  ReversalArguments(std::vector<torch::stable::Tensor> scores_, const torch::stable::Tensor& exponents_,
                    const torch::stable::Tensor& levels_, std::optional<torch::stable::Tensor> traces_,
                    std::vector<torch::stable::Tensor> products_, std::optional<torch::stable::Tensor> probes_)
      : scores(std::move(scores_)),
        products(std::move(products_)),
        exponents(exponents_),
        levels(levels_),
        traces(std::move(traces_)),
        probes(std::move(probes_)),
        models(static_cast<int64_t>(scores.size())),
        count(0) {
    using torch::headeronly::ScalarType;
    STD_TORCH_CHECK(models >= 1 && models <= kMaxModels, "1 to 8 scores are needed, got ", models);
    const torch::stable::Tensor like = scores[0];
    STD_TORCH_CHECK(like.dim() == 3, "scores must be [P, N, d], got ", shape_text(like));
    dtype = like.scalar_type();
    populations = like.size(0), particles = like.size(1), elements = like.size(2);
    for (torch::stable::Tensor& score : scores)
      score = taken(score, "every score", dtype, {populations, particles, elements}, like);
    exponents = taken(exponents, "exponents", ScalarType::Double, {populations, models}, like);
    levels = taken(levels, "levels", ScalarType::Double, {2}, like);
    STD_TORCH_CHECK(traces.has_value() != probes.has_value(), "either traces or probes are needed");
    STD_TORCH_CHECK(products.size() == (probes ? scores.size() : 0), "as many products as scores are needed, ",
                    "and none beside traces, got ", products.size(), " products and ", models, " scores");
    if (traces) traces = taken(*traces, "traces", ScalarType::Double, {models, populations, particles}, like);
    if (!probes) return;
    STD_TORCH_CHECK(probes->dim() == 4 && probes->size(2) >= 1, "probes must be [P, N, K, d] with K >= 1, got ",
                    shape_text(*probes));
    count = probes->size(2);
    probes = taken(*probes, "probes", dtype, {populations, particles, count, elements}, like);
    for (torch::stable::Tensor& product : products)
      product = taken(product, "every product", dtype, {populations, particles, count, elements}, like);
  }

  // Writes the addresses and sizes of the inputs.
  template <template <class> class Job, class S>
  void fill(Job<S>& job) const {
    for (int64_t k = 0; k < models; ++k) {
      job.scores[k] = static_cast<const S*>(scores[k].data_ptr());
      job.products[k] = probes ? static_cast<const S*>(products[k].data_ptr()) : nullptr;
    }
    job.probes = probes ? static_cast<const S*>(probes->data_ptr()) : nullptr;
    job.traces = traces ? static_cast<const double*>(traces->data_ptr()) : nullptr;
    job.exponents = static_cast<const double*>(exponents.data_ptr());
    job.levels = static_cast<const double*>(levels.data_ptr());
    job.models = models, job.rows = populations * particles, job.particles = particles;
    job.elements = elements, job.count = count;
  }
};

}  // namespace edmfast
