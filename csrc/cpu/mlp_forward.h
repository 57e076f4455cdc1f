// A block of rows passes forward and back through all layers while its activations are in the second-level cache.
#pragma once
#include "mlp_kernels.h"
#include "mlp_network.h"
#include "potential_kernels.h"

namespace edmfast {

// The place of the saved states of a block: slot s of a model starts at its row s * batch + first.
struct Saved {
  Tensor all;  // [models slots batch, W], or of one block of one model
  int64_t batch = 0, first = 0;

  Tensor slot(int64_t index, int64_t rows) const { return rows_of(all, index * batch + first, rows); }
};

template <class T>
class Forward {
 public:
  Forward(const Sizes& sizes, int64_t rows) : sizes_(sizes), rows_(rows) {}

  // Writes energy and field of x, all from their first row on.
  void run(const Network& net, const T* x, const Coefficients<T>& numbers, int64_t first, T* energy, T* field,
           const Saved* saved) {
    const ScalarType dtype = net.entry.scalar_type();
    const int64_t d = sizes_.d;
    const Tensor y = empty_cpu({rows_, d}, dtype), out = empty_cpu({rows_, d}, dtype);
    const Tensor cotangent = empty_cpu({rows_, d}, dtype);
    T* to_y = data<T>(y);
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t k = 0; k < d; ++k) to_y[row * d + k] = numbers.c[row] * x[row * d + k];
    }
    forward(net, y, first, out, saved);
    PotentialRows<T> job{rows_, d, data<T>(out), to_y, numbers.w.data()};
    job.to_energy = energy, job.to_cotangent = data<T>(cotangent);
    potential_rows(job);
    const Tensor pulled = backward(net, cotangent, saved);
    if (field == nullptr) return;
    product(pulled, net.entry, cotangent);
    // cotangent holds J_hᵀ (w y) now, and the field is a (w h + J_hᵀ (w y)) + b y
    std::vector<T> triples(3 * rows_);
    for (int64_t row = 0; row < rows_; ++row) {
      triples[3 * row] = numbers.a[row] * numbers.w[row];
      triples[3 * row + 1] = numbers.a[row], triples[3 * row + 2] = numbers.b[row];
    }
    AssembleRows<T> last{rows_, d, data<T>(out), data<T>(cotangent), to_y, triples.data()};
    last.out = field;
    assemble_rows(last);
  }

 private:
  void forward(const Network& net, const Tensor& y, int64_t first, const Tensor& out, const Saved* saved) {
    const int64_t width = sizes_.width, depth = sizes_.depth, n = rows_ * width;
    const ScalarType dtype = y.scalar_type();
    hidden_ = empty_cpu({rows_, width}, dtype);
    product(y, net.entry_t, hidden_);
    add_rows(data<T>(hidden_), data<T>(net.entry_bias), rows_, width, 0);
    if (saved) std::copy_n(data<T>(hidden_), n, data<T>(saved->slot(0, rows_)));
    const int64_t stride = net.shifts.size(0) == 1 ? 0 : depth * width;
    for (int64_t l = 0; l < depth; ++l) {
      slopes_.push_back(empty_cpu({rows_, width}, dtype));
      const Tensor z = saved ? saved->slot(1 + l, rows_) : slopes_[l];
      product(hidden_, net.layers_t[l], z);
      const T* shift = data<T>(net.shifts, stride * first + l * width);
      activate(data<T>(hidden_), data<T>(z), data<T>(slopes_[l]), shift, stride, rows_, width);
    }
    product(hidden_, net.exit_t, out);
    add_rows(data<T>(out), data<T>(net.exit_bias), rows_, sizes_.d, 0);
  }

  // Returns the cotangent of h_0 from the cotangent of the output.
  Tensor backward(const Network& net, const Tensor& cotangent, const Saved* saved) {
    const int64_t n = rows_ * sizes_.width;
    const Tensor moved = empty_cpu({rows_, sizes_.width}, cotangent.scalar_type());
    product(cotangent, net.exit, hidden_);
    const T* step = nullptr;
    for (int64_t l = sizes_.depth; l-- > 0;) {
      pull(data<T>(hidden_), step, data<T>(slopes_[l]), data<T>(slopes_[l]), n);
      keep(l + 1, saved);
      product(slopes_[l], net.layers[l], moved);
      step = data<T>(moved);
    }
    if (step != nullptr) add_rows(data<T>(hidden_), step, 1, n, 0);
    keep(0, saved);
    return hidden_;
  }

  void keep(int64_t level, const Saved* saved) {
    if (!saved) return;
    std::copy_n(data<T>(hidden_), rows_ * sizes_.width, data<T>(saved->slot(1 + sizes_.depth + level, rows_)));
  }

  const Sizes& sizes_;
  const int64_t rows_;
  Tensor hidden_;
  std::vector<Tensor> slopes_;
};

}  // namespace edmfast
