// The CUDA kernels of curvature and curvature_matched, launched on the host with any number of threads to a row, and
// with any number of folds on the way.
#include <vector>

#include "emulator.h"  // before the kernel, since it defines its keywords

#include "../../csrc/cuda/curvature_kernel.h"

using namespace edmfast;

namespace {

template <int kTeam>
void launch_team(const CurvatureJob<float>& job) {
  const int64_t per_block = kThreads / kTeam;
  const auto grid = static_cast<unsigned>((job.rows + per_block - 1) / per_block);
  emulator::launch(grid, kThreads, curvature_kernel<float, kTeam>, job);
}

template <int kLevels>
void launch_matched(const MatchedJob& job) {
  const int64_t width = (job.n + (int64_t{1} << kLevels) - 1) >> kLevels;
  if constexpr (kLevels < kFolds) {
    if (width > kMostThreads) return launch_matched<kLevels + 1>(job);
  }
  const auto threads = static_cast<unsigned>((width + kWarp - 1) / kWarp * kWarp);
  emulator::launch(static_cast<unsigned>(job.populations), threads, matched_kernel<kLevels>, job);
}

}  // namespace

extern "C" {

void curvature(const float* products, const float* probes, const double* exponents, double exponent, double* out,
               int64_t populations, int64_t particles, int64_t elements, int team) {
  const CurvatureJob<float> job{products, probes, exponents, exponent, out, populations * particles, particles, elements};
  switch (team) {
    case 1: return launch_team<1>(job);
    case kWarp: return launch_team<kWarp>(job);
    default: return launch_team<kThreads>(job);
  }
}

void curvature_matched(const double* values, const int32_t* ancestors, const double* exponents, double exponent,
                       const double* levels, double* out, int64_t populations, int64_t particles, int folds) {
  MatchedJob job{values, ancestors, exponents, exponent, levels, out, populations, particles, particles};
  std::vector<std::vector<double>> sums;
  for (; folds > 0; --folds) {
    const int64_t width = (job.n + (1 << kFolds) - 1) >> kFolds, threads = populations * width;
    sums.emplace_back(threads);
    job.out = sums.back().data();
    emulator::launch(static_cast<unsigned>((threads + kThreads - 1) / kThreads), kThreads, fold_kernel, job);
    job.values = job.out, job.ancestors = nullptr, job.n = width;
  }
  job.out = out;
  launch_matched<0>(job);
}
}
