// The work of every CUDA host function around its kernel: device checks, stream, grid, and launch check.
#pragma once
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

namespace edmfast {

// A kernel that reads a host pointer makes an illegal access, so this is checked before the launch.
inline void check_same_device(const torch::stable::Tensor& tensor, const torch::stable::Tensor& like,
                              const char* name) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == like.get_device_index(), name,
                  " must be on the CUDA device of the first argument, index ", like.get_device_index());
}

inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  void* stream = nullptr;
  const auto error = aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream);
  STD_TORCH_CHECK(error == 0, "no current CUDA stream on device ", tensor.get_device_index());
  return static_cast<cudaStream_t>(stream);
}

// The blocks of the grid's x dimension for `work` items, with `per_block` of them in each.
inline unsigned grid_of(int64_t work, int64_t per_block) {
  const int64_t blocks = (work + per_block - 1) / per_block;
  STD_TORCH_CHECK(blocks < (int64_t{1} << 31), "too much work for one launch: ", work);
  return static_cast<unsigned>(blocks);
}

inline void check_launch(const char* name) {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "edmfast::", name, " did not launch: ", cudaGetErrorString(error));
}

}  // namespace edmfast
