// Normals for a tile of Philox counters, vectorised over the counters.
#pragma once
#include <algorithm>

#include "../include/normal.h"
#include "philox_lanes.h"

namespace edmfast {

// Word j of counter t goes to normals[j * kTile + t].
inline int64_t blocks_of(int64_t elements) { return (elements + 3) / 4; }

EDMFAST_MULTIVERSION inline void box_muller_tile(const uint32_t* radius_bits, const uint32_t* angle_bits,
                                                 int64_t n, float* first, float* second) {
  for (int64_t t = 0; t < n; ++t) {
    const NormalPair pair = box_muller(radius_bits[t], angle_bits[t]);
    first[t] = pair.first;
    second[t] = pair.second;
  }
}

// `pairs` is 1 where a sample has at most two elements, so that words 2 and 3 are never read.
inline void normal_tile(const Bits& bits, int64_t n, int pairs, float* normals) {
  n = (n + 15) / 16 * 16;
  box_muller_tile(bits.a, bits.b, n, normals, normals + kTile);
  if (pairs == 2) box_muller_tile(bits.c, bits.d, n, normals + 2 * kTile, normals + 3 * kTile);
}

// Offsets of `rows` samples with `size` counters each from the first one, which is number `particle` of its
// population. They reach into as many populations as they need.
inline void fill_offsets(Offsets& offsets, int64_t particle, int64_t rows, int64_t size, int64_t particles) {
  uint32_t population = 0;
  for (int64_t row = 0, now = particle; row < rows; ++population, now = 0) {
    const int64_t end = std::min(rows, row + particles - now);
    for (; row < end; ++row, ++now) {
      for (int64_t t = row * size; t < (row + 1) * size; ++t) {
        offsets.block[t] = static_cast<uint32_t>(t - row * size);
        offsets.particle[t] = static_cast<uint32_t>(now - particle);
        offsets.word[t] = population;
      }
    }
  }
}

// Calls consume(row, rows, first_block, size, bits) over the rows in [begin, end), in pieces that fit a tile: block
// first_block + b of sample row + r has the words of counter r * size + b. ahead(row, rows, first_block) names the
// memory that consume is about to use, of one population.
template <class Consume, class Fetch>
void for_each_bits(int64_t begin, int64_t end, int64_t particles, int64_t elements, const int64_t* rng,
                   int64_t stream, int64_t first_population, int64_t first_particle, const Consume& consume,
                   const Fetch& ahead) {
  const int64_t blocks = blocks_of(elements);
  const uint64_t seed = static_cast<uint64_t>(rng[0]);
  const uint32_t step = static_cast<uint32_t>(rng[1]);
  const int pairs = elements <= 2 ? 1 : 2;
  const int64_t rows_per_tile = blocks > 0 && blocks < kTile ? kTile / blocks : 1;
  Offsets offsets{};
  bool usual = false;  // whether the offsets are those of a tile in which no population ends
  Bits bits;
  for (int64_t row = begin; row < end; row += rows_per_tile) {
    const int64_t rows = std::min(rows_per_tile, end - row);
    const int64_t population = row / particles, particle = row % particles;
    const bool ends = particle + rows > particles;
    if (ends || !usual) fill_offsets(offsets, particle, rows, std::min(blocks, kTile), particles);
    usual = !ends;
    Philox4 start = {0, step, static_cast<uint32_t>(first_particle + particle),
                     stream_word(stream, first_population + population)};
    int64_t first_block = 0;
    do {
      const int64_t size = std::min(blocks - first_block, kTile);
      start.a = static_cast<uint32_t>(first_block);
      philox_tile(offsets, start, seed, rows * size, pairs, ends ? Ahead{} : ahead(row, rows, first_block), bits);
      consume(row, rows, first_block, size, bits);
      first_block += size;
    } while (first_block < blocks);
  }
}

// The same with normals in place of bits: word j of counter t is normals[j * kTile + t].
template <class Consume, class Fetch>
void for_each_tile(int64_t begin, int64_t end, int64_t particles, int64_t elements, const int64_t* rng,
                   int64_t stream, int64_t first_population, int64_t first_particle, const Consume& consume,
                   const Fetch& ahead) {
  const int pairs = elements <= 2 ? 1 : 2;
  float normals[4 * kTile];
  for_each_bits(begin, end, particles, elements, rng, stream, first_population, first_particle,
                [&](int64_t row, int64_t rows, int64_t first_block, int64_t size, const Bits& bits) {
                  normal_tile(bits, rows * size, pairs, normals);
                  consume(row, rows, first_block, size, normals);
                },
                ahead);
}

}  // namespace edmfast
