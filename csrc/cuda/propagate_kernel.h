// The kernel of the proposal step. It needs no torch, so that the host can run it in a test.
//
// A thread takes `kWidth` neighbouring blocks of four elements in a turn. It asks for all that it reads in the turn at
// once, and makes the normals while the memory answers. With kWidth > 1, every row consists of whole packs.
#pragma once
#include <cmath>

#include "packs.h"
#include "propagate_job.h"

namespace edmfast {

constexpr int kThreads = 256;
// The blocks that a thread takes at once: 8 bytes of neighbours.
template <class S>
constexpr int kNeighbours = 8 / static_cast<int>(sizeof(S));
// A number of models that stands for any, with or without a mask.
constexpr int kAny = 0;

// From sm_100 on, the compiler needs more registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr bool kManyRegisters = false;
#else
constexpr bool kManyRegisters = true;
#endif
// The blocks of a multiprocessor, which bound the registers of a thread. With one block more, registers spill.
// The kernel of short rows has only a few waits, and needs more blocks to fill them.
template <class S, int kModels, int kTeam>
constexpr int kResident = sizeof(S) == 8 || kModels == 2 ? 2 : kTeam < kWarp && kManyRegisters ? 4 : 3;

// |z|^2, <m, z>, |m|^2. Members have no default values, because shared memory takes no constructors.
struct Moments {
  double noise, cross, shift;
};

// The elements that a thread reads in one turn. Item i of pack j belongs to element j * blocks + block + i.
template <class S, int kModels, int kWidth>
struct Values {
  Pack<S, kWidth> x[4], score[kModels == kAny ? 1 : kModels][4];
};

// The place of a thread in the rows of its particle: block `block` of four elements. Element j of the block is offset[j]
// bytes further.
template <class S, int kModels, int kWidth>
struct Cursor {
  static constexpr int kScores = kModels == kAny ? 1 : kModels;
  const S* x;
  const S* score[kScores];
  S* moved;
  uint32_t elements, blocks, block, offset[4];

  __device__ __forceinline__ Cursor(const PropagateJob<S>& job, uint32_t row, const Parent& parent, uint32_t first)
      : elements(static_cast<uint32_t>(job.elements)), blocks((elements + 3) / 4), block(first) {
    const int64_t from = parent.index * job.elements + first;
    x = job.x + from;
#pragma unroll
    for (int k = 0; k < kScores; ++k) score[k] = job.scores[k] + from;
    moved = job.moved + (row * job.elements + first);
#pragma unroll
    for (int j = 0; j < 4; ++j) offset[j] = static_cast<uint32_t>(j * blocks * sizeof(S));
  }

  __device__ __forceinline__ void advance(uint32_t stride) {
    block += stride;
    x += stride;
#pragma unroll
    for (int k = 0; k < kScores; ++k) score[k] += stride;
    moved += stride;
  }

  __device__ __forceinline__ bool inside() const { return block < blocks; }
  // True where the row has element j of block `block`. Rows of whole packs have all.
  __device__ __forceinline__ bool holds(int j) const { return kWidth > 1 || j * blocks + block < elements; }

  __device__ __forceinline__ void load(const S* from, Pack<S, kWidth> (&packs)[4]) const {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (holds(j)) packs[j] = *reinterpret_cast<const Pack<S, kWidth>*>(beyond(from, offset[j]));
  }

  __device__ __forceinline__ void load(Values<S, kModels, kWidth>& values) const {
    load(x, values.x);
#pragma unroll
    for (int k = 0; k < kScores; ++k) load(score[k], values.score[k]);
  }

  __device__ __forceinline__ void store(const Pack<S, kWidth> (&packs)[4]) const {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (holds(j)) *reinterpret_cast<Pack<S, kWidth>*>(beyond(moved, offset[j])) = packs[j];
  }
};

// Adds the drifts of the second and later models of a launch with any number of them.
template <class S, int kWidth, class T>
__device__ __forceinline__ void add_drifts(const PropagateJob<S>& job, const Cursor<S, kAny, kWidth>& at,
                                           const Parent& parent, T (&m)[4][kWidth]) {
  for (int k = 1; k < job.models; ++k) {
    Pack<S, kWidth> score[4];
    at.load(job.scores[k] + (at.x - job.x), score);
    const T drift = static_cast<T>(parent.coefficients[k]);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (!at.holds(j)) break;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) m[j][i] = add(m[j][i], mul(drift, score[j].template get<T>(i)));
    }
  }
}

// The share of this thread in one row: every kTeam-th group of kWidth blocks. `moving` counts the elements that the
// mask lets move, where there is one.
template <class S, int kModels, int kTeam, int kWidth>
__device__ __forceinline__ Moments move_row(const PropagateJob<S>& job, uint32_t row, const Parent& parent,
                                            const Stream& stream, int& moving) {
  using T = typename PropagateJob<S>::T;
  constexpr int kDrifts = kModels == kAny ? 1 : kModels;
  Cursor<S, kModels, kWidth> at(job, row, parent, threadIdx.x % kTeam * kWidth);
  Moments moments{parent.named ? 0.0 : bits_to_double(0x7ff8000000000000), 0, 0};
  if (!at.inside()) return moments;
  Values<S, kModels, kWidth> values;
  at.load(values);

  T drift[kDrifts];
#pragma unroll
  for (int k = 0; k < kDrifts; ++k) drift[k] = static_cast<T>(parent.coefficients[k]);
  const T scale = static_cast<T>(sqrt(parent.coefficients[kModels == kAny ? job.models : kModels]));
  const bool masked = kModels == kAny && job.mask != nullptr;
  const uint8_t* mask = job.mask + parent.population * job.elements;

#pragma unroll 1
  while (true) {
    T m[4][kWidth], moved[4][2], zz = 0, mz = 0, mm = 0;
    const auto drifts = [&](int i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (!at.holds(j)) break;
        m[j][i] = mul(drift[0], values.score[0][j].template get<T>(i));
#pragma unroll
        for (int k = 1; k < kDrifts; ++k)
          m[j][i] = add(m[j][i], mul(drift[k], values.score[k][j].template get<T>(i)));
      }
    };
    if constexpr (kModels == kAny) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) drifts(i);
      add_drifts(job, at, parent, m);
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const Normals normals =
          normals_of(at.block + i, stream.step, stream.particle, stream.word, stream.seed, at.holds(2));
      if constexpr (kModels != kAny) drifts(i);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (!at.holds(j)) break;
        const bool moves = !masked || mask[j * at.blocks + at.block + i] != 0;
        const T shift = moves ? m[j][i] : T{0}, z = moves ? static_cast<T>(normals.word[j]) : T{0};
        moved[j][i % 2] = add(add(values.x[j].template get<T>(i), shift), mul(scale, z));
        zz = fused(z, z, zz);
        mz = fused(shift, z, mz);
        mm = fused(shift, shift, mm);
        moving += masked && moves;
        // in place of what was read, two at a time
        if (kWidth == 1 || i % 2 == 1) values.x[j].put(i, moved[j]);
      }
    }
    at.store(values.x);
    // the products of one turn are summed in T, the rest in double, so that the error does not grow with d
    moments.noise += zz;
    moments.cross += mz;
    moments.shift += mm;
    at.advance(kTeam * kWidth);
    if (!at.inside()) return moments;
    at.load(values);
  }
}

__device__ __forceinline__ double log_ratio(const Moments& moments, double v_m, double v_l, double moving) {
  return 0.5 * (1.0 - v_m / v_l) * moments.noise - sqrt(v_m) / v_l * moments.cross - 0.5 / v_l * moments.shift +
         0.5 * moving * log(v_m / v_l);
}

// Sums over a team. The first thread of the team gets the result.
template <int kTeam, class Value, class Combine>
__device__ __forceinline__ Value team_sum(Value value, const Combine& combine) {
  if constexpr (kTeam <= kWarp) {
    return warp_reduce<kTeam>(value, combine);
  } else {
    constexpr int kWarps = kTeam / kWarp;
    __shared__ Value shared[kWarps];
    value = warp_reduce(value, combine);
    if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
    __syncthreads();
    if (threadIdx.x == 0)
      for (int warp = 1; warp < kWarps; ++warp) value = combine(value, shared[warp]);
    return value;
  }
}

// A team of kTeam threads takes a row: part of a warp, a warp, or the block.
template <class S, int kModels, int kTeam, int kWidth>
__global__ void __launch_bounds__(kThreads, kResident<S, kModels, kTeam>) propagate_kernel(PropagateJob<S> job) {
  const uint32_t row = blockIdx.x * (kThreads / kTeam) + threadIdx.x / kTeam;
  Parent parent{};
  Moments moments{0, 0, 0};
  int moving = 0;
  // threads beyond the last row still take part in the shuffles
  if (row < job.rows) {
    Stream stream;
    parent = parent_of(job, row, stream);
    moments = move_row<S, kModels, kTeam, kWidth>(job, row, parent, stream, moving);
  }
  moments = team_sum<kTeam>(moments, [](const Moments& a, const Moments& b) {
    return Moments{a.noise + b.noise, a.cross + b.cross, a.shift + b.shift};
  });
  double moved = static_cast<double>(job.elements);
  if (kModels == kAny && job.mask != nullptr)
    moved = team_sum<kTeam>(moving, [](int a, int b) { return a + b; });
  if (row < job.rows && threadIdx.x % kTeam == 0) {
    const double* v = parent.coefficients + job.models;
    job.ratio[row] = static_cast<typename PropagateJob<S>::T>(log_ratio(moments, v[0], v[1], moved));
  }
}

}  // namespace edmfast
