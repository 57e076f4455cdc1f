// The CUDA kernels of resampling and weighing, launched on the host as csrc/cuda/resample_launch.h does.
#include "emulator.h"  // first, since it defines the keywords of the kernels

#include "../../csrc/cuda/resample_slots.h"
#include "../../csrc/cuda/resample_small.h"
#include "../../csrc/cuda/weigh_increments.h"

using namespace edmfast;
using emulator::launch;

namespace {

template <class T>
void first_pass(const LargeJob<T>& job, const Given<T>&) {
  constexpr unsigned kBlocks = 3;
  launch(static_cast<unsigned>(job.populations) * kBlocks, kThreads, maximum_kernel<T>, job, kBlocks);
}

template <class E>
void first_pass(const LargeJob<double>& job, const Increments<E>& source) {
  launch(static_cast<unsigned>(job.populations * tiles_of(job.particles)), kThreads, weigh_kernel<E>, job, source);
}

// `large` gives every population many blocks, whatever its size, of which each sums so many tiles; 0 is for one block.
template <class T, class Source>
void run(const ResampleJob<T>& job, const Source& source, int large) {
  const unsigned populations = static_cast<unsigned>(job.populations);
  if (!large && job.particles <= kWarp) {
    const unsigned per_block = kTinyThreads / kWarp;
    launch((populations + per_block - 1) / per_block, kTinyThreads, resample_warp_kernel<T, Source>, job, source);
  } else if (!large) {
    const unsigned threads = std::min<unsigned>(kSmallThreads, (job.particles + kWarp - 1) / kWarp * kWarp);
    launch(populations, threads, resample_kernel<T, Source>, job, source);
  } else {
    // only the states are cleared, as on the device
    std::vector<int64_t> scratch(scratch_words(job.populations, job.particles), -1);
    std::fill_n(scratch.begin(), job.populations * sizeof(Population) / 8, 0);
    LargeJob<T> whole = large_job(job, scratch.data());
    whole.together = large;
    const unsigned grid = static_cast<unsigned>(job.populations * tiles_of(job.particles));
    first_pass(whole, source);
    const int64_t sums = job.populations * sums_of(tiles_of(job.particles), large);
    launch(static_cast<unsigned>(sums), kThreads, sum_kernel<T>, whole);
    launch(grid, kThreads, slots_kernel<Source::kSpreads, T>, whole);
  }
}

}  // namespace

extern "C" {

void resample(const float* log_weights, const double* uniform, double ess_threshold, int64_t populations,
              int64_t particles, int large, int32_t* ancestors, double* log_mean, double* ess, bool* resampled,
              int32_t* degenerate) {
  const ResampleJob<float> job{log_weights, uniform,    ess_threshold, ancestors, log_mean, ess,
                               resampled,   degenerate, populations,   particles, {}};
  run(job, Given<float>{log_weights, particles}, large);
}

void weigh(const double* log_weights, const double* log_z, const int32_t* ancestors, const int32_t* root,
           const bool* reset, const int32_t* degenerate, const float* ratio, const float* const* energies,
           const float* const* energies_before, const double* exponents, const int64_t* rng, int weigh_it,
           double ess_threshold, int64_t first_population, int64_t populations, int64_t particles, int models,
           int large, double* new_weights, double* new_log_z, int32_t* new_ancestors, int32_t* new_root, double* ess,
           double* log_mean, bool* resampled, int32_t* new_degenerate, double* increment_sd, int64_t* survivors) {
  const Carried carried{rng,  first_population, log_z,        new_log_z, degenerate,
                        root, new_root,         increment_sd, survivors};
  const ResampleJob<double> job{new_weights, nullptr,        ess_threshold, new_ancestors, log_mean, ess,
                                resampled,   new_degenerate, populations,   particles,     carried};
  Increments<float> source{log_weights, reset,  ancestors, ratio,         {},         {}, exponents,
                           models,      particles, weigh_it != 0, new_weights};
  for (int k = 0; k < models; ++k) {
    source.energies[k] = energies[k];
    source.energies_before[k] = energies_before[k];
  }
  run(job, source, large);
}
}
