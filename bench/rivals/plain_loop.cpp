// Systematic resampling as one would write it by hand: plain loops on one thread that the compiler can
// vectorise, with the arithmetic of the library, so the same bits. Finite weights only, one dtype.
#include <cmath>
#include <limits>
#include <vector>

#include "../../csrc/include/fixed_point.h"

extern "C" void plain_resample(const float* log_weights, const double* uniform, int64_t populations, int64_t n,
                               int32_t* ancestors, double* ess, double* log_mean) {
  // kept between calls: fresh pages would cost more than the loops
  thread_local std::vector<int64_t> weights;
  thread_local std::vector<int32_t> slots;
  weights.resize(n);
  slots.resize(n);
  int64_t* q = weights.data();
  int32_t* slot = slots.data();
  const int bits = edmfast::fraction_bits(n);
  for (int64_t p = 0; p < populations; ++p, log_weights += n, ancestors += n) {
    float best = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : best)
    for (int64_t i = 0; i < n; ++i) best = log_weights[i] > best ? log_weights[i] : best;
    const double maximum = best;
    double squares = 0.0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; ++i) {
      q[i] = edmfast::quantised_exp(log_weights[i] - maximum, bits);
      squares += static_cast<double>(q[i]) * static_cast<double>(q[i]);
    }
    int64_t total = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t weight = q[i];
      q[i] = total;
      total += weight;
    }
    const edmfast::SlotMap map(n, total, uniform[p]);
    for (int64_t i = 0; i < n; ++i) slot[i] = static_cast<int32_t>(map.first_slot(q[i]));
    for (int64_t k = 0; k < n; ++k) ancestors[k] = 0;
    // those whose first slot is N own none, and come last
    int64_t count = n;
    while (count > 0 && slot[count - 1] == n) --count;
    for (int64_t i = 0; i < count; ++i) ancestors[slot[i]] = static_cast<int32_t>(i);
    int32_t running = 0;
    for (int64_t k = 0; k < n; ++k) {
      running = ancestors[k] > running ? ancestors[k] : running;
      ancestors[k] = running;
    }
    ess[p] = static_cast<double>(total) * static_cast<double>(total) / squares;
    log_mean[p] = maximum + std::log(std::ldexp(static_cast<double>(total) / n, -bits));
  }
}
