// A door to the CPU kernel of linear_combination that costs a tenth of the dispatcher.
#pragma once
#include <algorithm>

#include "../cpu/linear_combination.h"
#include "plain.h"

namespace edmfast {
namespace {

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

// combine(tensors, coefficients, seeds, nodes, weights, stream, first_sample) -> Tensor, or None where the dispatcher
// is needed.
PyObject* combine_of_python(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 7 || torch_.table == nullptr) return none();
  const Entries tensors(arguments[0]);
  if (tensors.size() < 1 || tensors.size() > kMaxTerms || !nobody_watches()) return none();
  const bool recorded = is_recorded();
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

  constexpr int64_t kLong = 1 << 17;
  const int64_t work = all.rows * all.elements * std::max<int64_t>(1, 4 * noise.count);
  return ran(work >= kLong, [&] { combine(all); }) ? out.release() : none();
}

}  // namespace
}  // namespace edmfast
