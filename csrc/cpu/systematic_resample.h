// Systematic resampling on plain memory, for the operator and for calls from Python that pass by the dispatcher.
#pragma once
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>

namespace edmfast {

// Log-weights [populations, particles] of float32 or float64, contiguous, and a uniform for each population.
struct Resampling {
  torch::headeronly::ScalarType dtype;
  int64_t populations, particles;
  const void* log_weights;
  const double* uniform = nullptr;
  double ess_threshold = 1;
  int32_t* ancestors = nullptr;
  double *log_mean = nullptr, *ess = nullptr;
  bool* resampled = nullptr;
  int32_t* degenerate = nullptr;
};

// Throws for another dtype.
void resample_systematic(const Resampling& job);

}  // namespace edmfast
