// The CUDA kernel of score_gram, launched on the host with any number of threads to a row.
#include "emulator.h"  // first, since it defines the keywords of the kernel

#include "../../csrc/cuda/score_gram_kernel.h"

using namespace edmfast;

namespace {

template <int kScores, int kTeam>
void launch_team(const GramJob<float>& job) {
  const int64_t per_block = kThreads / kTeam;
  const auto grid = static_cast<unsigned>((job.rows + per_block - 1) / per_block);
  emulator::launch(grid, kThreads, score_gram_kernel<float, kScores, kTeam>, job);
}

template <int kScores>
void launch_scores(const GramJob<float>& job, int team) {
  switch (team) {
    case 1: return launch_team<kScores, 1>(job);
    case kWarp: return launch_team<kScores, kWarp>(job);
    default: return launch_team<kScores, kThreads>(job);
  }
}

}  // namespace

extern "C" void score_gram(const float* scores, const float* displacement, double* gram, double* along, int64_t rows,
                           int64_t elements, int count, int team) {
  const GramJob<float> job{scores, displacement, gram, along, rows, elements, count, displacement != nullptr};
  if (count <= 2) return launch_scores<2>(job, team);
  if (count <= 4) return launch_scores<4>(job, team);
  launch_scores<kMaxScores>(job, team);
}
