// Uninitialised CPU tensors, straight from the shim: a fraction of a microsecond instead of a dispatcher call.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <initializer_list>

namespace edmfast {

inline torch::stable::Tensor empty_cpu(std::initializer_list<int64_t> sizes, torch::headeronly::ScalarType dtype) {
  STD_TORCH_CHECK(sizes.size() <= 4, "at most four dimensions");
  int64_t strides[4] = {};
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= sizes.begin()[i];
  }
  AtenTensorHandle handle = nullptr;
  const auto error = aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(), strides,
                                              static_cast<int32_t>(dtype), aoti_torch_device_type_cpu(), 0, &handle);
  STD_TORCH_CHECK(error == 0, "out of memory");
  return torch::stable::Tensor(handle);
}

}  // namespace edmfast
