// Norms of groups and their derivatives over all groups: one chunk of rows of one unit at a time.
#pragma once
#include <memory>
#include <type_traits>

#include "group_norm_image.h"
#include "group_norm_kernels.h"
#include "group_norm_layout.h"
#include "group_norm_tokens.h"

namespace edmfast {

enum class NormOrder { kForward, kBackward, kDoubleBackward };

// The tensors of one call: states in the layout `layout`, scale and all like it [M, C]. Sums are [chunks, C], to be
// added over the chunks of a set.
template <class Stored>
struct NormCall {
  using T = typename ArithmeticOf<Stored>::type;
  NormOrder order;
  NormLayout layout;
  bool centred, silu;
  const Stored* x;
  const T *scale, *shift;
  T *mean, *rstd;  // [N, G]; written by the forward pass
  T eps = 0;
  Stored* out = nullptr;  // y, or to_x
  const Stored *grad = nullptr, *along = nullptr;
  Stored* to_grad = nullptr;
  const T *scale_along = nullptr, *shift_along = nullptr;  // null stands for zero
  T *scale_sums = nullptr, *shift_sums = nullptr;
};

// Works on items (chunk, unit) one after another, with buffers of its own.
template <class Stored>
class NormWorker {
  using T = typename ArithmeticOf<Stored>::type;

 public:
  explicit NormWorker(const NormCall<Stored>& call) : call_(call), layout_(call.layout) {}

  void run(int64_t item) {
    const int64_t chunk = item / layout_.units(), first_group = item % layout_.units() * layout_.unit_groups();
    const int64_t set = chunk / layout_.chunks_of_set();
    int64_t first = set * layout_.rows_of_set() + chunk % layout_.chunks_of_set() * layout_.chunk_rows();
    const int64_t stop = std::min(first + layout_.chunk_rows(), (set + 1) * layout_.rows_of_set());
    groups_ = std::min(layout_.unit_groups(), layout_.groups - first_group);
    channels_ = groups_ * layout_.group_channels();
    const int64_t channel = first_group * layout_.group_channels();
    scale_ = numbers(call_.scale, set, channel, 0), shift_ = numbers(call_.shift, set, channel, 1);
    if (twice()) scale_along_ = numbers(call_.scale_along, set, channel, 2);
    if (twice()) shift_along_ = numbers(call_.shift_along, set, channel, 3);
    for (Sums* sums : {&to_scale_, &to_shift_}) clear(*sums);
    if (tokens()) {
      run_tokens(first, stop, channel, first_group);
      first = stop;
    }
    for (int64_t row = first; row < stop; ++row) {
      const int64_t at = layout_.offset(row, channel), statistics = row * layout_.groups + first_group;
      layout_.last ? image(at, statistics) : group(at, statistics);
    }
    if (call_.order == NormOrder::kForward) return;
    finish(to_scale_, call_.scale_sums + chunk * layout_.channels + channel);
    finish(to_shift_, call_.shift_sums + chunk * layout_.channels + channel);
  }

 private:
  template <class U>
  using Room = std::unique_ptr<U[]>;

  // Sums over the rows of a chunk: for each channel, or for each number where runs are short.
  struct Sums {
    Room<double> of_channels;
    Room<T> of_numbers;
  };

  template <class U>
  static U* room(Room<U>& room, int64_t size) {
    if (!room) room.reset(new U[size]);
    return room.get();
  }

  bool twice() const { return call_.order == NormOrder::kDoubleBackward; }
  bool flat() const { return !layout_.last && layout_.flat(); }
  bool tokens() const { return in_place() && flat() && !call_.silu; }
  int64_t size() const { return channels_ * layout_.positions; }
  int64_t most_channels() const { return layout_.unit_groups() * layout_.group_channels(); }

  void run_tokens(int64_t first, int64_t stop, int64_t channel, int64_t first_group) {
    if constexpr (in_place()) {
      const int64_t at = layout_.offset(first, channel), statistics = first * layout_.groups + first_group;
      NormTokens<T> job{stop - first, size(), layout_.channels * layout_.positions, layout_.groups, call_.centred,
                        call_.eps,    scale_, shift_, call_.mean + statistics, call_.rstd + statistics, call_.x + at};
      job.out = call_.out + at;
      if (call_.order == NormOrder::kForward) return forward_tokens(job);
      job.grad = call_.grad + at;
      job.to_scale = to_scale_.of_numbers.get(), job.to_shift = to_shift_.of_numbers.get();
      if (!twice()) return backward_tokens(job);
      job.along = call_.along + at, job.to_grad = call_.to_grad + at;
      job.scale_along = scale_along_, job.shift_along = shift_along_;
      double_backward_tokens(job);
    }
  }

  void group(int64_t at, int64_t statistics) {
    NormGroup<T> job{flat() ? 1 : channels_, flat() ? size() : layout_.positions, flat(), call_.silu, call_.centred};
    job.to_scale = to_scale_.of_channels.get(), job.to_shift = to_shift_.of_channels.get();
    job.flat_to_scale = to_scale_.of_numbers.get(), job.flat_to_shift = to_shift_.of_numbers.get();
    job.mean = call_.mean[statistics], job.rstd = call_.rstd[statistics];
    bind(job, at);
    switch (call_.order) {
      case NormOrder::kForward:
        forward_group(job);
        call_.mean[statistics] = job.mean, call_.rstd[statistics] = job.rstd;
        break;
      case NormOrder::kBackward:
        backward_group(job);
        break;
      case NormOrder::kDoubleBackward:
        double_backward_group(job);
    }
    unbind(job, at);
  }

  void image(int64_t at, int64_t statistics) {
    NormImage<T> job{layout_.positions, groups_, layout_.group_channels(), in_place() ? layout_.channels : channels_,
                     call_.silu, call_.centred};
    job.to_scale = to_scale_.of_channels.get(), job.to_shift = to_shift_.of_channels.get();
    job.mean = call_.mean + statistics, job.rstd = call_.rstd + statistics;
    job.lines = room(lines_, NormImage<T>::kLines * most_channels());
    job.totals = room(totals_, NormImage<T>::kTotals * most_channels());
    bind(job, at);
    switch (call_.order) {
      case NormOrder::kForward:
        forward_image(job);
        break;
      case NormOrder::kBackward:
        backward_image(job);
        break;
      case NormOrder::kDoubleBackward:
        double_backward_image(job);
    }
    unbind(job, at);
  }

  template <class Job>
  void bind(Job& job, int64_t at) {
    job.scale = scale_, job.shift = shift_, job.eps = call_.eps;
    job.x = load(call_.x + at, 0);
    (call_.order == NormOrder::kForward ? job.y : job.to_x) = target(call_.out + at, 1);
    if (call_.order != NormOrder::kForward) job.grad = load(call_.grad + at, 2);
    if (!twice()) return;
    job.scale_along = scale_along_, job.shift_along = shift_along_;
    job.along = load(call_.along + at, 3);
    job.to_grad = target(call_.to_grad + at, 4);
    job.space = room(states_[5], layout_.unit_size());
  }

  template <class Job>
  void unbind(const Job& job, int64_t at) {
    store(call_.order == NormOrder::kForward ? job.y : job.to_x, call_.out + at);
    if (twice()) store(job.to_grad, call_.to_grad + at);
  }

  static constexpr bool in_place() { return std::is_same_v<T, Stored>; }
  int64_t runs() const { return layout_.last ? layout_.positions : 1; }

  const T* load(const Stored* from, int buffer) {
    if constexpr (in_place()) {
      return from;
    } else {
      T* to = room(states_[buffer], layout_.unit_size());
      copy_runs(from, layout_.channels, to, size() / runs(), runs(), size() / runs());
      return to;
    }
  }

  T* target(Stored* to, int buffer) {
    if constexpr (in_place()) {
      return to;
    } else {
      return room(states_[buffer], layout_.unit_size());
    }
  }

  void store(const T* from, Stored* to) {
    if constexpr (!in_place()) copy_runs(from, size() / runs(), to, layout_.channels, runs(), size() / runs());
  }

  // The numbers of a set for the channels of a unit, or for each number of the unit where runs are short.
  const T* numbers(const T* from, int64_t set, int64_t channel, int buffer) {
    if (from != nullptr) from += set * layout_.channels + channel;
    const int64_t each = flat() ? layout_.positions : 1;
    if (from != nullptr && each == 1) return from;
    T* to = room(numbers_[buffer], most_channels() * each);
    for (int64_t c = 0; c < channels_; ++c) std::fill_n(to + c * each, each, from == nullptr ? T{0} : from[c]);
    return to;
  }

  void clear(Sums& sums) {
    if (call_.order == NormOrder::kForward) return;
    if (flat()) {
      std::fill_n(room(sums.of_numbers, layout_.unit_size()), size(), T{0});
    } else {
      std::fill_n(room(sums.of_channels, most_channels()), channels_, 0.0);
    }
  }

  void finish(const Sums& sums, T* to) {
    for (int64_t c = 0; c < channels_; ++c) {
      double sum = flat() ? 0.0 : sums.of_channels[c];
      for (int64_t s = 0; flat() && s < layout_.positions; ++s) sum += sums.of_numbers[c * layout_.positions + s];
      to[c] = static_cast<T>(sum);
    }
  }

  const NormCall<Stored>& call_;
  const NormLayout& layout_;
  int64_t groups_ = 0, channels_ = 0;
  const T *scale_ = nullptr, *shift_ = nullptr, *scale_along_ = nullptr, *shift_along_ = nullptr;
  Sums to_scale_, to_shift_;
  Room<T> states_[6], numbers_[4], lines_;
  Room<double> totals_;
};

}  // namespace edmfast
