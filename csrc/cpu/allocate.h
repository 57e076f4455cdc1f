// Uninitialised CPU tensors made by the shim itself, which takes a fraction of a microsecond, less than a call of the
// dispatcher.
#pragma once
#ifdef __linux__
#include <sys/mman.h>
#endif
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>

namespace edmfast {

// Requests huge pages for a block that malloc maps anew at every call, as glibc does from 32 MB on. The first touch of
// a page of 4 kB costs as much as writing it several times. Smaller blocks may lie in the heap, where the request
// would outlive them and other tensors would take whole huge pages.
inline void ask_for_huge_pages(void* start, uint64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uint64_t kPage = uint64_t{2} << 20, kHeap = uint64_t{32} << 20;
  if (bytes < kHeap) return;
  const uint64_t first = (reinterpret_cast<uint64_t>(start) + kPage - 1) / kPage * kPage;
  const uint64_t last = (reinterpret_cast<uint64_t>(start) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a kernel without huge pages ignores this
#endif
}

// The strides are those of a tensor that fills its memory with so many elements.
inline torch::stable::Tensor empty_cpu_strided(int64_t dims, const int64_t* sizes, const int64_t* strides,
                                               int64_t elements, torch::headeronly::ScalarType dtype) {
  AtenTensorHandle handle = nullptr;
  const auto error = aoti_torch_empty_strided(dims, sizes, strides, static_cast<int32_t>(dtype),
                                              aoti_torch_device_type_cpu(), 0, &handle);
  STD_TORCH_CHECK(error == 0, "out of memory");
  torch::stable::Tensor tensor(handle);
  ask_for_huge_pages(tensor.data_ptr(), static_cast<uint64_t>(elements) * tensor.element_size());
  return tensor;
}

inline torch::stable::Tensor empty_cpu(std::initializer_list<int64_t> sizes, torch::headeronly::ScalarType dtype) {
  STD_TORCH_CHECK(sizes.size() <= 4, "at most four dimensions");
  int64_t strides[4] = {};
  int64_t stride = 1;
  bool empty = false;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    const int64_t size = sizes.begin()[i];
    // the product of the other sizes must be a number even where one size is zero
    STD_TORCH_CHECK(size >= 0 && !__builtin_mul_overflow(stride, std::max<int64_t>(size, 1), &stride),
                    "a tensor of more than 2^63 elements");
    empty |= size == 0;
  }
  return empty_cpu_strided(static_cast<int64_t>(sizes.size()), sizes.begin(), strides, empty ? 0 : stride, dtype);
}

}  // namespace edmfast
