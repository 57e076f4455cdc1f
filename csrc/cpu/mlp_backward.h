// The derivative of energy and field of a block of rows; the formulas are in edmfast/ops/mlp_potential/reference.py.
// Tangents and primals lie one under the other, so that the last layers take both in one matrix product.
#pragma once
#include "mlp_kernels.h"
#include "mlp_network.h"

namespace edmfast {

// The gradients of the weights, summed over rows, in one piece of memory.
template <class T>
struct WeightGradients {
  std::vector<T> all;
  T *entry, *entry_bias, *layers, *exit, *exit_bias, *shifts;

  WeightGradients(const Sizes& s, bool shared_shifts)
      : all(2 * s.width * s.d + s.width + s.d + s.depth * s.width * s.width +
            (shared_shifts ? s.depth * s.width : 0)) {
    entry = all.data(), entry_bias = entry + s.width * s.d, layers = entry_bias + s.width;
    exit = layers + s.depth * s.width * s.width, exit_bias = exit + s.d * s.width;
    shifts = shared_shifts ? exit_bias + s.d : nullptr;
  }
  WeightGradients(WeightGradients&&) = default;  // a copy would point into the original
};

// The inputs and results of one block of one model, each from the first row of the block on.
template <class T>
struct BlockGradients {
  const T *x, *e, *v;
  T *to_x = nullptr, *to_numbers = nullptr;       // null unless requested; x is added to
  WeightGradients<T>* weights = nullptr;          // null unless requested
  T* to_shifts = nullptr;                         // [rows, depth W], null where rows share them
};

template <class T>
class Backward {
 public:
  Backward(const Sizes& sizes, int64_t rows, ScalarType dtype, bool weights)
      : sizes_(sizes), rows_(rows), dtype_(dtype), weights_(weights) {
    entries_ = pair(sizes.d), exits_ = pair(sizes.d), pulls_ = pair(sizes.width), moved_ = half(sizes.width);
    // the gradients of weights need the states of all layers; everything else needs only the last ones
    for (int64_t l = 0; l <= sizes.depth; ++l) {
      states_.push_back(weights || l < 2 ? pair(sizes.width) : states_[l - 2]);
    }
    for (int64_t l = 0; l < sizes.depth; ++l) {
      cotangents_.push_back(pair(sizes.width)), slopes_.push_back(half(sizes.width));
    }
  }

  void run(const Network& net, const Coefficients<T>& numbers, const BlockGradients<T>& job,
           const std::vector<Tensor>& saved) {
    ends(numbers, job);
    advance_all(net, saved);
    pull_all(net);
    if (job.to_x) inputs(net, numbers, job);
    if (job.weights) weights(job);
  }

 private:
  Tensor half(int64_t columns) const { return empty_cpu({rows_, columns}, dtype_); }
  Tensor pair(int64_t columns) const { return empty_cpu({2 * rows_, columns}, dtype_); }
  Tensor upper(const Tensor& both) const { return rows_of(both, 0, rows_); }
  Tensor lower(const Tensor& both) const { return rows_of(both, rows_, rows_); }

  // entries_ = (a v, y), exits_ = (w y, w (a v - e y)).
  void ends(const Coefficients<T>& numbers, const BlockGradients<T>& job) {
    const int64_t d = sizes_.d;
    T *along = data<T>(entries_), *y = along + rows_ * d, *u = data<T>(exits_), *n = u + rows_ * d;
    for (int64_t row = 0; row < rows_; ++row) {
      const T c = numbers.c[row], w = numbers.w[row], a = numbers.a[row], e = job.e[row];
      for (int64_t k = row * d; k < (row + 1) * d; ++k) {
        along[k] = a * job.v[k], y[k] = c * job.x[k];
        u[k] = w * y[k], n[k] = w * (along[k] - e * y[k]);
      }
    }
  }

  // states_ = (h'_l, h_l), upper cotangents_ = silu' g, which only weights need, lower cotangents_ = silu" z' g,
  // slopes_ = silu'.
  void advance_all(const Network& net, const std::vector<Tensor>& saved) {
    const int64_t n = rows_ * sizes_.width;
    product(upper(entries_), net.entry_t, upper(states_[0]));
    std::copy_n(data<T>(saved[0]), n, data<T>(states_[0], n));
    for (int64_t l = 0; l < sizes_.depth; ++l) {
      product(upper(states_[l]), net.layers_t[l], slopes_[l]);
      const T *z = data<T>(saved[1 + l]), *g = data<T>(saved[sizes_.depth + 2 + l]);
      T *now = data<T>(states_[l]), *next = data<T>(states_[l + 1]);
      T* p = data<T>(cotangents_[weights_ ? l : 0]);
      advance(z, data<T>(slopes_[l]), g, now + n, now, next + n, next, p, data<T>(cotangents_[l], n), n);
    }
    std::copy_n(data<T>(saved[sizes_.depth + 1]), n, data<T>(pulls_));
  }

  // Lower cotangents_ = q_l, lower pulls_ = m_0; their upper half is g_0.
  void pull_all(const Network& net) {
    const int64_t n = rows_ * sizes_.width;
    const Tensor m = lower(pulls_);
    product(lower(exits_), net.exit, m);
    const T* step = nullptr;
    for (int64_t l = sizes_.depth; l-- > 0;) {
      pull_onto(data<T>(m), step, data<T>(slopes_[l]), data<T>(cotangents_[l], n), n);
      product(lower(cotangents_[l]), net.layers[l], moved_);
      step = data<T>(moved_);
    }
    if (step != nullptr) add_rows(data<T>(m), step, 1, n, 0);
  }

  void inputs(const Network& net, const Coefficients<T>& numbers, const BlockGradients<T>& job) {
    const Tensor ends = pair(sizes_.d), starts = pair(sizes_.d);
    const int64_t n = rows_ * sizes_.d;
    product(states_[sizes_.depth], net.exit_t, ends);
    add_rows(data<T>(ends, n), data<T>(net.exit_bias), rows_, sizes_.d, 0);
    product(pulls_, net.entry, starts);
    InputRows<T> rows{rows_, sizes_.d, job.x, data<T>(entries_, n), job.v};
    rows.h = data<T>(ends, n), rows.along = data<T>(ends), rows.pulled = data<T>(starts);
    rows.to_y = data<T>(starts, n), rows.e = job.e;
    rows.c = numbers.c.data(), rows.w = numbers.w.data(), rows.a = numbers.a.data(), rows.b = numbers.b.data();
    rows.to_x = job.to_x, rows.to_numbers = job.to_numbers;
    input_rows(rows);
  }

  void weights(const BlockGradients<T>& job) {
    const int64_t width = sizes_.width, d = sizes_.d, n = rows_ * width;
    const WeightGradients<T>& to = *job.weights;
    add_product(pulls_, entries_, to.entry);
    sum_rows(to.entry_bias, data<T>(pulls_, n), rows_, width);
    for (int64_t l = 0; l < sizes_.depth; ++l) {
      add_product(cotangents_[l], states_[l], to.layers + l * width * width);
      const T* q = data<T>(cotangents_[l], n);
      if (to.shifts) sum_rows(to.shifts + l * width, q, rows_, width);
      if (job.to_shifts == nullptr) continue;
      for (int64_t row = 0; row < rows_; ++row) {
        std::copy_n(q + row * width, width, job.to_shifts + (row * sizes_.depth + l) * width);
      }
    }
    add_product(exits_, states_[sizes_.depth], to.exit);
    sum_rows(to.exit_bias, data<T>(exits_, rows_ * d), rows_, d);
  }

  // Tangents and primals are multiplied apart, because from a thousand rows on the bits of a product of MKL depend on
  // whether other threads are at work.
  void add_product(const Tensor& left, const Tensor& right, T* to) {
    const Tensor found = empty_cpu({left.size(1), right.size(1)}, dtype_);
    for (int64_t half = 0; half < 2; ++half) {
      product(transposed(rows_of(left, half * rows_, rows_)), rows_of(right, half * rows_, rows_), found);
      add_rows(to, data<T>(found), 1, left.size(1) * right.size(1), 0);
    }
  }

  const Sizes& sizes_;
  const int64_t rows_;
  const ScalarType dtype_;
  const bool weights_;
  Tensor entries_, exits_, pulls_, moved_;
  std::vector<Tensor> states_, cotangents_, slopes_;
};

}  // namespace edmfast
