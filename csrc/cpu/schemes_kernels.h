// Offspring of one population by each scheme, from exact integers. Wide divisions are written plainly: the schemes
// beside the systematic one aim at being right, not at the last nanosecond.
#pragma once
#include <algorithm>
#include <vector>

#include "../include/fixed_point.h"
#include "../include/normal.h"
#include "../include/philox.h"

namespace edmfast {

using Wide = unsigned __int128;

enum Scheme : int64_t { kSystematic, kStratified, kMultinomial, kResidual, kKilling, kSsp, kSchemes };

// The uniforms of one population: slot k has the words of the counter (0, step, k, stream 3 | population).
struct SlotNoise {
  uint64_t seed;
  uint32_t step, word;

  Philox4 words(int64_t slot) const { return philox({0, step, static_cast<uint32_t>(slot), word}, seed); }
  static uint64_t fraction(uint32_t high, uint32_t low) { return (uint64_t{high} << 32 | low) & ~uint64_t{0x7ff}; }
  // u_k, as a 64-bit fraction
  uint64_t first(int64_t slot) const {
    const Philox4 w = words(slot);
    return fraction(w.a, w.b);
  }
};

// Integer weights q, their total, and working memory.
struct IntegerWeights {
  std::vector<int64_t> q;
  int64_t total = 0;
};

inline void count_to_ancestors(const std::vector<int64_t>& offspring, int32_t* ancestors) {
  for (size_t i = 0; i < offspring.size(); ++i)
    ancestors = std::fill_n(ancestors, offspring[i], static_cast<int32_t>(i));
}

// Slot k belongs to the particle that holds the point (k + u_k) W / M.
inline void stratified(const IntegerWeights& weights, const SlotNoise& noise, int64_t count, bool one_uniform,
                       int32_t* ancestors) {
  const uint64_t shared = noise.first(0);
  size_t i = 0;
  Wide end = Wide(weights.q[0]) * Wide(count);
  for (int64_t k = 0; k < count; ++k) {
    const uint64_t fraction = one_uniform ? shared : noise.first(k);
    const Wide point = Wide(weights.total) * Wide(k) + high_product(fraction, static_cast<uint64_t>(weights.total));
    while (end <= point && i + 1 < weights.q.size()) end += Wide(weights.q[++i]) * Wide(count);
    ancestors[k] = static_cast<int32_t>(i);
  }
}

// Adds `draws` independent draws to the offspring, by sorted uniforms from sums of exponentials.
inline void add_multinomial(const IntegerWeights& weights, const SlotNoise& noise, int64_t draws, int64_t count,
                            std::vector<int64_t>& offspring) {
  const double unit = bits_to_double(int64_t{1023 + 56 - (62 - fraction_bits(count + 1))} << 52);
  const auto exponential = [&](int64_t slot) {
    const float u = add(mul(static_cast<float>(static_cast<int32_t>(noise.words(slot).a >> 1)), 4.656612873e-10f),
                        2.328306437e-10f);
    return static_cast<int64_t>(mul(static_cast<double>(negative_log(u)), unit));
  };
  std::vector<int64_t> sums(draws + 1);
  int64_t running = 0;
  for (int64_t k = 0; k <= draws; ++k) sums[k] = running += exponential(k);
  constexpr uint64_t one = uint64_t{1} << 50;
  size_t i = 0;
  int64_t end = weights.q[0];
  for (int64_t k = 0; k < draws; ++k) {
    const uint64_t share = std::min(static_cast<uint64_t>((Wide(sums[k]) << 50) / Wide(running)), one - 1);
    const int64_t point = static_cast<int64_t>(high_product(share << 14, static_cast<uint64_t>(weights.total)));
    while (end <= point && i + 1 < weights.q.size()) end += weights.q[++i];
    ++offspring[i];
  }
}

inline void residual(IntegerWeights& weights, const SlotNoise& noise, int64_t count, std::vector<int64_t>& offspring) {
  int64_t draws = count;
  for (size_t i = 0; i < weights.q.size(); ++i) {
    const Wide wanted = Wide(weights.q[i]) * Wide(count);
    offspring[i] = static_cast<int64_t>(wanted / Wide(weights.total));
    weights.q[i] = static_cast<int64_t>(wanted % Wide(weights.total));
    draws -= offspring[i];
  }
  // the remainders sum to draws W, which stays below 2^62 without their last bits
  int shift = 0;
  while (draws >> shift) ++shift;
  weights.total = 0;
  for (int64_t& rest : weights.q) weights.total += rest >>= shift;
  if (draws > 0) add_multinomial(weights, noise, draws, count, offspring);
}

inline void killing(const IntegerWeights& weights, const SlotNoise& noise, int32_t* ancestors) {
  const uint64_t largest = static_cast<uint64_t>(*std::max_element(weights.q.begin(), weights.q.end()));
  std::vector<int64_t> ends(weights.q.size());
  int64_t running = 0;
  for (size_t i = 0; i < ends.size(); ++i) ends[i] = running += weights.q[i];
  for (size_t i = 0; i < ends.size(); ++i) {
    const Philox4 w = noise.words(static_cast<int64_t>(i));
    ancestors[i] = static_cast<int32_t>(i);
    if (high_product(SlotNoise::fraction(w.a, w.b), largest) < static_cast<uint64_t>(weights.q[i])) continue;
    const int64_t point = static_cast<int64_t>(
        high_product(SlotNoise::fraction(w.c, w.d), static_cast<uint64_t>(weights.total)));
    ancestors[i] = static_cast<int32_t>(std::upper_bound(ends.begin(), ends.end(), point) - ends.begin());
  }
}

inline void ssp(IntegerWeights& weights, const SlotNoise& noise, int64_t count, std::vector<int64_t>& offspring) {
  const int64_t total = weights.total;
  std::vector<int64_t>& rest = weights.q;
  for (size_t i = 0; i < rest.size(); ++i) {
    const Wide wanted = Wide(rest[i]) * Wide(count);
    offspring[i] = static_cast<int64_t>(wanted / Wide(total));
    rest[i] = static_cast<int64_t>(wanted % Wide(total));
  }
  size_t open = 0;
  for (size_t other = 1; other < rest.size(); ++other) {
    int64_t p = rest[open], r = rest[other];
    if (p == 0) {
      open = other;
      continue;
    }
    const int64_t up = std::min(total - p, r), down = std::min(p, total - r);
    const bool rises = high_product(noise.first(static_cast<int64_t>(other)), static_cast<uint64_t>(up + down)) <
                       static_cast<uint64_t>(down);
    p += rises ? up : -down;
    r += rises ? -up : down;
    offspring[other] += r == total;
    if (p == 0 || p == total) {
      offspring[open] += p == total;
      rest[other] = r == total ? 0 : r;
      open = other;
    } else {
      rest[open] = p;
    }
  }
}

inline void choose(Scheme scheme, IntegerWeights& weights, const SlotNoise& noise, int64_t count, int32_t* ancestors) {
  if (scheme == kSystematic || scheme == kStratified)
    return stratified(weights, noise, count, scheme == kSystematic, ancestors);
  if (scheme == kKilling) return killing(weights, noise, ancestors);
  std::vector<int64_t> offspring(weights.q.size());
  if (scheme == kMultinomial) add_multinomial(weights, noise, count, count, offspring);
  if (scheme == kResidual) residual(weights, noise, count, offspring);
  if (scheme == kSsp) ssp(weights, noise, count, offspring);
  count_to_ancestors(offspring, ancestors);
}

}  // namespace edmfast
