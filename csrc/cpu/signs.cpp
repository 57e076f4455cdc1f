// Random signs from counters, drawn by the sign of normals and multiplied by patterns of the last two axes:
// like [P, N, d] -> [P, N, count, d] in the dtype of `like`.
#include <algorithm>

#include "../include/library.h"
#include "../include/signs_arguments.h"
#include "allocate.h"
#include "noise_tile.h"
#include "parallel.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Signs are made as integers, since all bits but the highest are those of 1.
template <class T>
EDMFAST_HD void words_of(const uint32_t* radius, const uint32_t* angle, int64_t n, T one, T* first, T* second) {
  constexpr int kTop = 8 * sizeof(T) - 1;
  for (int64_t t = 0; t < n; ++t) {
    const SignPair pair = signs_of(radius[t], angle[t]);
    first[t] = static_cast<T>(one | static_cast<T>(static_cast<T>(pair.first) << kTop));
    second[t] = static_cast<T>(one | static_cast<T>(static_cast<T>(pair.second) << kTop));
  }
}

// Writes the signs of one state of another pattern.
template <class T>
EDMFAST_HD void paint_any(const T* from, int64_t pattern, int64_t planes, int64_t rows, int64_t columns, T* to) {
  constexpr int kTop = 8 * sizeof(T) - 1;
  for (int64_t line = 0; line < planes * rows; ++line, from += columns, to += columns) {
    const T even = static_cast<T>(static_cast<T>(turns(pattern, line % rows, 0)) << kTop);
    const T odd = static_cast<T>(static_cast<T>(turns(pattern, line % rows, 1)) << kTop);
    for (int64_t column = 0; column < columns; ++column)
      to[column] = static_cast<T>(from[column] ^ (column % 2 == 0 ? even : odd));
  }
}

#define EDMFAST_SIGNS(T)                                                                                          \
  EDMFAST_MULTIVERSION void sign_words(const uint32_t* radius, const uint32_t* angle, int64_t n, T one, T* first, \
                                       T* second) {                                                               \
    words_of(radius, angle, n, one, first, second);                                                               \
  }                                                                                                               \
  EDMFAST_MULTIVERSION void paint(const T* from, int64_t pattern, int64_t planes, int64_t rows, int64_t columns,  \
                                  T* to) {                                                                        \
    paint_any(from, pattern, planes, rows, columns, to);                                                          \
  }
EDMFAST_SIGNS(uint16_t)
EDMFAST_SIGNS(uint32_t)
EDMFAST_SIGNS(uint64_t)
#undef EDMFAST_SIGNS

// Samples of at most four elements take one block each, and word j is element j.
template <class T>
void interleave(const T* words, int64_t rows, int64_t elements, T* out) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < elements; ++j) out[r * elements + j] = words[j * kTile + r];
}

// Copies elements [first, first + n) of the draws of a particle to the probes that have pattern 0.
template <class T>
void spread_draws(const T* words, int64_t first, int64_t n, int64_t elements, T* out) {
  while (n > 0) {
    const int64_t draw = first / elements, place = first % elements, size = std::min(n, elements - place);
    std::copy_n(words, size, out + draw * kPatterns * elements + place);
    words += size, first += size, n -= size;
  }
}

template <class T>
void paint_row(const SignsArguments& in, T* out) {
  const int64_t planes = in.elements / (in.rows * in.columns);
  if (in.count == 1) {
    if (in.second) paint(out, 1, planes, in.rows, in.columns, out);
    return;
  }
  for (int64_t probe = 0; probe < in.count; ++probe) {
    const int64_t pattern = probe % kPatterns;
    if (pattern > 0)
      paint(out + (probe - pattern) * in.elements, pattern, planes, in.rows, in.columns, out + probe * in.elements);
  }
}

template <class T>
void draw(const SignsArguments& in, const int64_t* rng, T one, T* out) {
  const int64_t drawn = in.draws * in.elements, blocks = blocks_of(drawn), length = in.count * in.elements;
  const int pairs = drawn <= 2 ? 1 : 2;
  const int64_t grain = std::max<int64_t>(1, 8192 / length);
  in_parallel(in.populations * in.particles, grain, [&](int64_t begin, int64_t end) {
    T words[4 * kTile];
    for_each_bits(begin, end, in.particles, drawn, rng, in.stream, in.first_population, in.first_particle,
                  [&](int64_t row, int64_t rows, int64_t first_block, int64_t size, const Bits& bits) {
                    const int64_t n = (rows * size + 15) / 16 * 16;
                    sign_words(bits.a, bits.b, n, one, words, words + kTile);
                    if (pairs == 2) sign_words(bits.c, bits.d, n, one, words + 2 * kTile, words + 3 * kTile);
                    T* to = out + row * length;
                    if (blocks == 1 && !in.coloured()) return interleave(words, rows, drawn, to);
                    for (int64_t r = 0; r < rows; ++r, to += length) {
                      for (int64_t j = 0; j < 4; ++j) {
                        const int64_t first = j * blocks + first_block, count = std::min(size, drawn - first);
                        const T* from = words + j * kTile + r * size;
                        if (count <= 0) continue;
                        if (in.coloured()) {
                          spread_draws(from, first, count, in.elements, to);
                        } else {
                          std::copy_n(from, count, to + first);
                        }
                      }
                      if (in.coloured() && first_block + size == blocks) paint_row(in, to);
                    }
                  },
                  [](int64_t, int64_t, int64_t) { return Ahead{}; });
  });
}

Tensor signs(Tensor like, Tensor rng, int64_t count, int64_t rows, int64_t columns, int64_t stream,
             int64_t first_population, int64_t first_particle) {
  SignsArguments in(like, rng, count, rows, columns, stream, first_population, first_particle);
  Tensor out = empty_cpu({in.populations, in.particles, count, in.elements}, in.dtype);
  if (in.populations * in.particles * in.elements == 0) return out;
  const int64_t* state = static_cast<const int64_t*>(in.rng.data_ptr());
  const int64_t shared[2] = {state[0], in.paired() ? state[1] & ~int64_t{1} : state[1]};
  in.second = in.paired() && (state[1] & 1) != 0;
  const auto run = [&](auto one) {
    using T = decltype(one);
    draw<T>(in, shared, one, static_cast<T*>(out.data_ptr()));
  };
  switch (in.dtype) {
    case ScalarType::Float: run(uint32_t{0x3f800000}); break;
    case ScalarType::Double: run(uint64_t{0x3ff0000000000000}); break;
    case ScalarType::Half: run(uint16_t{0x3c00}); break;
    default: run(uint16_t{0x3f80}); break;
  }
  return out;
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CPU, m) { m.impl("signs", TORCH_BOX(&edmfast::signs)); }
