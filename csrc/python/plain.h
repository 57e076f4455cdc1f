// What every function of the module needs: whether a call is plain, and what its tensors hold. A plain call asks for
// numbers alone: nobody watches it, records it or transforms it, and its tensors are torch's own on the CPU.
#pragma once
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>

#include "dlpack.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;

// What `prepare` is given, kept for the life of the process.
struct Torch {
  PyTypeObject* tensor = nullptr;    // torch.Tensor; its subclasses may mean anything
  PyObject* empty_like = nullptr;    // torch.empty_like
  PyObject* records = nullptr;       // torch.is_grad_enabled
  PyObject* forward_mode = nullptr;  // torch.autograd.forward_ad, whose _current_level is -1 outside of forward mode
  PyObject* watchers = nullptr;      // a tuple of functions that are true where someone watches or replaces calls
  PyObject *requires_grad = nullptr, *is_neg = nullptr, *current_level = nullptr;
  const ExchangeTable* table = nullptr;
} torch_;

// A reference that is given up at the end of a scope.
class Owned {
 public:
  explicit Owned(PyObject* object) : object_(object) {}
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() { Py_XDECREF(object_); }
  PyObject* get() const { return object_; }
  PyObject* release() {
    PyObject* const object = object_;
    object_ = nullptr;
    return object;
  }
  // Whether it is there and false; an error counts as true, and is forgotten.
  bool is_false() const {
    const int truth = object_ == nullptr ? -1 : PyObject_IsTrue(object_);
    if (truth < 0) PyErr_Clear();
    return truth == 0;
  }

 private:
  PyObject* object_;
};

// The entries of a list or a tuple, as borrowed references.
class Entries {
 public:
  explicit Entries(PyObject* object) : object_(object), list_(PyList_CheckExact(object) != 0) {
    size_ = list_ ? PyList_Size(object) : PyTuple_CheckExact(object) ? PyTuple_Size(object) : -1;
  }
  Py_ssize_t size() const { return size_; }  // -1 for anything else
  PyObject* operator[](Py_ssize_t i) const {
    return list_ ? PyList_GetItem(object_, i) : PyTuple_GetItem(object_, i);
  }

 private:
  PyObject* object_;
  bool list_;
  Py_ssize_t size_;
};

bool nobody_watches() {
  const Py_ssize_t count = PyTuple_Size(torch_.watchers);
  for (Py_ssize_t i = 0; i < count; ++i)
    if (!Owned(PyObject_CallNoArgs(PyTuple_GetItem(torch_.watchers, i))).is_false()) return false;
  const Owned level(PyObject_GetAttr(torch_.forward_mode, torch_.current_level));
  const long value = level.get() == nullptr ? 0 : PyLong_AsLong(level.get());
  if (PyErr_Occurred()) PyErr_Clear();
  return value < 0;
}

// Reads a plain CPU tensor whose numbers are those in its memory, and whose derivative nobody asks for.
bool read(PyObject* object, bool recorded, TensorView& view) {
  if (Py_TYPE(object) != torch_.tensor) return false;
  if (recorded && !Owned(PyObject_GetAttr(object, torch_.requires_grad)).is_false()) return false;
  // the sign of some views stands beside their memory
  if (!Owned(PyObject_CallMethodObjArgs(object, torch_.is_neg, nullptr)).is_false()) return false;
  if (torch_.table->view(object, &view) != 0) {
    PyErr_Clear();  // wrappers of torch.func and sparse tensors have no memory
    return false;
  }
  return view.device.type == kCpuOfDLPack && view.data != nullptr && view.type.lanes == 1 && view.strides != nullptr;
}

int64_t elements_of(const TensorView& view) {
  int64_t elements = 1;
  for (int32_t i = 0; i < view.dims; ++i) elements *= view.sizes[i];
  return elements;
}

// One number for each of the four dtypes, Undefined for others.
ScalarType dtype_of(const TensorView& view) {
  const auto is = [&](uint8_t code, uint8_t bits) { return view.type.code == code && view.type.bits == bits; };
  if (is(kFloatOfDLPack, 32)) return ScalarType::Float;
  if (is(kFloatOfDLPack, 64)) return ScalarType::Double;
  if (is(kFloatOfDLPack, 16)) return ScalarType::Half;
  return is(kBFloatOfDLPack, 16) ? ScalarType::BFloat16 : ScalarType::Undefined;
}

template <class T>
const T* data_of(const TensorView& view) {
  return reinterpret_cast<const T*>(static_cast<const char*>(view.data) + view.byte_offset);
}

bool same_layout(const TensorView& a, const TensorView& b) {
  return a.dims == b.dims && std::equal(a.sizes, a.sizes + a.dims, b.sizes) &&
         std::equal(a.strides, a.strides + a.dims, b.strides);
}

bool is_contiguous(const TensorView& view) {
  int64_t stride = 1;
  for (int32_t i = view.dims; i-- > 0; stride *= view.sizes[i])
    if (view.sizes[i] != 1 && view.strides[i] != stride) return false;
  return true;
}

// Reads a vector of 64-bit numbers, floats or integers.
template <class T>
bool read_vector(PyObject* object, bool recorded, uint8_t code, const T*& data, int64_t& size) {
  TensorView view;
  if (!read(object, recorded, view)) return false;
  if (view.type.code != code || view.type.bits != 64 || view.dims != 1 || !is_contiguous(view)) return false;
  data = data_of<T>(view), size = view.sizes[0];
  return true;
}

PyObject* none() {
  Py_INCREF(Py_None);
  return Py_None;
}

// Whether torch.is_grad_enabled() is true; an error counts as true.
bool is_recorded() { return !Owned(PyObject_CallNoArgs(torch_.records)).is_false(); }

// Runs a kernel and returns whether it threw nothing; where it threw, the dispatcher raises the same error in words. A
// long kernel is worth a release of the lock for other threads of Python.
template <class Work>
bool ran(bool is_long, const Work& work) {
  bool done = true;
  const auto guarded = [&] {
    try {
      work();
    } catch (...) {
      done = false;
    }
  };
  if (is_long) {
    Py_BEGIN_ALLOW_THREADS guarded();
    Py_END_ALLOW_THREADS
  } else {
    guarded();
  }
  return done;
}

}  // namespace
}  // namespace edmfast
