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

// The exponents of one population, with their sum A and the sum of their sizes.
struct ReversalPowers {
  const double* a;
  int models;
  double total = 0, size = 0;

  EDMFAST_HD ReversalPowers(const double* exponents, int count) : a(exponents), models(count) {
    for (int i = 0; i < models; ++i) {
      total += a[i];
      size += std::fabs(a[i]);
    }
  }
};

// The Gaussian product of the reversals of at most kMost models, from their exponents a_i and traces t_i.
template <int kMost>
struct ReversalProduct {
  double weight[kMost];  // a_i / kappa_i, and zero beyond the last model
  double share[kMost];   // a_i / (kappa_i P)
  double precision = 0;  // P, the sum of the weights
  double volume = 0;     // sum_i a_i log kappa_i + log(P / A)

  EDMFAST_HD ReversalProduct(const ReversalStep& step, const ReversalPowers& powers, const double* trace) {
    const double* const a = powers.a;
    const int models = powers.models;
    double mean = 0;
    for (int i = 0; i < kMost; ++i) {
      weight[i] = share[i] = 0;
      if (kMost > 1 && i < models) {
        mean += std::fabs(a[i]) * trace[i];
        weight[i] = a[i] / step.curvature(trace[i]);
        precision += weight[i];
      }
    }
    // One curvature serves all models where the product would be more than twice as wide as the step. One model is the
    // same case, in which the exponent 1 weighs exactly nothing.
    if (models == 1 || precision < 0.5 * powers.total) {
      const double kappa = step.curvature(models == 1 ? trace[0] : mean / powers.size);
      precision = powers.total / kappa;
      volume = (powers.total - 1.0) * std::log(kappa);
      for (int i = 0; i < kMost; ++i)
        if (i < models) {
          weight[i] = a[i] / kappa;
          share[i] = a[i] / powers.total;
        }
    } else {
      volume = std::log(precision / powers.total);
      for (int i = 0; i < kMost; ++i)
        if (i < models) {
          volume += a[i] * std::log(step.curvature(trace[i]));
          share[i] = weight[i] / precision;
        }
    }
  }

  // `spread` is sum_i (a_i / kappa_i) |s_i - m|^2, which is sum_i (a_i / kappa_i) |s_i|^2 - P |m|^2. It is negative only
  // where exponents are, and its gain then comes from the tails of Gaussians, which the reversals do not have.
  EDMFAST_HD double log_weight(const ReversalStep& step, double spread) const {
    const double gain = -0.5 * step.variance * spread;
    return -0.5 * step.elements * volume + (gain > 0 ? gain / (1.0 + gain / 3.0) : gain);
  }

  // Writes the row that the proposal step reads: the drift of each score, v_M and v_L.
  EDMFAST_HD void store(const ReversalStep& step, const ReversalPowers& powers, double* row) const {
    for (int i = 0; i < kMost; ++i)
      if (i < powers.models) row[i] = step.variance * share[i];
    row[powers.models] = step.variance / precision;
    row[powers.models + 1] = step.variance / powers.total;
  }
};

}  // namespace edmfast
