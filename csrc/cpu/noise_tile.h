// Normals for a tile of Philox counters, vectorised over the counters.
#pragma once
#include <algorithm>

#include "../include/multiversion.h"
#include "../include/normal.h"
#include "../include/philox.h"

namespace edmfast {

constexpr int64_t kTile = 256;

// A tile is kTile counters; word j of counter t goes to normals[j * kTile + t].
struct Counters {
  uint32_t block[kTile], particle[kTile], word[kTile];
};

inline int64_t blocks_of(int64_t elements) { return (elements + 3) / 4; }

// `pairs`: 1 where a sample has at most two elements and words 2 and 3 are never read.
EDMFAST_MULTIVERSION inline void normal_tile(const Counters& counters, uint32_t step, uint64_t seed, int64_t n,
                                             int pairs, float* normals) {
  uint32_t a[kTile], b[kTile], c[kTile], d[kTile];
  for (int64_t t = 0; t < n; ++t) {
    const Philox4 bits = philox({counters.block[t], step, counters.particle[t], counters.word[t]}, seed);
    a[t] = bits.a;
    b[t] = bits.b;
    c[t] = bits.c;
    d[t] = bits.d;
  }
  for (int64_t t = 0; t < n; ++t) {
    const NormalPair pair = box_muller(a[t], b[t]);
    normals[t] = pair.first;
    normals[kTile + t] = pair.second;
  }
  if (pairs == 1) return;
  for (int64_t t = 0; t < n; ++t) {
    const NormalPair pair = box_muller(c[t], d[t]);
    normals[2 * kTile + t] = pair.first;
    normals[3 * kTile + t] = pair.second;
  }
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
