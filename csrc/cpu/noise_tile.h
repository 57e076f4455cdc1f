// Normals for a tile of Philox counters, vectorised over the counters.
#pragma once
#include <algorithm>

#include "../include/normal.h"
#include "philox_lanes.h"

namespace edmfast {

// Word j of counter t goes to normals[j * kTile + t].
inline int64_t blocks_of(int64_t elements) { return (elements + 3) / 4; }

EDMFAST_MULTIVERSION inline void box_muller_tile(const uint32_t* radius_bits, const uint32_t* angle_bits, int64_t n,
                                                 float* first, float* second) {
  for (int64_t t = 0; t < n; ++t) {
    const NormalPair pair = box_muller(radius_bits[t], angle_bits[t]);
    first[t] = pair.first;
    second[t] = pair.second;
  }
}

// `pairs`: 1 where a sample has at most two elements and words 2 and 3 are never read.
inline void normal_tile(const Counters& counters, uint32_t step, uint64_t seed, int64_t n, int pairs, float* normals) {
  Bits bits;
  philox_tile(counters, step, seed, n, pairs, bits);
  n = (n + 15) / 16 * 16;
  box_muller_tile(bits.a, bits.b, n, normals, normals + kTile);
  if (pairs == 2) box_muller_tile(bits.c, bits.d, n, normals + 2 * kTile, normals + 3 * kTile);
}

// Counters of blocks [first_block, first_block + size) of `rows` samples of one population.
inline __attribute__((always_inline)) void fill_rows(Counters& counters, int64_t start, int64_t rows, uint32_t particle,
                                                     uint32_t word, int64_t first_block, int64_t size) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t b = 0; b < size; ++b) {
      const int64_t t = start + r * size + b;
      counters.block[t] = static_cast<uint32_t>(first_block + b);
      counters.particle[t] = particle + static_cast<uint32_t>(r);
      counters.word[t] = word;
    }
  }
}

// The same for `rows` samples from `row` on, of as many populations as they reach into.
inline void fill_counters(Counters& counters, int64_t row, int64_t rows, int64_t first_block, int64_t size,
                          int64_t particles, int64_t stream, int64_t first_population, int64_t first_particle) {
  int64_t population = row / particles, particle = row % particles;
  for (int64_t r = 0; r < rows; ++population, particle = 0) {
    const int64_t count = std::min(rows - r, particles - particle);
    const uint32_t first = static_cast<uint32_t>(first_particle + particle);
    const uint32_t word = stream_word(stream, first_population + population);
    if (size == 1) {  // a constant, so that the loop is a vector loop
      fill_rows(counters, r, count, first, word, first_block, 1);
    } else {
      fill_rows(counters, r * size, count, first, word, first_block, size);
    }
    r += count;
  }
}

// Calls consume(row, rows, first_block, size, normals) over the rows in [begin, end), in pieces that fit a
// tile: word j of block first_block + b of sample row + r is normals[j * kTile + r * size + b].
template <class Consume>
void for_each_tile(int64_t begin, int64_t end, int64_t particles, int64_t elements, const int64_t* rng,
                   int64_t stream, int64_t first_population, int64_t first_particle, const Consume& consume) {
  const int64_t blocks = blocks_of(elements);
  const uint64_t seed = static_cast<uint64_t>(rng[0]);
  const uint32_t step = static_cast<uint32_t>(rng[1]);
  const int pairs = elements <= 2 ? 1 : 2;
  const int64_t rows_per_tile = blocks > 0 && blocks < kTile ? kTile / blocks : 1;
  Counters counters;
  float normals[4 * kTile];
  for (int64_t row = begin; row < end; row += rows_per_tile) {
    const int64_t rows = rows_per_tile < end - row ? rows_per_tile : end - row;
    int64_t first_block = 0;
    do {
      const int64_t size = blocks - first_block < kTile ? blocks - first_block : kTile;
      fill_counters(counters, row, rows, first_block, size, particles, stream, first_population, first_particle);
      normal_tile(counters, step, seed, rows * size, pairs, normals);
      consume(row, rows, first_block, size, normals);
      first_block += size;
    } while (first_block < blocks);
  }
}

}  // namespace edmfast
