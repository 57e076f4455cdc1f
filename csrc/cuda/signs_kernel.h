// The kernel of signs. It needs no torch, so that the host can run it in a test.
#pragma once
#include "../include/philox.h"
#include "../include/signs.h"

namespace edmfast {

constexpr int kSignThreads = 256;

// T is the unsigned integer with the size of a sign, and `one` has the bits of 1.
template <class T>
struct SignsJob {
  const int64_t* rng;  // seed, step
  T* out;              // [rows, count, elements]
  T one;
  int64_t samples, particles, elements, count, draws;
  int64_t rows, columns;  // the last two axes of a state, or 0 where all probes are drawn
  int64_t stream, first_population, first_particle;
};

// One thread takes one block of four elements of the draws of a particle, and writes them to all probes of a draw.
template <class T, bool kColoured>
__global__ void __launch_bounds__(kSignThreads) signs_kernel(SignsJob<T> job) {
  const int64_t drawn = job.draws * job.elements, blocks = (drawn + 3) / 4;
  const int64_t index = int64_t{blockIdx.x} * kSignThreads + threadIdx.x;
  if (index >= job.samples * blocks) return;
  const int64_t sample = index / blocks, block = index % blocks;
  const int64_t population = sample / job.particles, particle = sample % job.particles;
  const bool paired = kColoured && job.count == 1;
  const uint32_t level = static_cast<uint32_t>(job.rng[1]);
  const Philox4 bits =
      philox({static_cast<uint32_t>(block), paired ? level & ~1u : level,
              static_cast<uint32_t>(job.first_particle + particle),
              stream_word(job.stream, job.first_population + population)},
             static_cast<uint64_t>(job.rng[0]));
  const SignPair first = signs_of(bits.a, bits.b), second = signs_of(bits.c, bits.d);
  const bool negative[4] = {first.first, first.second, second.first, second.second};
  T* const out = job.out + sample * job.count * job.elements;
  constexpr int kTop = 8 * sizeof(T) - 1;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t element = j * blocks + block;
    if (element >= drawn) continue;
    if constexpr (!kColoured) {
      out[element] = static_cast<T>(job.one | static_cast<T>(negative[j]) << kTop);
    } else {
      const int64_t draw = element / job.elements, place = element % job.elements;
      const int64_t row = place / job.columns % job.rows, column = place % job.columns;
      for (int64_t pattern = 0; pattern < kPatterns; ++pattern) {
        const int64_t probe = kPatterns * draw + pattern;
        if (probe >= job.count) break;
        const bool turned = turns(paired ? level & 1u : pattern, row, column);
        out[probe * job.elements + place] = static_cast<T>(job.one | static_cast<T>(negative[j] != turned) << kTop);
      }
    }
  }
}

}  // namespace edmfast
