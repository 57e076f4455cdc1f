// Energy, field and second derivative along a direction for a block of rows; the formulas are in
// edmfast/ops/mlp_potential/reference.py. Tangents lie under primals, so that one product takes both forward, and the
// cotangents of the field meet the curvature of every layer on their way back. Nothing is saved beyond the block.
#pragma once
#include "mlp_kernels.h"
#include "mlp_network.h"
#include "potential_kernels.h"

namespace edmfast {

// Takes rows of n numbers of a layer, with z' = W h' in `step`. With v = z + shift: h += silu(v), h' += silu'(v) z',
// z = silu'(v), and z' = silu"(v) z'^2. Shifts are `stride` apart; a stride of 0 means that all rows share them.
template <class T>
EDMFAST_HD void bend_body(T* __restrict h, T* __restrict along, T* __restrict z, T* __restrict step, const T* shifts,
                          int64_t stride, int64_t rows, int64_t n) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* __restrict shift = shifts + row * stride;
    const int64_t start = row * n;
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) {
      const T v = z[start + k] + shift[k], moved = step[start + k];
      const T s = sigmoid(v), rest = s * (T{1} - s), slope = s + v * rest;
      h[start + k] += v * s;
      along[start + k] += slope * moved;
      z[start + k] = slope;
      step[start + k] = rest * (T{2} + v * (T{1} - (s + s))) * moved * moved;
    }
  }
}

// g += d, unless d is null, then t = g s, and <g, bends> is added to the sum of every row. t may be s.
template <class T>
EDMFAST_HD void pull_bent_body(T* __restrict g, const T* __restrict d, const T* s, const T* __restrict bends, T* t,
                               double* __restrict sums, int64_t rows, int64_t n) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t start = row * n;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = start; k < start + n; ++k) {
      const T total = d == nullptr ? g[k] : g[k] + d[k];
      g[k] = total;
      t[k] = total * s[k];
      sum += static_cast<double>(total) * bends[k];
    }
    sums[row] += sum;
  }
}

// c (a (sum + 2 w <h', v>) + b |v|^2) of every row, where w is already in `sums`.
template <class T>
EDMFAST_HD void close_probe_body(const T* __restrict along, const T* __restrict v, const T* c, const T* w, const T* a,
                                 const T* b, const double* sums, double* __restrict to, int64_t rows, int64_t n) {
  for (int64_t row = 0; row < rows; ++row) {
    double inner = 0, square = 0;
#pragma omp simd reduction(+ : inner, square)
    for (int64_t k = row * n; k < (row + 1) * n; ++k) {
      const double wide = v[k];
      inner += wide * along[k];
      square += wide * wide;
    }
    to[row] = c[row] * (a[row] * (sums[row] + 2 * (w[row] * inner)) + b[row] * square);
  }
}

#define EDMFAST_PROBE(T)                                                                                            \
  EDMFAST_MULTIVERSION inline void bend(T* h, T* along, T* z, T* step, const T* shifts, int64_t stride, int64_t rows, \
                                        int64_t n) {                                                                \
    bend_body(h, along, z, step, shifts, stride, rows, n);                                                          \
  }                                                                                                                 \
  EDMFAST_MULTIVERSION inline void pull_bent(T* g, const T* d, const T* s, const T* bends, T* t, double* sums,      \
                                             int64_t rows, int64_t n) {                                             \
    pull_bent_body(g, d, s, bends, t, sums, rows, n);                                                               \
  }                                                                                                                 \
  EDMFAST_MULTIVERSION inline void close_probe(const T* along, const T* v, const T* c, const T* w, const T* a,      \
                                               const T* b, const double* sums, double* to, int64_t rows,            \
                                               int64_t n) {                                                         \
    close_probe_body(along, v, c, w, a, b, sums, to, rows, n);                                                      \
  }
EDMFAST_PROBE(float)
EDMFAST_PROBE(double)
#undef EDMFAST_PROBE

template <class T>
class Probe {
 public:
  Probe(const Sizes& sizes, int64_t rows, ScalarType dtype)
      : sizes_(sizes), rows_(rows), starts_(pair(sizes.d, dtype)), ends_(pair(sizes.d, dtype)),
        states_(pair(sizes.width, dtype)), cotangent_(empty_cpu({rows, sizes.d}, dtype)),
        moved_(empty_cpu({rows, sizes.width}, dtype)), sums_(rows) {
    for (int64_t l = 0; l < sizes.depth; ++l) layers_.push_back(pair(sizes.width, dtype));
  }

  // Writes energy, field and second derivative of x along v, all from their first row on.
  void run(const Network& net, const T* x, const T* v, const Coefficients<T>& numbers, int64_t first, T* energy,
           T* field, double* bent) {
    const int64_t d = sizes_.d, n = rows_ * d;
    T *y = data<T>(starts_), *out = data<T>(ends_);
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t k = 0; k < d; ++k) y[row * d + k] = numbers.c[row] * x[row * d + k];
    }
    std::copy_n(v, n, y + n);
    forward(net, first);
    PotentialRows<T> job{rows_, d, out, y, numbers.w.data()};
    job.to_energy = energy, job.to_cotangent = data<T>(cotangent_);
    potential_rows(job);
    backward(net);
    close_probe(out + n, v, numbers.c.data(), numbers.w.data(), numbers.a.data(), numbers.b.data(), sums_.data(), bent,
                rows_, d);
    std::vector<T> triples(3 * rows_);
    for (int64_t row = 0; row < rows_; ++row) {
      triples[3 * row] = numbers.a[row] * numbers.w[row];
      triples[3 * row + 1] = numbers.a[row], triples[3 * row + 2] = numbers.b[row];
    }
    AssembleRows<T> last{rows_, d, out, data<T>(cotangent_), y, triples.data()};
    last.out = field;
    assemble_rows(last);
  }

 private:
  Tensor pair(int64_t columns, ScalarType dtype) const { return empty_cpu({2 * rows_, columns}, dtype); }
  Tensor upper(const Tensor& both) const { return rows_of(both, 0, rows_); }

  // states_ = (h_L, h'_L), ends_ = (h, h'), layers_ = (silu', silu" z'^2).
  void forward(const Network& net, int64_t first) {
    const int64_t width = sizes_.width, n = rows_ * width;
    product(starts_, net.entry_t, states_);
    T* h = data<T>(states_);
    add_rows(h, data<T>(net.entry_bias), rows_, width, 0);
    const int64_t stride = net.shifts.size(0) == 1 ? 0 : sizes_.depth * width;
    for (int64_t l = 0; l < sizes_.depth; ++l) {
      product(states_, net.layers_t[l], layers_[l]);
      T* z = data<T>(layers_[l]);
      bend(h, h + n, z, z + n, data<T>(net.shifts, stride * first + l * width), stride, rows_, width);
    }
    product(states_, net.exit_t, ends_);
    add_rows(data<T>(ends_), data<T>(net.exit_bias), rows_, sizes_.d, 0);
  }

  // Leaves J_hᵀ u in cotangent_, and in sums_ what the curvature of the layers adds along the direction.
  void backward(const Network& net) {
    const int64_t n = rows_ * sizes_.width;
    const Tensor g = upper(states_);
    product(cotangent_, net.exit, g);
    std::fill(sums_.begin(), sums_.end(), 0.0);
    const T* step = nullptr;
    for (int64_t l = sizes_.depth; l-- > 0;) {
      T* slope = data<T>(layers_[l]);
      pull_bent(data<T>(g), step, slope, slope + n, slope, sums_.data(), rows_, sizes_.width);
      product(upper(layers_[l]), net.layers[l], moved_);
      step = data<T>(moved_);
    }
    if (step != nullptr) add_rows(data<T>(g), step, 1, n, 0);
    product(g, net.entry, cotangent_);
  }

  const Sizes& sizes_;
  const int64_t rows_;
  Tensor starts_, ends_, states_, cotangent_, moved_;
  std::vector<Tensor> layers_;
  std::vector<double> sums_;
};

}  // namespace edmfast
