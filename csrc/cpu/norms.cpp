// Norms of groups with scale, shift and silu, and two derivatives. Every state passes through memory once, one group
// of channels at a time. Channels may be slowest or fastest in memory, and results have the layout of x.
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <memory>
#include <optional>
#include <tuple>

#include "../include/arguments.h"
#include "../include/library.h"
#include "allocate.h"
#include "group_norm_run.h"
#include "parallel.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// Checks and contiguous forms of the arguments of one call.
struct Arguments {
  ScalarType dtype, wide;
  NormLayout layout{};
  Tensor x, scale, shift;

  Arguments(Tensor x_, const Tensor& scale_, const Tensor& shift_, int64_t groups)
      : dtype(x_.scalar_type()), wide(dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float) {
    STD_TORCH_CHECK(dtype == ScalarType::Half || dtype == ScalarType::BFloat16 || dtype == ScalarType::Float ||
                        dtype == ScalarType::Double,
                    "x must be float16, bfloat16, float32 or float64, got ", dtype);
    STD_TORCH_CHECK(x_.dim() == 3 && scale_.dim() == 2, "x must be [N, C, S], scale and shift [M, C], got ",
                    shape_text(x_), " and ", shape_text(scale_));
    const int64_t n = x_.size(0), c = x_.size(1), s = x_.size(2), sets = scale_.size(0);
    STD_TORCH_CHECK(groups > 0 && c > 0 && s > 0 && c % groups == 0,
                    "C must be a multiple of groups, C and S positive, got C = ", c, ", S = ", s, " and ", groups,
                    " groups");
    STD_TORCH_CHECK(sets > 0 ? n % sets == 0 : n == 0, "M must divide N, got M = ", sets, " and N = ", n);
    const bool last = !x_.is_contiguous() && torch::stable::transpose(x_, 1, 2).is_contiguous();
    layout = {n, c, s, groups, sets, last};
    x = states(x_), scale = numbers(scale_), shift = numbers(shift_);
  }

  // In the layout of x: [N, C, S], or [N, S, C] where channels are fastest.
  Tensor states(Tensor given) const {
    STD_TORCH_CHECK(has_shape(given, {layout.rows, layout.channels, layout.positions}),
                    "all states must be [N, C, S] of one shape, got ", shape_text(given));
    if (!layout.last) return taken(given, "states", dtype, {layout.rows, layout.channels, layout.positions}, given);
    return taken(torch::stable::transpose(given, 1, 2), "states", dtype,
                 {layout.rows, layout.positions, layout.channels}, given);
  }

  Tensor numbers(const Tensor& given) const {
    return taken(given, "scale and shift", wide, {layout.sets, layout.channels}, given);
  }

  std::optional<Tensor> numbers(const std::optional<Tensor>& given) const {
    return given ? std::optional<Tensor>(numbers(*given)) : std::nullopt;
  }

  Tensor statistics(const Tensor& given) const {
    return taken(given, "mean and rstd", wide, {layout.rows, layout.groups}, given);
  }

  Tensor new_states() const {
    return layout.last ? empty_cpu({layout.rows, layout.positions, layout.channels}, dtype)
                       : empty_cpu({layout.rows, layout.channels, layout.positions}, dtype);
  }

  Tensor as_given(Tensor states) const { return layout.last ? torch::stable::transpose(states, 1, 2) : states; }

  Tensor new_sums() const {
    return empty_cpu({std::max<int64_t>(1, layout.chunks_of_set()) * layout.sets, layout.channels}, wide);
  }

  template <class Stored>
  NormCall<Stored> call(NormOrder order, const Tensor& mean, const Tensor& rstd, bool centred, bool silu) const {
    using T = typename ArithmeticOf<Stored>::type;
    return {order,          layout,         centred,       silu,         data<Stored>(x),
            data<T>(scale), data<T>(shift), data<T>(mean), data<T>(rstd)};
  }
};

int64_t groups_of(const Tensor& mean) {
  STD_TORCH_CHECK(mean.dim() == 2, "mean must be [N, G], got ", shape_text(mean));
  return mean.size(1);
}

template <class Run>
void by_dtype(ScalarType dtype, Run run) {
  switch (dtype) {
    case ScalarType::Half:
      return run(Half{});
    case ScalarType::BFloat16:
      return run(BFloat16{});
    case ScalarType::Float:
      return run(float{});
    default:
      return run(double{});
  }
}

template <class Stored>
void run_all(const NormCall<Stored>& call) {
  const NormLayout& layout = call.layout;
  if (layout.rows == 0) return;
  const int64_t items = layout.sets * layout.chunks_of_set() * layout.units();
  const int64_t grain = std::max<int64_t>(1, kChunk / (layout.chunk_rows() * layout.unit_size()));
  in_parallel(items, grain, [&](int64_t begin, int64_t end) {
    NormWorker<Stored> worker(call);
    for (int64_t item = begin; item < end; ++item) worker.run(item);
  });
}

// Adds sums [M chunks, C] over the chunks of each set, in order: [M, C].
Tensor of_sets(const NormLayout& layout, const Tensor& sums, ScalarType wide) {
  const int64_t chunks = layout.chunks_of_set(), channels = layout.channels;
  if (chunks == 1) return sums;
  const Tensor out = empty_cpu({layout.sets, channels}, wide);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    std::unique_ptr<double[]> total(new double[channels]);
    for (int64_t set = 0; set < layout.sets; ++set) {
      std::fill_n(total.get(), channels, 0.0);
      for (int64_t chunk = set * chunks; chunk < (set + 1) * chunks; ++chunk) {
        const T* from = data<T>(sums) + chunk * channels;
        for (int64_t c = 0; c < channels; ++c) total[c] += from[c];
      }
      std::copy_n(total.get(), channels, data<T>(out) + set * channels);
    }
  };
  wide == ScalarType::Float ? run(float{}) : run(double{});
  return out;
}

std::tuple<Tensor, Tensor, Tensor> group_norm_silu(Tensor x, Tensor scale, Tensor shift, int64_t groups, double eps,
                                                   bool centred, bool silu) {
  const Arguments given(x, scale, shift, groups);
  const Tensor y = given.new_states(), mean = empty_cpu({x.size(0), groups}, given.wide),
               rstd = empty_cpu({x.size(0), groups}, given.wide);
  by_dtype(given.dtype, [&](auto sample) {
    using Stored = decltype(sample);
    auto call = given.call<Stored>(NormOrder::kForward, mean, rstd, centred, silu);
    call.eps = static_cast<typename NormCall<Stored>::T>(eps), call.out = data<Stored>(y);
    run_all(call);
  });
  return {given.as_given(y), mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> group_norm_silu_backward(Tensor grad, Tensor x, Tensor scale, Tensor shift,
                                                            Tensor mean, Tensor rstd, bool centred, bool silu) {
  const Arguments given(x, scale, shift, groups_of(mean));
  const Tensor grads = given.states(grad), to_x = given.new_states(), means = given.statistics(mean),
               rstds = given.statistics(rstd), to_scale = given.new_sums(), to_shift = given.new_sums();
  by_dtype(given.dtype, [&](auto sample) {
    using Stored = decltype(sample);
    using T = typename NormCall<Stored>::T;
    auto call = given.call<Stored>(NormOrder::kBackward, means, rstds, centred, silu);
    call.grad = data<Stored>(grads), call.out = data<Stored>(to_x);
    call.scale_sums = data<T>(to_scale), call.shift_sums = data<T>(to_shift);
    run_all(call);
  });
  return {given.as_given(to_x), of_sets(given.layout, to_scale, given.wide),
          of_sets(given.layout, to_shift, given.wide)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> group_norm_silu_double_backward(
    Tensor to_x, std::optional<Tensor> to_scale, std::optional<Tensor> to_shift, Tensor grad, Tensor x, Tensor scale,
    Tensor shift, Tensor mean, Tensor rstd, bool centred, bool silu) {
  const Arguments given(x, scale, shift, groups_of(mean));
  const Tensor alongs = given.states(to_x), grads = given.states(grad), means = given.statistics(mean),
               rstds = given.statistics(rstd);
  const std::optional<Tensor> scales = given.numbers(to_scale), shifts = given.numbers(to_shift);
  const Tensor to_grad = given.new_states(), second = given.new_states(), scale_sums = given.new_sums(),
               shift_sums = given.new_sums();
  by_dtype(given.dtype, [&](auto sample) {
    using Stored = decltype(sample);
    using T = typename NormCall<Stored>::T;
    auto call = given.call<Stored>(NormOrder::kDoubleBackward, means, rstds, centred, silu);
    call.grad = data<Stored>(grads), call.along = data<Stored>(alongs);
    call.out = data<Stored>(second), call.to_grad = data<Stored>(to_grad);
    if (scales) call.scale_along = data<T>(*scales);
    if (shifts) call.shift_along = data<T>(*shifts);
    call.scale_sums = data<T>(scale_sums), call.shift_sums = data<T>(shift_sums);
    run_all(call);
  });
  return {given.as_given(to_grad), given.as_given(second), of_sets(given.layout, scale_sums, given.wide),
          of_sets(given.layout, shift_sums, given.wide)};
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CPU, m) {
  m.impl("group_norm_silu", TORCH_BOX(&edmfast::group_norm_silu));
  m.impl("group_norm_silu_backward", TORCH_BOX(&edmfast::group_norm_silu_backward));
  m.impl("group_norm_silu_double_backward", TORCH_BOX(&edmfast::group_norm_silu_double_backward));
}
