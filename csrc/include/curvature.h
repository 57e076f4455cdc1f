// The coefficients of the curvature-matched proposal from the mean curvature of a population.
#pragma once
#include "portable.h"

namespace edmfast {

// Writes tau^2/A, kappa tau^2/A and tau^2/A with tau^2 = s^2 - u^2 and kappa = 1 + tau^2 mean in [u^2/(2 s^2), 1].
// NaN stays NaN.
EDMFAST_HD void store_matched(double mean, const double* levels, double exponent, double* coefficients) {
  const double s = levels[0], u = levels[1], ratio = divide(u, s);
  const double tau2 = add(mul(s, s), -mul(u, u)), lowest = mul(0.5, mul(ratio, ratio));
  double kappa = add(1.0, mul(tau2, mean));
  kappa = kappa < lowest || lowest != lowest ? lowest : kappa;
  kappa = kappa > 1.0 ? 1.0 : kappa;
  const double v_l = divide(tau2, exponent);
  coefficients[0] = v_l;
  coefficients[1] = mul(kappa, v_l);
  coefficients[2] = v_l;
}

// <v, (grad S) v> / (A d). A state without elements has curvature 0.
EDMFAST_HD double scaled_curvature(double product, int64_t elements, double exponent) {
  return divide(product, mul(static_cast<double>(elements < 1 ? 1 : elements), exponent));
}

}  // namespace edmfast
