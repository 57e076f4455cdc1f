// out = sum_k c_k T_k + sum_m w_m z(seed, node_m) in one pass: tensors of one shape [B, *shape], and normals of
// counters that are drawn a tile at a time.
#include <algorithm>
#include <optional>
#include <vector>

#include "../include/arguments.h"
#include "../include/library.h"
#include "allocate.h"
#include "linear_combination.h"
#include "linear_combination_kernels.h"
#include "parallel.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Adds noise to samples in tiles of at most kTile counters: several whole rows, or a piece of a large row.
template <class S>
class Tiles {
 public:
  using T = typename Terms<S>::T;

  Tiles(const Terms<S>& terms, const CombinationNoise& noise, int64_t rows, int64_t elements, S* out)
      : terms_(terms), noise_(noise), rows_(rows), elements_(elements), blocks_(blocks_of(elements)), out_(out) {
    pieces_ = (blocks_ + kTile - 1) / kTile;
    // a tile has one key
    rows_of_tile_ = noise.each ? 1 : std::max<int64_t>(1, kTile / blocks_);
    fill_offsets(offsets_, 0, rows_of_tile_, std::min(blocks_, kTile), rows_of_tile_);
  }

  int64_t count() const { return (rows_ + rows_of_tile_ - 1) / rows_of_tile_ * pieces_; }

  void run(int64_t tile) const {
    const int64_t row = tile / pieces_ * rows_of_tile_, block = tile % pieces_ * kTile;
    const int64_t rows = std::min(rows_of_tile_, rows_ - row), size = std::min(kTile, blocks_ - block);
    Segment segments[4];
    int parts = 0;
    if (pieces_ == 1) {
      segments[parts++] = {row * elements_, rows * elements_};
    } else {
      for (int64_t j = 0; j < 4; ++j) {
        const int64_t at = j * blocks_ + block, n = std::min(size, elements_ - at);
        if (n > 0) segments[parts++] = {row * elements_ + at, n};
      }
    }
    T sum[4 * kTile];
    for (int s = 0; s < parts; ++s) start_sum(terms_, segments[s].first, segments[s].count, sum + s * kTile);
    const int pairs = elements_ <= 2 ? 1 : 2;
    Bits bits;
    float normals[4 * kTile], ordered[4 * kTile];
    for (int64_t m = 0; m < noise_.count; ++m) {
      philox_tile(offsets_, noise_.start(m, row, block), noise_.key(row), rows * size, pairs, Ahead{}, bits);
      normal_tile(bits, rows * size, pairs, normals);
      if (pieces_ == 1) rows_in_order(normals, rows, size, elements_, ordered);
      const float* const z = pieces_ == 1 ? ordered : normals;
      const T weight = static_cast<T>(noise_.weights[m]);
      for (int s = 0; s < parts; ++s) {
        const int64_t at = s * kTile, n = segments[s].count;
        if (m + 1 < noise_.count) {
          add_noise(sum + at, weight, z + at, n);
        } else {
          finish_sum(sum + at, weight, z + at, n, out_ + segments[s].first);
        }
      }
    }
  }

 private:
  struct Segment {
    int64_t first, count;
  };
  const Terms<S>& terms_;
  const CombinationNoise& noise_;
  int64_t rows_, elements_, blocks_, pieces_, rows_of_tile_;
  S* out_;
  Offsets offsets_;
};

template <class S>
void run(const Terms<S>& terms, const CombinationNoise* noise, int64_t rows, int64_t elements, S* out) {
  if (noise == nullptr || noise->count == 0) {
    in_parallel(rows * elements, 32768, [&](int64_t begin, int64_t end) {
      sum_terms(terms, begin, end - begin, out + begin);
    });
    return;
  }
  const Tiles<S> tiles(terms, *noise, rows, elements, out);
  const int64_t cost = std::max<int64_t>(1, rows * elements / tiles.count()) * noise->count;
  in_parallel(tiles.count(), std::max<int64_t>(1, 8192 / cost), [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) tiles.run(tile);
  });
}

bool same_strides(const Tensor& a, const Tensor& b) {
  for (int64_t i = 0; i < a.dim(); ++i)
    if (a.stride(i) != b.stride(i)) return false;
  return true;
}

Tensor linear_combination(std::vector<Tensor> tensors, Tensor coefficients, std::optional<Tensor> seeds,
                          std::optional<Tensor> nodes, std::optional<Tensor> weights, int64_t stream,
                          int64_t first_sample) {
  const int64_t terms = static_cast<int64_t>(tensors.size());
  STD_TORCH_CHECK(terms >= 1 && terms <= kMaxTerms, "1 to 8 tensors are needed, got ", terms);
  const Tensor like = tensors[0];
  const int64_t dims = like.dim();
  STD_TORCH_CHECK(dims >= 1, "every tensor must be [B, *shape], got no dimensions");
  bool alike = true;
  for (const Tensor& tensor : tensors) {
    STD_TORCH_CHECK(tensor.scalar_type() == like.scalar_type(), "all tensors must have one dtype, got ",
                    like.scalar_type(), " and ", tensor.scalar_type());
    STD_TORCH_CHECK(tensor.dim() == dims, "all tensors must have one shape, got ", shape_text(like), " and ",
                    shape_text(tensor));
    for (int64_t i = 0; i < dims; ++i)
      STD_TORCH_CHECK(tensor.size(i) == like.size(i), "all tensors must have one shape, got ", shape_text(like),
                      " and ", shape_text(tensor));
    STD_TORCH_CHECK(on_device_of(tensor, like), "all tensors must be on one device");
    STD_TORCH_CHECK(has_memory(tensor), "a tensor has less memory than its shape needs");
    alike = alike && same_strides(tensor, like);
  }
  coefficients = taken(coefficients, "coefficients", ScalarType::Double, {terms}, like);
  STD_TORCH_CHECK(seeds.has_value() == nodes.has_value() && seeds.has_value() == weights.has_value(),
                  "seeds, nodes and weights are needed together");
  const int64_t rows = like.size(0), elements = rows > 0 ? like.numel() / rows : 0;
  CombinationNoise noise{nullptr, nullptr, nullptr, 0, stream, first_sample, false};
  if (seeds) {
    STD_TORCH_CHECK(stream >= 0 && stream < 16, "stream must be in 0 to 15, got ", stream);
    check_particles(first_sample, rows);
    STD_TORCH_CHECK(elements < int64_t{1} << 34, "one sample has too many elements: ", elements);
    STD_TORCH_CHECK(seeds->dim() == 1 && (seeds->size(0) == 1 || seeds->size(0) == rows), "seeds must be [1] or [B] = [",
                    rows, "], got ", shape_text(*seeds));
    STD_TORCH_CHECK(nodes->dim() == 1, "nodes must be [M], got ", shape_text(*nodes));
    noise.each = seeds->size(0) != 1, noise.count = nodes->size(0);
    STD_TORCH_CHECK(!noise.each || first_sample == 0, "first_sample counts samples of one seed, got ", first_sample,
                    " and seeds ", shape_text(*seeds));
    seeds = taken(*seeds, "seeds", ScalarType::Long, {seeds->size(0)}, like);
    nodes = taken(*nodes, "nodes", ScalarType::Long, {noise.count}, like);
    weights = taken(*weights, "weights", ScalarType::Double, {noise.count}, like);
    noise.seeds = static_cast<const int64_t*>(seeds->data_ptr());
    noise.nodes = static_cast<const int64_t*>(nodes->data_ptr());
    noise.weights = static_cast<const double*>(weights->data_ptr());
  }
  // the place of an element in memory is its place in the sample only where the memory is contiguous
  std::vector<int64_t> sizes(dims), strides(dims);
  for (int64_t i = 0; i < dims; ++i) sizes[i] = like.size(i), strides[i] = like.stride(i);
  if (seeds || !alike || !fills_memory(dims, sizes.data(), strides.data())) {
    for (Tensor& tensor : tensors) tensor = torch::stable::contiguous(tensor);
    for (int64_t i = dims - 1, stride = 1; i >= 0; --i) {
      strides[i] = stride;
      stride *= std::max<int64_t>(1, sizes[i]);
    }
  }
  Tensor out = empty_cpu_strided(dims, sizes.data(), strides.data(), rows * elements, like.scalar_type());
  Combination all{{}, {}, static_cast<int>(terms), like.scalar_type(), rows, elements, seeds ? &noise : nullptr,
                  out.data_ptr()};
  for (int64_t k = 0; k < terms; ++k) {
    all.tensors[k] = tensors[k].data_ptr();
    all.coefficients[k] = static_cast<const double*>(coefficients.data_ptr())[k];
  }
  combine(all);
  return out;
}

}  // namespace

bool fills_memory(int64_t dims, const int64_t* sizes, const int64_t* strides) {
  std::vector<std::pair<int64_t, int64_t>> axes;
  int64_t dense = 1;
  for (int64_t i = dims - 1; i >= 0; --i) {
    if (sizes[i] == 1) continue;
    if (axes.empty() && strides[i] == dense) {
      dense *= sizes[i];  // the usual order needs no memory
    } else {
      axes.emplace_back(strides[i], sizes[i]);
    }
  }
  if (axes.empty()) return true;
  std::sort(axes.begin(), axes.end());
  for (const auto& [stride, size] : axes) {
    if (stride != dense) return false;
    dense *= size;
  }
  return true;
}

void combine(const Combination& all) {
  if (all.rows * all.elements == 0) return;
  const auto start = [&](auto sample) {
    using S = decltype(sample);
    Terms<S> terms{{}, {}, all.terms};
    for (int k = 0; k < all.terms; ++k) {
      terms.tensors[k] = static_cast<const S*>(all.tensors[k]);
      terms.coefficients[k] = static_cast<typename Terms<S>::T>(all.coefficients[k]);
    }
    run(terms, all.noise, all.rows, all.elements, static_cast<S*>(all.out));
  };
  switch (all.dtype) {
    case ScalarType::Float: return start(float{});
    case ScalarType::Double: return start(double{});
    case ScalarType::Half: return start(Half{});
    case ScalarType::BFloat16: return start(BFloat16{});
    default: STD_TORCH_CHECK(false, "tensors must be float16, bfloat16, float32 or float64, got ", all.dtype);
  }
}

}  // namespace edmfast

EDMFAST_KERNELS(CPU, m) { m.impl("linear_combination", TORCH_BOX(&edmfast::linear_combination)); }
