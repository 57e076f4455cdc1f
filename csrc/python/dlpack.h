// The part of DLPack 1 by which tensors are read without Python: https://dmlc.github.io/dlpack/latest/c_api.html. Its
// layouts are a standard, and torch's own header of them is closed to libraries of the stable interface.
#pragma once
#include <cstdint>

namespace edmfast {

constexpr const char* kNameOfDLPack = "dlpack_exchange_api";
constexpr int32_t kCpuOfDLPack = 1;
constexpr uint8_t kIntOfDLPack = 0, kFloatOfDLPack = 2, kBFloatOfDLPack = 4;

// DLTensor: the tensor owns all that it points to.
struct TensorView {
  void* data;
  struct {
    int32_t type, index;
  } device;
  int32_t dims;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } type;
  int64_t* sizes;
  int64_t* strides;
  uint64_t byte_offset;
};

// DLPackExchangeAPI, in which only `view` is used: it fills a TensorView from a Python tensor and returns 0, or -1 with
// a Python error.
struct ExchangeTable {
  struct {
    uint32_t major, minor;
  } version;
  ExchangeTable* previous;
  void (*allocate)();
  void (*export_tensor)();
  void (*import_tensor)();
  int (*view)(void* tensor, TensorView* view);
  void (*stream)();
};

}  // namespace edmfast
