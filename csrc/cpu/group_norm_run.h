// Group norm and its derivatives over all groups: a chunk of rows of one group at a time.
#pragma once
#include <cstring>
#include <memory>
#include <type_traits>

#include "group_norm_kernels.h"
#include "group_norm_layout.h"

namespace edmfast {

enum class NormOrder { kForward, kBackward, kDoubleBackward };

// The tensors of one call, states as `layout` has them, scale and all that is like it [M, C]; sums are
// [chunks, C], to be added over the chunks of a set.
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
  const T *scale_along = nullptr, *shift_along = nullptr;  // may be null: zero
  T *scale_sums = nullptr, *shift_sums = nullptr;
};

// Does items (chunk, group) one after another, with buffers of its own.
template <class Stored>
class NormWorker {
  using T = typename ArithmeticOf<Stored>::type;

 public:
  explicit NormWorker(const NormCall<Stored>& call)
      : call_(call), layout_(call.layout), n_(layout_.group_size()), count_(layout_.group_channels()) {
    group_.flat = layout_.flat();
    group_.channels = group_.flat ? 1 : count_;
    group_.run = group_.flat ? n_ : layout_.positions;
    group_.silu = call.silu, group_.centred = call.centred, group_.eps = call.eps;
    if (call.order == NormOrder::kDoubleBackward) group_.space = room(space_, n_);
  }

  void run(int64_t item) {
    const int64_t chunk = item / layout_.groups, group = item % layout_.groups;
    const int64_t set = chunk / layout_.chunks_of_set();
    const int64_t first = set * layout_.rows_of_set() + chunk % layout_.chunks_of_set() * layout_.chunk_rows();
    const int64_t stop = std::min(first + layout_.chunk_rows(), (set + 1) * layout_.rows_of_set());
    const int64_t channel = group * count_;
    const bool twice = call_.order == NormOrder::kDoubleBackward;
    group_.scale = numbers(call_.scale, set, channel, scale_);
    group_.shift = numbers(call_.shift, set, channel, shift_);
    if (twice) group_.scale_along = numbers(call_.scale_along, set, channel, scale_along_);
    if (twice) group_.shift_along = numbers(call_.shift_along, set, channel, shift_along_);
    if (call_.order != NormOrder::kForward) clear();
    for (int64_t row = first; row < stop; ++row) one(row, group);
    if (call_.order != NormOrder::kForward) {
      finish(group_.to_scale, group_.flat_to_scale, call_.scale_sums + chunk * layout_.channels + channel);
      finish(group_.to_shift, group_.flat_to_shift, call_.shift_sums + chunk * layout_.channels + channel);
    }
  }

 private:
  template <class U>
  using Room = std::unique_ptr<U[]>;

  template <class U>
  static U* room(Room<U>& room, int64_t size) {
    if (!room) room.reset(new U[size]);
    return room.get();
  }

  void one(int64_t row, int64_t group) {
    const int64_t at = layout_.offset(row, group);
    T *mean = call_.mean + row * layout_.groups + group, *rstd = call_.rstd + row * layout_.groups + group;
    group_.x = load(call_.x + at, x_);
    T* out = target(call_.out + at, out_);
    if (call_.order == NormOrder::kForward) {
      group_.y = out;
      forward_group(group_);
      *mean = group_.mean, *rstd = group_.rstd;
    } else {
      group_.mean = *mean, group_.rstd = *rstd;
      group_.grad = load(call_.grad + at, grad_);
      group_.to_x = out;
      if (call_.order == NormOrder::kBackward) {
        backward_group(group_);
      } else {
        group_.along = load(call_.along + at, along_);
        group_.to_grad = target(call_.to_grad + at, to_grad_);
        double_backward_group(group_);
        store(group_.to_grad, call_.to_grad + at);
      }
    }
    store(out, call_.out + at);
  }

  bool in_place() const { return std::is_same_v<T, Stored> && !layout_.scattered(); }
  int64_t runs() const { return layout_.scattered() ? layout_.positions : 1; }

  const T* load(const Stored* from, Room<T>& buffer) {
    if (in_place()) return reinterpret_cast<const T*>(from);
    T* to = room(buffer, n_);
    copy_runs(from, layout_.channels, to, n_ / runs(), runs(), n_ / runs());
    return to;
  }

  T* target(Stored* to, Room<T>& buffer) { return in_place() ? reinterpret_cast<T*>(to) : room(buffer, n_); }

  void store(const T* from, Stored* to) {
    if (!in_place()) copy_runs(from, n_ / runs(), to, layout_.channels, runs(), n_ / runs());
  }

  // Of a set and a group: of its channels or, flat, of each of its numbers.
  const T* numbers(const T* from, int64_t set, int64_t channel, Room<T>& buffer) {
    if (from != nullptr) from += set * layout_.channels + channel;
    if (from != nullptr && (!group_.flat || layout_.positions == 1)) return from;
    const int64_t size = group_.flat ? n_ : count_;
    T* to = room(buffer, size);
    if (from == nullptr) {
      std::fill_n(to, size, T{0});
    } else if (!layout_.last) {
      for (int64_t c = 0; c < count_; ++c) std::fill_n(to + c * layout_.positions, layout_.positions, from[c]);
    } else {
      std::copy_n(from, count_, to);
      for (int64_t done = count_; done < n_; done *= 2) std::copy_n(to, std::min(done, n_ - done), to + done);
    }
    return to;
  }

  void clear() {
    if (group_.flat) {
      group_.flat_to_scale = room(flat_to_scale_, n_), group_.flat_to_shift = room(flat_to_shift_, n_);
      std::fill_n(group_.flat_to_scale, n_, T{0}), std::fill_n(group_.flat_to_shift, n_, T{0});
    } else {
      group_.to_scale = room(to_scale_, count_), group_.to_shift = room(to_shift_, count_);
      std::fill_n(group_.to_scale, count_, 0.0), std::fill_n(group_.to_shift, count_, 0.0);
    }
  }

  void finish(const double* sums, T* flat, T* to) {
    if (!group_.flat) {
      for (int64_t c = 0; c < count_; ++c) to[c] = static_cast<T>(sums[c]);
    } else if (!layout_.last) {
      for (int64_t c = 0; c < count_; ++c) {
        double sum = 0;
        for (int64_t s = 0; s < layout_.positions; ++s) sum += flat[c * layout_.positions + s];
        to[c] = static_cast<T>(sum);
      }
    } else {
      // the upper half of the positions is added to the lower one, until one is left
      for (int64_t left = layout_.positions; left > 1; left -= left / 2) {
        const int64_t half = left / 2 * count_, from = (left - left / 2) * count_;
        for (int64_t k = 0; k < half; ++k) flat[k] += flat[from + k];
      }
      std::copy_n(flat, count_, to);
    }
  }

  const NormCall<Stored>& call_;
  const NormLayout& layout_;
  const int64_t n_, count_;
  NormGroup<T> group_{};
  Room<T> x_, grad_, along_, out_, to_grad_, space_, scale_, shift_, scale_along_, shift_along_;
  Room<T> flat_to_scale_, flat_to_shift_;
  Room<double> to_scale_, to_shift_;
};

}  // namespace edmfast
