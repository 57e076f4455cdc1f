// Runs CUDA kernels on the host, one block after the other, with a fiber for every thread. It checks the
// arithmetic, the barriers and the indices where there is no GPU, but not races between blocks.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

using std::max;
using std::min;
using std::sqrt;

struct Index3 {
  unsigned x = 0;
};
inline Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

constexpr unsigned kWarpSize = 32;
constexpr size_t kStack = size_t{1} << 16;

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStack);
  bool done = false;
  uint64_t block_waits = 0, warp_waits = 0;  // barriers reached so far
};

inline std::vector<Fiber> fibers;
inline std::vector<unsigned> exchanged;  // for each thread, two values in turn
inline ucontext_t scheduler;
inline std::function<void()> body;
inline unsigned current = 0;

inline void run_body() {
  body();
  fibers[current].done = true;
}

inline void yield() { swapcontext(&fibers[current].context, &scheduler); }

// Waits until every thread in [begin, end) that still runs has reached as many barriers.
template <class Count>
void wait(unsigned begin, unsigned end, const Count& count) {
  const uint64_t mine = ++count(fibers[current]);
  const auto all_here = [&] {
    return std::all_of(fibers.begin() + begin, fibers.begin() + end,
                       [&](Fiber& fiber) { return fiber.done || count(fiber) >= mine; });
  };
  while (!all_here()) yield();
}

inline unsigned shuffle(unsigned value, unsigned source) {
  const unsigned begin = current / kWarpSize * kWarpSize;
  const unsigned turn = fibers[current].warp_waits % 2;
  exchanged[2 * current + turn] = value;
  wait(begin, std::min<unsigned>(begin + kWarpSize, fibers.size()),
       [](Fiber& fiber) -> uint64_t& { return fiber.warp_waits; });
  return exchanged[2 * (begin + source % kWarpSize) + turn];
}

template <class Kernel, class... Arguments>
void launch(unsigned grid, unsigned threads, const Kernel& kernel, const Arguments&... arguments) {
  body = [&] { kernel(arguments...); };
  gridDim.x = grid;
  blockDim.x = threads;
  exchanged.assign(2 * threads, 0);
  for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x) {
    fibers.resize(threads);
    for (Fiber& fiber : fibers) {
      getcontext(&fiber.context);
      fiber.context.uc_stack = {fiber.stack.data(), 0, kStack};
      fiber.context.uc_link = &scheduler;
      fiber.done = false;
      fiber.block_waits = fiber.warp_waits = 0;
      makecontext(&fiber.context, run_body, 0);
    }
    for (bool running = true; running;) {
      running = false;
      for (current = 0; current < threads; ++current) {
        if (fibers[current].done) continue;
        running = true;
        threadIdx.x = current;
        swapcontext(&scheduler, &fibers[current].context);
      }
    }
  }
}

}  // namespace emulator

inline void __syncthreads() {
  emulator::wait(0, emulator::fibers.size(), [](emulator::Fiber& f) -> uint64_t& { return f.block_waits; });
}
template <class T>
T __shfl_sync(unsigned, T value, int source) {
  return static_cast<T>(emulator::shuffle(static_cast<unsigned>(value), static_cast<unsigned>(source)));
}
inline unsigned __shfl_xor_sync(unsigned, unsigned value, int mask) {
  return emulator::shuffle(value, emulator::current % emulator::kWarpSize ^ static_cast<unsigned>(mask));
}
inline unsigned __shfl_up_sync(unsigned, unsigned value, int offset) {
  const int lane = static_cast<int>(emulator::current % emulator::kWarpSize);
  return emulator::shuffle(value, static_cast<unsigned>(lane >= offset ? lane - offset : lane));
}
// Bit i of the result is the predicate of lane i.
inline unsigned __ballot_sync(unsigned, bool predicate) {
  unsigned bits = 0;
  for (unsigned lane = 0; lane < emulator::kWarpSize; ++lane)
    bits |= emulator::shuffle(predicate ? 1 : 0, lane) << lane;
  return bits;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline void __threadfence() {}
template <class T>
T __ldcg(const T* from) {
  return *from;
}
template <class T>
T atomicMax(T* to, T value) {
  const T before = *to;
  *to = std::max(before, value);
  return before;
}
template <class T>
T atomicOr(T* to, T value) {
  const T before = *to;
  *to = before | value;
  return before;
}
template <class T>
T atomicExch(T* to, T value) {
  const T before = *to;
  *to = value;
  return before;
}
template <class T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to = before + value;
  return before;
}
