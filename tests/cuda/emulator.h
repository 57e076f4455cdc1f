// Runs CUDA kernels on the host, one block after the other, with a fiber for every thread. It checks the
// arithmetic, the barriers and the indices where there is no GPU, but not races between blocks.
//
// Between two barriers a GPU may run the threads of a block in any order. Here every warp runs as far as it can before
// the next one does, so that a thread that needs a barrier which is not there reads too early, or writes too early.
// The order of the warps, of the lanes of a warp and of the blocks is the first to the last, the last to the first, or
// one that is drawn anew at every turn.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
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

enum class Order { kForward, kBackward, kDrawn };
inline Order order = Order::kForward;
inline bool failed = false;

// The threads that meet at a barrier: a warp, or the block. `phase` counts the barriers that all have reached.
struct Group {
  unsigned running = 0, arrived = 0;
  uint64_t phase = 0;

  // Those that have ended are not waited for.
  void release() {
    if (arrived == 0 || arrived < running) return;
    arrived = 0;
    ++phase;
  }
};

// A fiber lives on from block to block. Jumps change between fibers, since changes of context are calls of the system.
struct Fiber {
  ucontext_t context;
  jmp_buf place;
  std::vector<char> stack = std::vector<char>(kStack);
  bool started = false, done = false;
  const Group* waits_for = nullptr;
  uint64_t phase = 0;  // the one that it waits to see the end of
  unsigned shuffles = 0;

  bool ready() const { return !done && (waits_for == nullptr || waits_for->phase != phase); }
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline unsigned threads = 0;  // of the present launch, which may be fewer than there are fibers
inline std::vector<Group> warps;
inline Group block;
inline std::vector<unsigned> exchanged;  // for each thread, two values in turn
inline jmp_buf scheduler;
inline std::function<void()> body;
inline unsigned current = 0;
inline uint32_t drawn = 1;

// Gives the processor back to the scheduler until the fiber is resumed.
inline void pause(Fiber& own) {
  if (_setjmp(own.place) == 0) _longjmp(scheduler, 1);
}

inline void run_bodies() {
  for (;;) {
    body();
    Fiber& own = *fibers[current];
    own.done = true;
    for (Group* group : {&warps[current / kWarpSize], &block}) {
      --group->running;
      group->release();
    }
    pause(own);
  }
}

inline void resume(Fiber& fiber) {
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  setcontext(&fiber.context);
}

inline void fail(const char* why) {
  std::fprintf(stderr, "emulator: block %u, thread %u: %s\n", blockIdx.x, current, why);
  failed = true;
}

// Waits until every thread of the group that still runs has reached the barrier.
inline void wait(Group& group) {
  Fiber& own = *fibers[current];
  own.waits_for = &group;
  own.phase = group.phase;
  ++group.arrived;
  group.release();
  while (group.phase == own.phase) pause(own);
  own.waits_for = nullptr;
}

inline unsigned shuffle(unsigned value, unsigned source) {
  const unsigned begin = current / kWarpSize * kWarpSize;
  Group& warp = warps[current / kWarpSize];
  if (warp.running < std::min(kWarpSize, threads - begin)) fail("a lane has left the warp");
  const unsigned turn = fibers[current]->shuffles++ % 2;
  exchanged[2 * current + turn] = value;
  wait(warp);
  return exchanged[2 * (begin + source % kWarpSize) + turn];
}

// The numbers from 0 to n - 1 in the present order.
inline const std::vector<unsigned>& turns(unsigned n, std::vector<unsigned>& room) {
  room.resize(n);
  std::iota(room.begin(), room.end(), 0u);
  if (order == Order::kBackward) std::reverse(room.begin(), room.end());
  if (order != Order::kDrawn) return room;
  for (unsigned i = n; i > 1; --i) {
    drawn = drawn * 1664525u + 1013904223u;
    std::swap(room[i - 1], room[(drawn >> 8) % i]);
  }
  return room;
}

// Lets a warp run as far as it can. Returns whether it did anything.
inline bool run_warp(unsigned warp) {
  static std::vector<unsigned> room;
  const unsigned begin = warp * kWarpSize, size = std::min(kWarpSize, threads - begin);
  bool moved = false;
  for (bool again = true; again;) {
    again = false;
    for (const unsigned lane : turns(size, room)) {
      current = begin + lane;
      if (!fibers[current]->ready()) continue;
      threadIdx.x = current;
      resume(*fibers[current]);
      moved = again = true;
    }
  }
  return moved;
}

inline void add_fiber() {
  fibers.push_back(std::make_unique<Fiber>());
  Fiber& fiber = *fibers.back();
  getcontext(&fiber.context);
  fiber.context.uc_stack = {fiber.stack.data(), 0, kStack};
  makecontext(&fiber.context, run_bodies, 0);
}

inline void run_block() {
  static std::vector<unsigned> room;
  block = {threads};
  warps.assign((threads + kWarpSize - 1) / kWarpSize, Group{});
  for (unsigned thread = 0; thread < threads; ++thread) {
    if (thread == fibers.size()) add_fiber();
    Fiber& fiber = *fibers[thread];
    fiber.done = false;
    fiber.waits_for = nullptr;
    fiber.shuffles = 0;
    ++warps[thread / kWarpSize].running;
  }
  for (bool moved = true; moved;) {
    moved = false;
    for (const unsigned warp : turns(warps.size(), room)) moved |= run_warp(warp);
  }
  if (block.running == 0) return;
  fail("some threads wait at a barrier that others never reach");
  fibers.clear();  // those that wait would go on from there in the next block
}

template <class Kernel, class... Arguments>
void launch(unsigned grid, unsigned block_threads, const Kernel& kernel, const Arguments&... arguments) {
  static std::vector<unsigned> room;
  body = [&] { kernel(arguments...); };
  gridDim.x = grid;
  blockDim.x = threads = block_threads;
  exchanged.assign(2 * threads, 0);
  for (const unsigned index : turns(grid, room)) {
    blockIdx.x = index;
    run_block();
  }
}

}  // namespace emulator

// Chooses the order in which all launches from here on run: 0, 1 or 2 of the list above.
extern "C" __attribute__((used)) inline void emulator_order(int order) {
  emulator::order = static_cast<emulator::Order>(order);
  emulator::drawn = 1;
}
// Returns whether a launch since the last call has failed.
extern "C" __attribute__((used)) inline int emulator_failed() {
  const bool failed = emulator::failed;
  emulator::failed = false;
  return failed;
}

inline void __syncthreads() { emulator::wait(emulator::block); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulator::wait(emulator::warps[emulator::current / emulator::kWarpSize]); }
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
T __ldg(const T* from) {
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
