// The part of DLPack 1 by which tensors are read without Python: https://dmlc.github.io/dlpack/latest/c_api.html. Its
// layouts are a standard, and torch's own header of them is closed to libraries of the stable interface.
#pragma once
#include <cstdint>

namespace edmfast {

constexpr const char* kNameOfDLPack = "dlpack_exchange_api";
constexpr int32_t kCpuOfDLPack = 1;
constexpr uint8_t kIntOfDLPack = 0, kFloatOfDLPack = 2, kBFloatOfDLPack = 4, kBoolOfDLPack = 6;

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

// DLManagedTensorVersioned: a tensor with its owner.
struct ManagedTensor {
  struct {
    uint32_t major, minor;
  } version;
  void* owner;
  void (*release)(ManagedTensor* self);
  uint64_t flags;
  TensorView tensor;
};

// DLPackExchangeAPI. `view` fills a TensorView from a Python tensor, `allocate` makes a tensor like a view, of which it
// reads no memory, and `import_tensor` makes a Python tensor of one that it takes over. Each returns 0, or -1 with an
// error.
struct ExchangeTable {
  struct {
    uint32_t major, minor;
  } version;
  ExchangeTable* previous;
  int (*allocate)(TensorView* like, ManagedTensor** made, void* context,
                  void (*set_error)(void* context, const char* kind, const char* message));
  void (*export_tensor)();
  int (*import_tensor)(ManagedTensor* tensor, void** object);
  int (*view)(void* tensor, TensorView* view);
  void (*stream)();
};

}  // namespace edmfast
