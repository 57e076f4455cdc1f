// The Python module of the library: doors to CPU kernels that cost a tenth of the dispatcher, and a comparison of two
// tensors at the speed of memory. `edmfast/ops/_shared/door.py` opens it.
//
// Tensors are read by DLPack's table of C functions, which torch offers since 2.10 and which costs some 30 ns for a
// tensor. The doors serve plain calls only: they return None wherever a call may need more than numbers, so that the
// public function takes the way of the dispatcher, which knows all errors, derivatives, modes and layouts.
#include <cstring>

#include "combine.h"
#include "plain.h"
#include "resample.h"

namespace edmfast {
namespace {

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
    {"resample", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(resample_of_python)), METH_FASTCALL,
     nullptr},
    {"same", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(same)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace edmfast

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&edmfast::module); }
