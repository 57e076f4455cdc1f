// The numbers of a particle's product of reversals, the same on the CPU and in CUDA: all arithmetic is double.
#pragma once
#include <cmath>

#include "portable.h"

namespace edmfast {

// What a step from level s to u has in common for all particles of d elements.
struct ReversalStep {
  double variance, slope, least, elements;  // tau^2 = s^2 - u^2, tau^2 / d, the lower bound of kappa, d

  EDMFAST_HD ReversalStep(const double* levels, int64_t count) : elements(static_cast<double>(count)) {
    const double s = levels[0], u = levels[1];
    variance = (s - u) * (s + u);
    slope = variance / (elements > 0 ? elements : 1.0);
    least = 0.5 * ((u / s) * (u / s));
  }

  // Both comparisons are false for NaN, which stays.
  EDMFAST_HD double curvature(double trace) const {
    const double kappa = 1.0 + slope * trace;
    return kappa < least ? least : kappa > 1.5 ? 1.5 : kappa;
  }
};

// The Gaussian product of the reversals of `models` <= kMost models, from their exponents a_i and traces t_i.
template <int kMost>
struct ReversalProduct {
  double weight[kMost];  // a_i / kappa_i, and zero beyond the last model
  double precision;      // P, the sum of the weights
  double total;          // A, the sum of the exponents
  double volume;         // sum_i a_i log kappa_i + log(P / A)

  EDMFAST_HD ReversalProduct(const ReversalStep& step, const double* a, const double* trace, int models) {
    total = precision = 0;
    double size = 0, mean = 0;
    for (int i = 0; i < kMost; ++i) {
      total += i < models ? a[i] : 0.0;
      size += i < models ? std::fabs(a[i]) : 0.0;
    }
    for (int i = 0; i < kMost; ++i) {
      weight[i] = 0;
      if (i < models) {
        mean += std::fabs(a[i]) / size * trace[i];
        weight[i] = a[i] / step.curvature(trace[i]);
        precision += weight[i];
      }
    }
    // One curvature serves all models where the product would be more than twice as wide as the step. One model is the
    // same case, in which the exponent 1 weighs exactly nothing.
    if (models == 1 || precision < 0.5 * total) {
      const double kappa = step.curvature(mean);
      for (int i = 0; i < kMost; ++i)
        if (i < models) weight[i] = a[i] / kappa;
      precision = total / kappa;
      volume = (total - 1.0) * std::log(kappa);
    } else {
      volume = std::log(precision / total);
      for (int i = 0; i < kMost; ++i)
        if (i < models) volume += a[i] * std::log(step.curvature(trace[i]));
    }
  }

  EDMFAST_HD double share(int i) const { return weight[i] / precision; }

  // `spread` is sum_i (a_i / kappa_i) |s_i - m|^2, which is sum_i (a_i / kappa_i) |s_i|^2 - P |m|^2.
  EDMFAST_HD double log_weight(const ReversalStep& step, double spread) const {
    return -0.5 * step.elements * volume - 0.5 * step.variance * spread;
  }

  // Writes the row that the proposal step reads: the drift of each score, v_M and v_L.
  EDMFAST_HD void store(const ReversalStep& step, int models, double* row) const {
    for (int i = 0; i < kMost; ++i)
      if (i < models) row[i] = step.variance * share(i);
    row[models] = step.variance / precision;
    row[models + 1] = step.variance / total;
  }
};

}  // namespace edmfast
