// The inner-product potential with two derivatives, and the assembly of a score: one pass over memory each.
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "../include/arguments.h"
#include "../include/library.h"
#include "allocate.h"
#include "parallel.h"
#include "potential_kernels.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Rows [B, d] of one dtype, float32 or float64, and numbers [B], one for each row.
struct Rows {
  int64_t count, elements;
  ScalarType dtype;

  explicit Rows(const Tensor& y) : count(0), elements(0), dtype(y.scalar_type()) {
    STD_TORCH_CHECK(y.dim() == 2, "h and y must be [B, d], got ", shape_text(y));
    STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                    "every state must be float32 or float64, got ", dtype);
    count = y.size(0), elements = y.size(1);
  }

  Tensor rows(const Tensor& given) const {
    return taken(given, "every state", dtype, {count, elements}, given);
  }

  Tensor numbers(const Tensor& given) const {
    return taken(given, "numbers per row", dtype, {count}, given);
  }

  Tensor new_rows() const { return empty_cpu({count, elements}, dtype); }
  Tensor new_numbers() const { return empty_cpu({count}, dtype); }

  // Calls run(first row, rows, sample) in parallel; the sample is a float or a double and stands for the dtype.
  template <class Run>
  void split(Run run) const {
    const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, elements));
    const auto all = [&](auto sample) {
      in_parallel(count, grain,
                                  [&](int64_t begin, int64_t end) { run(begin, end - begin, sample); });
    };
    if (count == 0) return;
    dtype == ScalarType::Float ? all(float{}) : all(double{});
  }
};

template <class T>
T* at(const Tensor& tensor, int64_t offset) {
  return static_cast<T*>(tensor.data_ptr()) + offset;
}

// The address is null for an absent tensor.
template <class T>
const T* at(const std::optional<Tensor>& tensor, int64_t offset) {
  return tensor ? at<T>(*tensor, offset) : nullptr;
}

std::tuple<Tensor, Tensor> potential(Tensor h, Tensor y, Tensor weight) {
  const Rows rows(y);
  const Tensor hs = rows.rows(h), ys = rows.rows(y), ws = rows.numbers(weight);
  const Tensor energy = rows.new_numbers(), cotangent = rows.new_rows();
  rows.split([&](int64_t first, int64_t count, auto sample) {
    using T = decltype(sample);
    const int64_t d = rows.elements, start = first * d;
    PotentialRows<T> job{count, d, at<T>(hs, start), at<T>(ys, start), at<T>(ws, first)};
    job.to_energy = at<T>(energy, first), job.to_cotangent = at<T>(cotangent, start);
    potential_rows(job);
  });
  return {energy, cotangent};
}

struct Cotangents {
  std::optional<Tensor> energy, moved;

  Cotangents(const Rows& rows, const std::optional<Tensor>& e, const std::optional<Tensor>& v) {
    if (e) energy = rows.numbers(*e);
    if (v) moved = rows.rows(*v);
  }
};

std::tuple<Tensor, Tensor, Tensor> potential_backward(std::optional<Tensor> grad_energy,
                                                      std::optional<Tensor> grad_cotangent, Tensor h, Tensor y,
                                                      Tensor weight) {
  const Rows rows(y);
  const Tensor hs = rows.rows(h), ys = rows.rows(y), ws = rows.numbers(weight);
  const Cotangents grad(rows, grad_energy, grad_cotangent);
  const Tensor to_h = rows.new_rows(), to_y = rows.new_rows(), to_w = rows.new_numbers();
  rows.split([&](int64_t first, int64_t count, auto sample) {
    using T = decltype(sample);
    const int64_t d = rows.elements, start = first * d;
    PotentialRows<T> job{count, d, at<T>(hs, start), at<T>(ys, start), at<T>(ws, first)};
    job.e = at<T>(grad.energy, first), job.v = at<T>(grad.moved, start);
    job.to_h = at<T>(to_h, start), job.to_y = at<T>(to_y, start), job.to_weight = at<T>(to_w, first);
    backward_rows(job);
  });
  return {to_h, to_y, to_w};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> potential_double_backward(
    Tensor a, Tensor b, Tensor c, std::optional<Tensor> grad_energy, std::optional<Tensor> grad_cotangent, Tensor h,
    Tensor y, Tensor weight) {
  const Rows rows(y);
  const Tensor hs = rows.rows(h), ys = rows.rows(y), ws = rows.numbers(weight);
  const Tensor as = rows.rows(a), bs = rows.rows(b), cs = rows.numbers(c);
  const Cotangents grad(rows, grad_energy, grad_cotangent);
  const Tensor to_e = rows.new_numbers(), to_v = rows.new_rows(), to_h = rows.new_rows(), to_y = rows.new_rows(),
               to_w = rows.new_numbers();
  rows.split([&](int64_t first, int64_t count, auto sample) {
    using T = decltype(sample);
    const int64_t d = rows.elements, start = first * d;
    PotentialRows<T> job{count, d, at<T>(hs, start), at<T>(ys, start), at<T>(ws, first)};
    job.e = at<T>(grad.energy, first), job.v = at<T>(grad.moved, start);
    job.a = at<T>(as, start), job.b = at<T>(bs, start), job.c = at<T>(cs, first);
    job.to_h = at<T>(to_h, start), job.to_y = at<T>(to_y, start), job.to_weight = at<T>(to_w, first);
    job.to_energy = at<T>(to_e, first), job.to_cotangent = at<T>(to_v, start);
    double_backward_rows(job);
  });
  return {to_e, to_v, to_h, to_y, to_w};
}

Tensor checked_coefficients(const Rows& rows, const Tensor& coefficients) {
  return taken(coefficients, "coefficients", rows.dtype, {rows.count, 3}, coefficients);
}

Tensor potential_assemble(Tensor h, Tensor pullback, Tensor y, Tensor coefficients) {
  const Rows rows(y);
  const Tensor hs = rows.rows(h), ps = rows.rows(pullback), ys = rows.rows(y);
  const Tensor cs = checked_coefficients(rows, coefficients), out = rows.new_rows();
  rows.split([&](int64_t first, int64_t count, auto sample) {
    using T = decltype(sample);
    const int64_t d = rows.elements, start = first * d;
    AssembleRows<T> job{count, d, at<T>(hs, start), at<T>(ps, start), at<T>(ys, start), at<T>(cs, 3 * first)};
    job.out = at<T>(out, start);
    assemble_rows(job);
  });
  return out;
}

std::tuple<Tensor, Tensor> potential_field(Tensor h, Tensor pullback, Tensor y, Tensor numbers) {
  const Rows rows(y);
  const Tensor hs = rows.rows(h), ps = rows.rows(pullback), ys = rows.rows(y);
  const bool shared = numbers.dim() == 2 && numbers.size(0) == 1;
  const Tensor cs = taken(numbers, "numbers", rows.dtype, {shared ? 1 : rows.count, 4}, numbers);
  const Tensor energy = rows.new_numbers(), out = rows.new_rows();
  rows.split([&](int64_t first, int64_t count, auto sample) {
    using T = decltype(sample);
    const int64_t d = rows.elements, start = first * d, stride = shared ? 0 : 4;
    field_rows(FieldRows<T>{count, d, stride, at<T>(hs, start), at<T>(ps, start), at<T>(ys, start),
                            at<T>(cs, stride * first), at<T>(energy, first), at<T>(out, start)});
  });
  return {energy, out};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> potential_assemble_backward(Tensor grad, Tensor h, Tensor pullback,
                                                                       Tensor y, Tensor coefficients) {
  const Rows rows(y);
  const Tensor gs = rows.rows(grad), hs = rows.rows(h), ps = rows.rows(pullback), ys = rows.rows(y);
  const Tensor cs = checked_coefficients(rows, coefficients), to_c = empty_cpu({rows.count, 3}, rows.dtype);
  const Tensor to_h = rows.new_rows(), to_p = rows.new_rows(), to_y = rows.new_rows();
  rows.split([&](int64_t first, int64_t count, auto sample) {
    using T = decltype(sample);
    const int64_t d = rows.elements, start = first * d;
    AssembleRows<T> job{count, d, at<T>(hs, start), at<T>(ps, start), at<T>(ys, start), at<T>(cs, 3 * first)};
    job.grad = at<T>(gs, start), job.to_coefficients = at<T>(to_c, 3 * first);
    job.to_h = at<T>(to_h, start), job.to_pullback = at<T>(to_p, start), job.to_y = at<T>(to_y, start);
    assemble_backward_rows(job);
  });
  return {to_h, to_p, to_y, to_c};
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CPU, m) {
  m.impl("potential", TORCH_BOX(&edmfast::potential));
  m.impl("potential_backward", TORCH_BOX(&edmfast::potential_backward));
  m.impl("potential_double_backward", TORCH_BOX(&edmfast::potential_double_backward));
  m.impl("potential_assemble", TORCH_BOX(&edmfast::potential_assemble));
  m.impl("potential_field", TORCH_BOX(&edmfast::potential_field));
  m.impl("potential_assemble_backward", TORCH_BOX(&edmfast::potential_assemble_backward));
}
