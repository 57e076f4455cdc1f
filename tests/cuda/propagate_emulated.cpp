// The CUDA kernel of the proposal step, launched on the host with any number of threads to a row.
#include "emulator.h"  // first, since it defines the keywords of the kernel

#include "../../csrc/cuda/propagate_kernel.h"

using namespace edmfast;

namespace {

template <int kTeam, class S>
void launch_team(const PropagateJob<S>& job) {
  const int64_t per_block = kThreads / kTeam;
  const auto grid = static_cast<unsigned>((job.rows + per_block - 1) / per_block);
  emulator::launch(grid, kThreads, propagate_kernel<S, kTeam>, job);
}

template <class S>
void run(const S* x, const S* const* scores, int models, const int32_t* ancestors, const double* coefficients,
         bool each, const uint8_t* mask, const int64_t* rng, S* moved, S* ratio, int64_t first_population,
         int64_t first_particle, int64_t populations, int64_t particles, int64_t elements, int team) {
  PropagateJob<S> job{x,     {},    models,           ancestors,      coefficients,            each,      mask, rng,
                      moved, ratio, first_population, first_particle, populations * particles, particles, elements};
  for (int k = 0; k < models; ++k) job.scores[k] = scores[k];
  switch (team) {
    case 1: return launch_team<1>(job);
    case 4: return launch_team<4>(job);
    case kWarp: return launch_team<kWarp>(job);
    default: return launch_team<kThreads>(job);
  }
}

}  // namespace

extern "C" {

void propagate_float(const float* x, const float* const* scores, int models, const int32_t* ancestors,
                     const double* coefficients, bool each, const uint8_t* mask, const int64_t* rng, float* moved, float* ratio,
                     int64_t first_population, int64_t first_particle, int64_t populations, int64_t particles,
                     int64_t elements, int team) {
  run(x, scores, models, ancestors, coefficients, each, mask, rng, moved, ratio, first_population, first_particle,
      populations, particles, elements, team);
}

void propagate_double(const double* x, const double* const* scores, int models, const int32_t* ancestors,
                      const double* coefficients, bool each, const uint8_t* mask, const int64_t* rng, double* moved,
                      double* ratio, int64_t first_population, int64_t first_particle, int64_t populations,
                      int64_t particles, int64_t elements, int team) {
  run(x, scores, models, ancestors, coefficients, each, mask, rng, moved, ratio, first_population, first_particle,
      populations, particles, elements, team);
}
}
