// The CUDA kernel of reversal, launched on the host with any number of threads to a row.
#include "emulator.h"  // first, since it defines the keywords of the kernel

#include "../../csrc/cuda/reversal_kernel.h"

using namespace edmfast;

namespace {

template <int kModels, int kTeam>
void launch_team(const ReversalJob<float>& job) {
  const int64_t per_block = kThreads / kTeam;
  const auto grid = static_cast<unsigned>((job.rows + per_block - 1) / per_block);
  emulator::launch(grid, kThreads, reversal_kernel<float, kModels, kTeam>, job);
}

template <int kModels>
void launch_models(const ReversalJob<float>& job, int team) {
  switch (team) {
    case 1: return launch_team<kModels, 1>(job);
    case kWarp: return launch_team<kModels, kWarp>(job);
    default: return launch_team<kModels, kThreads>(job);
  }
}

}  // namespace

extern "C" void reversal(const float* const* scores, const double* exponents, const double* levels,
                         const double* traces, const float* const* products, const float* probes,
                         double* coefficients, double* log_weights, int64_t populations, int64_t particles,
                         int64_t elements, int64_t count, int models, int team) {
  ReversalJob<float> job{{},     {},     probes,      traces,   exponents, levels,      models, populations * particles,
                         particles, elements, count, coefficients, log_weights};
  for (int k = 0; k < models; ++k) {
    job.scores[k] = scores[k];
    job.products[k] = products == nullptr ? nullptr : products[k];
  }
  if (models == 1) return launch_models<1>(job, team);
  if (models == 2) return launch_models<2>(job, team);
  if (models <= 4) return launch_models<4>(job, team);
  launch_models<kMaxModels>(job, team);
}
