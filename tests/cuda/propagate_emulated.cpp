// The CUDA kernel of the proposal step, launched on the host with any number of threads to a row, with or without
// packs.
#include "emulator.h"  // first, since it defines the keywords of the kernel

#include "../../csrc/cuda/propagate_kernel.h"

using namespace edmfast;

namespace {

template <class S, int kModels, int kTeam, int kWidth>
void launch_kernel(const PropagateJob<S>& job) {
  const int64_t per_block = kThreads / kTeam;
  const auto grid = static_cast<unsigned>((job.rows + per_block - 1) / per_block);
  emulator::launch(grid, kThreads, propagate_kernel<S, kModels, kTeam, kWidth>, job);
}

template <class S, int kModels>
void launch_team(const PropagateJob<S>& job, int team, bool packs) {
  switch (team) {
    case 1: return launch_kernel<S, kModels, 1, 1>(job);
    case 4: return launch_kernel<S, kModels, 4, 1>(job);
    case kWarp:
      return packs ? launch_kernel<S, kModels, kWarp, 2>(job) : launch_kernel<S, kModels, kWarp, 1>(job);
    default:
      return packs ? launch_kernel<S, kModels, kThreads, 2>(job) : launch_kernel<S, kModels, kThreads, 1>(job);
  }
}

template <class S>
void run(const S* x, const S* const* scores, int models, const int32_t* ancestors, const double* coefficients,
         bool each, const uint8_t* mask, const int64_t* rng, S* moved, S* ratio, int64_t first_population,
         int64_t first_particle, int64_t populations, int64_t particles, int64_t elements, int team, bool packs) {
  PropagateJob<S> job{x,     {},    models,           ancestors,      coefficients,            each,      mask, rng,
                      moved, ratio, first_population, first_particle, populations * particles, particles, elements};
  for (int k = 0; k < models; ++k) job.scores[k] = scores[k];
  if (mask == nullptr && models == 1) return launch_team<S, 1>(job, team, packs);
  if (mask == nullptr && models == 2) return launch_team<S, 2>(job, team, packs);
  launch_team<S, kAny>(job, team, packs);
}

}  // namespace

extern "C" {

void propagate_float(const float* x, const float* const* scores, int models, const int32_t* ancestors,
                     const double* coefficients, bool each, const uint8_t* mask, const int64_t* rng, float* moved,
                     float* ratio, int64_t first_population, int64_t first_particle, int64_t populations,
                     int64_t particles, int64_t elements, int team, bool packs) {
  run(x, scores, models, ancestors, coefficients, each, mask, rng, moved, ratio, first_population, first_particle,
      populations, particles, elements, team, packs);
}

void propagate_double(const double* x, const double* const* scores, int models, const int32_t* ancestors,
                      const double* coefficients, bool each, const uint8_t* mask, const int64_t* rng, double* moved,
                      double* ratio, int64_t first_population, int64_t first_particle, int64_t populations,
                      int64_t particles, int64_t elements, int team, bool packs) {
  run(x, scores, models, ancestors, coefficients, each, mask, rng, moved, ratio, first_population, first_particle,
      populations, particles, elements, team, packs);
}
}
