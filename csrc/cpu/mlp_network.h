// Residual perceptrons of one shape: their weights for torch's matrix products, and the place of a block of rows.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "../include/arguments.h"
#include "allocate.h"
#include "gemm.h"
#include "parallel.h"

namespace edmfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The rows of a block; their slopes of eight layers of 128 numbers take 2 MB. Matrix libraries switch kernels for
// fewer rows than kLeast and for rows left over from kTile, which would change the bits of a sample.
constexpr int64_t kBlock = 512, kLeast = 32, kTile = 16;

// Whether our own kernel has multiplied.
template <class T>
bool multiplied(const Tensor& left, const Tensor& right, const Tensor& out) {
  if (!has_multiply() || right.stride(1) != 1 || out.stride(1) != 1) return false;
  multiply(Product<T>{left.size(0), right.size(1), left.size(1), static_cast<const T*>(left.data_ptr()),
                      left.stride(0), left.stride(1), static_cast<const T*>(right.data_ptr()), right.stride(0),
                      static_cast<T*>(out.data_ptr()), out.stride(0)});
  return true;
}

inline void product(const Tensor& left, const Tensor& right, const Tensor& out) {
  const bool single = left.scalar_type() == ScalarType::Float;
  if (single ? multiplied<float>(left, right, out) : multiplied<double>(left, right, out)) return;
  std::array<StableIValue, 3> stack{torch::stable::detail::from(left), torch::stable::detail::from(right),
                                    torch::stable::detail::from(out)};
  STD_TORCH_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION) == 0, "mm failed");
  // the dispatcher returns a reference to out, which we must release
  torch::stable::detail::to<Tensor>(stack[0]);
}

template <class T>
T* data(const Tensor& tensor, int64_t offset = 0) {
  return static_cast<T*>(tensor.data_ptr()) + offset;
}

inline Tensor transposed(const Tensor& matrix) { return torch::stable::transpose(matrix, 0, 1); }

// The transposed matrix in memory of its own, whose rows our kernel reads.
inline Tensor turned(const Tensor& matrix) { return torch::stable::contiguous(transposed(matrix)); }

inline Tensor rows_of(const Tensor& matrix, int64_t first, int64_t count) {
  Tensor whole = matrix;
  return torch::stable::narrow(whole, 0, first, count);
}

// Contiguous and unknown to autograd, because worker threads do not know that nothing is to be recorded.
inline Tensor plain(const Tensor& tensor) {
  std::array<StableIValue, 1> stack{torch::stable::detail::from(torch::stable::contiguous(tensor))};
  STD_TORCH_CHECK(torch_call_dispatcher("aten::detach", "", stack.data(), TORCH_ABI_VERSION) == 0, "detach failed");
  return torch::stable::detail::to<Tensor>(stack[0]);
}

struct Network {
  Tensor shifts;                              // [B or 1, depth W]
  Tensor entry, entry_bias, exit, exit_bias;  // [W, d], [W], [d, W], [d]
  std::vector<Tensor> layers;                 // [W, W]
  Tensor entry_t, exit_t;
  std::vector<Tensor> layers_t;
};

using Tensors = std::vector<Tensor>;

struct Sizes {
  int64_t models, batch, d, width, depth;

  // The states saved for each model and row: h_0, z_l of all layers, g_0 to g_depth.
  int64_t slots() const { return 2 * depth + 2; }
};

inline Sizes sizes_of(const Tensor& x, const Tensors& entry, const Tensors& layers) {
  const int64_t models = static_cast<int64_t>(entry.size()), all = static_cast<int64_t>(layers.size());
  STD_TORCH_CHECK(models >= 1 && all % models == 0, "at least one network, all of one depth, are needed, got ", models,
                  " networks and ", all, " layers");
  STD_TORCH_CHECK(x.dim() == 2, "x must be [B, d], got ", shape_text(x));
  STD_TORCH_CHECK(entry[0].dim() == 2, "every entry must be [W, d], got ", shape_text(entry[0]));
  return {models, x.size(0), x.size(1), entry[0].size(0), all / models};
}

// Throws unless every tensor has the sizes, the dtype and the device with which it is read.
inline void check_networks(const Sizes& s, const Tensor& x, const Tensor& coefficients, const Tensors& shifts,
                           const Tensors& entry, const Tensors& entry_bias, const Tensors& layers,
                           const Tensors& exit, const Tensors& exit_bias) {
  const ScalarType dtype = x.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, "x must be float32 or float64, got ",
                  dtype);
  const auto all = [&](const Tensors& list, const char* name, int64_t count, SizeList sizes) {
    STD_TORCH_CHECK(static_cast<int64_t>(list.size()) == count, count, " tensors are needed where ", name,
                    " is, got ", list.size());
    for (const Tensor& tensor : list) check_tensor(tensor, name, dtype, sizes, x);
  };
  check_tensor(x, "x", dtype, {s.batch, s.d}, x);
  STD_TORCH_CHECK(coefficients.dim() == 3, "coefficients must be [K, B, 4], got ", shape_text(coefficients));
  check_tensor(coefficients, "coefficients", dtype, {s.models, coefficients.size(1) == 1 ? 1 : s.batch, 4}, x);
  const bool shared = !shifts.empty() && shifts[0].dim() == 2 && shifts[0].size(0) == 1;
  all(shifts, "every shift", s.models, {shared ? 1 : s.batch, s.depth * s.width});
  all(entry, "every entry", s.models, {s.width, s.d});
  all(entry_bias, "every entry bias", s.models, {s.width});
  all(layers, "every layer", s.models * s.depth, {s.width, s.width});
  all(exit, "every exit", s.models, {s.d, s.width});
  all(exit_bias, "every exit bias", s.models, {s.d});
}

inline std::vector<Network> networks(const Tensors& shifts, const Tensors& entry, const Tensors& entry_bias,
                                     const Tensors& layers, const Tensors& exit, const Tensors& exit_bias) {
  const size_t models = entry.size(), depth = layers.size() / models;
  std::vector<Network> found;
  for (size_t k = 0; k < models; ++k) {
    Network net{plain(shifts[k]), plain(entry[k]), plain(entry_bias[k]), plain(exit[k]), plain(exit_bias[k])};
    net.entry_t = turned(net.entry), net.exit_t = turned(net.exit);
    for (size_t l = 0; l < depth; ++l) {
      net.layers.push_back(plain(layers[k * depth + l]));
      net.layers_t.push_back(turned(net.layers.back()));
    }
    found.push_back(std::move(net));
  }
  return found;
}

// (c, w, a, b) of the rows of a block.
template <class T>
struct Coefficients {
  std::vector<T> c, w, a, b;

  Coefficients(const Tensor& all, int64_t model, int64_t first, int64_t rows) : c(rows), w(rows), a(rows), b(rows) {
    const bool one = all.size(1) == 1;
    const T* from = data<T>(all, 4 * (model * all.size(1) + (one ? 0 : first)));
    for (int64_t row = 0; row < rows; ++row) {
      const T* four = from + (one ? 0 : 4 * row);
      c[row] = four[0], w[row] = four[1], a[row] = four[2], b[row] = four[3];
    }
  }
};

}  // namespace edmfast
