// The Python module of the library: a door to the CPU kernel of linear_combination that costs a tenth of the
// dispatcher, and a comparison of two tensors at the speed of memory. `edmfast/ops/_shared/door.py` opens it.
//
// Tensors are read by DLPack's table of C functions, which torch offers since 2.10 and which costs some 30 ns for a
// tensor. The door serves plain calls only: it returns None wherever a call may need more than numbers, so that the
// public function takes the way of the dispatcher, which knows all errors, derivatives, modes and layouts.
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cstring>
#include <exception>

#include "../cpu/linear_combination.h"
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

bool read_coefficients(PyObject* object, bool recorded, Combination& all) {
  const Entries entries(object);
  if (entries.size() < 0) {
    const double* data = nullptr;
    int64_t size = 0;
    if (!read_vector(object, recorded, kFloatOfDLPack, data, size) || size != all.terms) return false;
    std::copy_n(data, size, all.coefficients);
    return true;
  }
  if (entries.size() != all.terms) return false;
  for (int k = 0; k < all.terms; ++k) {
    PyObject* const number = entries[k];
    if (!PyFloat_Check(number) && !PyLong_CheckExact(number)) return false;
    all.coefficients[k] = PyFloat_AsDouble(number);
    if (PyErr_Occurred()) {  // an integer may be too large
      PyErr_Clear();
      return false;
    }
    if (!(all.coefficients[k] - all.coefficients[k] == 0)) return false;  // not finite
  }
  return true;
}

bool read_int(PyObject* object, int64_t most, int64_t& number) {
  if (!PyLong_CheckExact(object)) return false;
  number = PyLong_AsLongLong(object);
  if (PyErr_Occurred()) {
    PyErr_Clear();
    return false;
  }
  return number >= 0 && number <= most;
}

// The arguments are seeds, nodes, weights, stream and first_sample.
bool read_noise(PyObject* const* arguments, bool recorded, const Combination& all, CombinationNoise& noise) {
  int64_t seeds = 0, weights = 0;
  if (!read_vector(arguments[0], recorded, kIntOfDLPack, noise.seeds, seeds) ||
      !read_vector(arguments[1], recorded, kIntOfDLPack, noise.nodes, noise.count) ||
      !read_vector(arguments[2], recorded, kFloatOfDLPack, noise.weights, weights))
    return false;
  if (weights != noise.count || (seeds != 1 && seeds != all.rows)) return false;
  noise.each = seeds != 1;
  return (!noise.each || noise.first_sample == 0) && noise.first_sample + all.rows <= int64_t{1} << 32 &&
         all.elements < int64_t{1} << 34;
}

PyObject* none() {
  Py_INCREF(Py_None);
  return Py_None;
}

// combine(tensors, coefficients, seeds, nodes, weights, stream, first_sample) -> Tensor, or None where the dispatcher
// is needed.
PyObject* combine_of_python(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 7 || torch_.table == nullptr) return none();
  const Entries tensors(arguments[0]);
  if (tensors.size() < 1 || tensors.size() > kMaxTerms || !nobody_watches()) return none();
  const bool recorded = !Owned(PyObject_CallNoArgs(torch_.records)).is_false();
  Combination all{};
  all.terms = static_cast<int>(tensors.size());
  TensorView first, view;
  for (int k = 0; k < all.terms; ++k) {
    if (!read(tensors[k], recorded, k == 0 ? first : view)) return none();
    if (k > 0 && (!same_layout(first, view) || dtype_of(first) != dtype_of(view))) return none();
    all.tensors[k] = data_of<char>(k == 0 ? first : view);
  }
  all.dtype = dtype_of(first);
  if (all.dtype == ScalarType::Undefined || first.dims < 1 || elements_of(first) == 0) return none();
  all.rows = first.sizes[0], all.elements = elements_of(first) / all.rows;
  if (!read_coefficients(arguments[1], recorded, all)) return none();
  CombinationNoise noise{};
  if (!read_int(arguments[5], 15, noise.stream) || !read_int(arguments[6], (int64_t{1} << 32) - 1, noise.first_sample))
    return none();
  const bool noisy = arguments[2] != Py_None;
  if (noisy && !(read_noise(arguments + 2, recorded, all, noise) && is_contiguous(first))) return none();
  if (!noisy && (arguments[3] != Py_None || arguments[4] != Py_None)) return none();
  if (!noisy && !fills_memory(first.dims, first.sizes, first.strides)) return none();
  all.noise = noisy ? &noise : nullptr;

  // the result is a tensor of torch's own, with the strides of the first one, since that fills its memory
  Owned out(PyObject_CallFunctionObjArgs(torch_.empty_like, tensors[0], nullptr));
  if (out.get() == nullptr) return nullptr;
  if (!read(out.get(), false, view) || !same_layout(first, view)) return none();
  all.out = const_cast<char*>(data_of<char>(view));

  std::exception_ptr error;
  const auto run = [&] {
    try {
      combine(all);
    } catch (...) {
      error = std::current_exception();
    }
  };
  constexpr int64_t kLong = 1 << 17;  // from here on other threads of Python are worth a release of the lock
  if (all.rows * all.elements * std::max<int64_t>(1, 4 * noise.count) >= kLong) {
    Py_BEGIN_ALLOW_THREADS run();
    Py_END_ALLOW_THREADS
  } else {
    run();
  }
  // the dispatcher raises the same error in words
  return error ? none() : out.release();
}

// same(a, b) -> whether two tensors hold the same bits, or None where torch has to compare them.
PyObject* same(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  TensorView a, b;
  if (count != 2 || torch_.table == nullptr || !nobody_watches()) return none();
  if (!read(arguments[0], false, a) || !read(arguments[1], false, b)) return none();
  const bool alike = a.type.code == b.type.code && a.type.bits == b.type.bits && same_layout(a, b);
  if (!alike || !fills_memory(a.dims, a.sizes, a.strides)) return none();
  const size_t bytes = static_cast<size_t>(elements_of(a)) * a.type.bits / 8;
  return PyBool_FromLong(std::memcmp(data_of<char>(a), data_of<char>(b), bytes) == 0);
}

// prepare(Tensor, table, empty_like, is_grad_enabled, forward_ad, watchers) -> whether the door is open
PyObject* prepare(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 6 || !PyTuple_CheckExact(arguments[5])) {
    PyErr_SetString(PyExc_TypeError, "prepare takes six arguments, the last one a tuple");
    return nullptr;
  }
  const auto* const table = static_cast<const ExchangeTable*>(PyCapsule_GetPointer(arguments[1], kNameOfDLPack));
  if (table == nullptr) return nullptr;
  if (table->version.major != 1 || table->view == nullptr) Py_RETURN_FALSE;
  for (Py_ssize_t i = 0; i < count; ++i) Py_INCREF(arguments[i]);
  torch_.tensor = reinterpret_cast<PyTypeObject*>(arguments[0]);
  torch_.empty_like = arguments[2], torch_.records = arguments[3];
  torch_.forward_mode = arguments[4], torch_.watchers = arguments[5];
  torch_.requires_grad = PyUnicode_InternFromString("requires_grad");
  torch_.is_neg = PyUnicode_InternFromString("is_neg");
  torch_.current_level = PyUnicode_InternFromString("_current_level");
  torch_.table = table;
  Py_RETURN_TRUE;
}

PyMethodDef methods[] = {
    {"prepare", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(prepare)), METH_FASTCALL, nullptr},
    {"combine", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(combine_of_python)), METH_FASTCALL,
     nullptr},
    {"same", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(same)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace edmfast

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&edmfast::module); }
