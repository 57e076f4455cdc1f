// Small populations, sixteen at a time: a lane of every vector is one population. So the sums, the decision and the
// running maximum need no shuffles, and the only work for a single population is to move its numbers.
#pragma once
#include "../include/decision.h"
#include "resample_kernels.h"

namespace edmfast {

constexpr int kLanes = 16;
constexpr int64_t kLaneParticles = 64;

// The decisions for the populations of a group.
struct LaneDecisions {
  alignas(64) double log_mean[kLanes], ess[kLanes];
  int32_t degenerate[kLanes];
  bool resampled[kLanes];
};

// Lane l of particle i is number i * kLanes + l.
template <class T>
using Lanes = T[kLaneParticles * kLanes];

#define EDMFAST_EACH_LANE _Pragma("omp simd") for (int l = 0; l < kLanes; ++l)

// Lanes from `populations` on repeat the last population.
template <class T>
EDMFAST_HD void load_lanes(const T* log_weights, int64_t populations, int64_t n, Lanes<double>& values) {
  for (int l = 0; l < kLanes; ++l) {
    const T* own = log_weights + (l < populations ? l : populations - 1) * n;
    for (int64_t i = 0; i < n; ++i) values[i * kLanes + l] = static_cast<double>(own[i]);
  }
}

// Writes the ancestors of populations [0, populations) and all decisions.
template <bool kConverts, class T>
EDMFAST_HD void resample_lanes_body(const T* log_weights, int64_t populations, int64_t n, int bits,
                                    const double* uniform, double ess_threshold, LaneDecisions& decisions,
                                    int32_t* ancestors) {
  alignas(64) Lanes<double> values;
  alignas(64) Lanes<int64_t> prefix;
  alignas(64) int32_t marks[(kLaneParticles + 1) * kLanes];
  load_lanes(log_weights, populations, n, values);

  alignas(64) double maximum[kLanes];
  alignas(64) int64_t nan[kLanes] = {};
  EDMFAST_EACH_LANE maximum[l] = -kInfinity;
  for (int64_t i = 0; i < n; ++i) {
    EDMFAST_EACH_LANE {
      const double value = values[i * kLanes + l];
      maximum[l] = value > maximum[l] ? value : maximum[l];
      nan[l] |= value != value ? 1 : 0;
    }
  }
  alignas(64) int64_t total[kLanes] = {}, high_high[kLanes] = {}, high_low[kLanes] = {}, low_upper[kLanes] = {},
                      low_lower[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) {
    EDMFAST_EACH_LANE {
      const double value = values[i * kLanes + l];
      values[i * kLanes + l] = value == maximum[l] ? 0.0 : value - maximum[l];
    }
  }
  for (int64_t j = 0; j < n * kLanes; ++j) prefix[j] = quantised_exp<kConverts>(values[j], bits);
  for (int64_t i = 0; i < n; ++i) {
    EDMFAST_EACH_LANE {
      const int64_t weight = prefix[i * kLanes + l];
      prefix[i * kLanes + l] = total[l];
      total[l] += weight;
      const int64_t high = weight >> 31, low = weight & 0x7fffffff;
      const int64_t square = low * low;
      high_high[l] += high * high;
      high_low[l] += high * low;
      low_upper[l] += square >> 31;
      low_lower[l] += square & 0x7fffffff;
    }
  }
  alignas(64) int64_t threshold[kLanes], safe_total[kLanes], active[kLanes];
  alignas(64) double ratio[kLanes];
  EDMFAST_EACH_LANE {
    const Words squares = words_of(high_high[l], high_low[l], low_upper[l], low_lower[l]);
    const Decision decision =
        decide(maximum[l], nan[l] != 0, total[l], squares.high, squares.low, n, bits, ess_threshold);
    decisions.log_mean[l] = decision.log_mean;
    decisions.ess[l] = decision.ess;
    decisions.degenerate[l] = decision.degenerate;
    active[l] = decision.resampled ? 1 : 0;
  }
  EDMFAST_EACH_LANE {
    decisions.resampled[l] = active[l] != 0;
    safe_total[l] = total[l] > 0 ? total[l] : 1;
    const SlotMap map(n, safe_total[l], uniform[l < populations ? l : populations - 1]);
    threshold[l] = map.threshold;
    ratio[l] = map.ratio;
  }
  for (int64_t i = 0; i < (n + 1) * kLanes; ++i) marks[i] = 0;
  alignas(64) int32_t place[kLanes];
  for (int64_t i = 0; i < n; ++i) {
    EDMFAST_EACH_LANE {
      const SlotMap map(n, safe_total[l], threshold[l], ratio[l]);
      place[l] = static_cast<int32_t>(map.first_slot<kConverts>(prefix[i * kLanes + l])) * kLanes + l;
    }
    // a particle without offspring shares its first slot with the next one, which comes later
    for (int l = 0; l < kLanes; ++l) marks[place[l]] = static_cast<int32_t>(i);
  }
  alignas(64) int32_t running[kLanes] = {}, keeps[kLanes];
  EDMFAST_EACH_LANE keeps[l] = active[l] != 0 ? 0 : 1;
  for (int64_t k = 0; k < n; ++k) {
    EDMFAST_EACH_LANE {
      const int32_t mark = marks[k * kLanes + l];
      running[l] = mark > running[l] ? mark : running[l];
      marks[k * kLanes + l] = keeps[l] != 0 ? static_cast<int32_t>(k) : running[l];
    }
  }
  for (int l = 0; l < populations && l < kLanes; ++l)
    for (int64_t k = 0; k < n; ++k) ancestors[l * n + k] = marks[k * kLanes + l];
}

EDMFAST_BY_CONVERSION(void resample_lanes(const float* log_weights, int64_t populations, int64_t n, int bits,
                                          const double* uniform, double ess_threshold, LaneDecisions& decisions,
                                          int32_t* ancestors),
                      resample_lanes_body<kConverts>(log_weights, populations, n, bits, uniform, ess_threshold,
                                                     decisions, ancestors);)
EDMFAST_BY_CONVERSION(void resample_lanes(const double* log_weights, int64_t populations, int64_t n, int bits,
                                          const double* uniform, double ess_threshold, LaneDecisions& decisions,
                                          int32_t* ancestors),
                      resample_lanes_body<kConverts>(log_weights, populations, n, bits, uniform, ess_threshold,
                                                     decisions, ancestors);)
#undef EDMFAST_EACH_LANE

}  // namespace edmfast
