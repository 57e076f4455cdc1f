// Standard normals from counters: like [P, N, d] -> normals of its shape and dtype.
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>

#include "../include/arguments.h"
#include "../include/library.h"
#include "noise_tile.h"
#include "parallel.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Samples of at most four elements take one block each, and word j is element j.
template <int kElements, class T>
EDMFAST_HD void interleave(const float* normals, int64_t rows, T* out) {
  for (int64_t r = 0; r < rows; ++r)
    for (int j = 0; j < kElements; ++j) out[r * kElements + j] = static_cast<T>(normals[j * kTile + r]);
}

template <class T>
EDMFAST_HD void interleave_any(const float* normals, int64_t rows, int64_t elements, T* out) {
  switch (elements) {
    case 1: return interleave<1>(normals, rows, out);
    case 2: return interleave<2>(normals, rows, out);
    case 3: return interleave<3>(normals, rows, out);
    default: return interleave<4>(normals, rows, out);
  }
}

EDMFAST_MULTIVERSION void store_points(const float* normals, int64_t rows, int64_t elements, float* out) {
  interleave_any(normals, rows, elements, out);
}
EDMFAST_MULTIVERSION void store_points(const float* normals, int64_t rows, int64_t elements, double* out) {
  interleave_any(normals, rows, elements, out);
}

Tensor noise(Tensor like, Tensor rng, int64_t stream, int64_t first_population, int64_t first_particle) {
  STD_TORCH_CHECK(like.dim() == 3, "like must be [P, N, d], got ", shape_text(like));
  STD_TORCH_CHECK(stream >= 0 && stream < 16, "stream must be in 0 to 15, got ", stream);
  check_populations(first_population, like.size(0));
  check_particles(first_particle, like.size(1));
  rng = checked_rng(rng, like);
  const int64_t populations = like.size(0), particles = like.size(1), elements = like.size(2);
  Tensor out = torch::stable::new_empty(like, {populations, particles, elements});
  const int64_t* state = static_cast<const int64_t*>(rng.data_ptr());
  const int64_t blocks = blocks_of(elements);

  const auto run = [&](auto sample) {
    using T = decltype(sample);
    T* result = static_cast<T*>(out.data_ptr());
    const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, elements));
    in_parallel(populations * particles, grain, [&](int64_t begin, int64_t end) {
      for_each_tile(begin, end, particles, elements, state, stream, first_population, first_particle,
                    [&](int64_t row, int64_t rows, int64_t first_block, int64_t size, const float* normals) {
                      if (blocks == 1) return store_points(normals, rows, elements, result + row * elements);
                      for (int64_t r = 0; r < rows; ++r) {
                        T* sample = result + (row + r) * elements + first_block;
                        for (int64_t j = 0; j < 4; ++j) {
                          const int64_t count = std::min(size, elements - j * blocks - first_block);
                          if (count > 0) std::copy_n(normals + j * kTile + r * size, count, sample + j * blocks);
                        }
                      }
                    },
                    [](int64_t, int64_t, int64_t) { return Ahead{}; });
    });
  };
  if (elements == 0 || populations == 0 || particles == 0) return out;
  if (like.scalar_type() == ScalarType::Float) {
    run(float{});
  } else if (like.scalar_type() == ScalarType::Double) {
    run(double{});
  } else {
    STD_TORCH_CHECK(false, "like must be float32 or float64, got ", like.scalar_type());
  }
  return out;
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CPU, m) { m.impl("noise", TORCH_BOX(&edmfast::noise)); }
