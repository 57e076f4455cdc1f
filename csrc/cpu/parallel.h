// Loops over tasks on torch's threads, in one floating-point mode, and with errors that keep their message.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <mutex>
#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace edmfast {

// Keeps subnormal numbers while it lives. torch.set_flush_denormal, or a library built with -ffast-math, turns them
// into zeros on some threads and not on others, so bits would depend on the thread that takes a sample.
class KeepSubnormals {
 public:
  KeepSubnormals(const KeepSubnormals&) = delete;
  KeepSubnormals& operator=(const KeepSubnormals&) = delete;
#if defined(__x86_64__) || defined(_M_X64)
  KeepSubnormals() : before_(_mm_getcsr()) {
    constexpr unsigned kFlushes = 0x8040;  // flush to zero, and denormals are zero
    changed_ = (before_ & kFlushes) != 0;
    if (changed_) _mm_setcsr(before_ & ~kFlushes);
  }
  ~KeepSubnormals() {
    if (changed_) _mm_setcsr(before_);
  }

 private:
  unsigned before_;
  bool changed_;
#elif defined(__aarch64__) && defined(__GNUC__)
  KeepSubnormals() {
    constexpr uint64_t kFlushes = uint64_t{1} << 24;
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    changed_ = (before_ & kFlushes) != 0;
    if (changed_) asm volatile("msr fpcr, %0" : : "r"(before_ & ~kFlushes));
  }
  ~KeepSubnormals() {
    if (changed_) asm volatile("msr fpcr, %0" : : "r"(before_));
  }

 private:
  uint64_t before_;
  bool changed_;
#else
  KeepSubnormals() {}
#endif
};

// The first error of any thread. No error may leave a task, because torch's loop would then end the process.
class FirstError {
 public:
  template <class F>
  void guard(const F& work) {
    try {
      work();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }
  void rethrow() {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
};

// Calls body(begin, end) over all of [0, tasks), with at least `grain` tasks for each thread.
template <class F>
void in_parallel(int64_t tasks, int64_t grain, const F& body) {
  FirstError error;
  torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
    const KeepSubnormals mode;
    error.guard([&] { body(begin, end); });
  });
  error.rethrow();
}

// The same for bodies that multiply matrices. torch runs a single task on the calling thread, outside of any parallel
// region, where a matrix library would divide the product among all threads and round in another order. A second,
// empty task opens the region.
template <class F>
void with_own_products(int64_t tasks, const F& body) {
  in_parallel(std::max<int64_t>(tasks, 2), 1, [&](int64_t begin, int64_t end) {
    if (begin < tasks) body(begin, std::min(end, tasks));
  });
}

}  // namespace edmfast
