// A door to the CPU kernel of systematic_resample, whose work on a few hundred small populations takes less time than
// the dispatcher and five calls of torch.empty.
#pragma once
#include "../cpu/systematic_resample.h"
#include "plain.h"

namespace edmfast {
namespace {

// A new CPU tensor [rows] or [rows, columns] of torch, as a Python object with its memory; null where torch refuses.
PyObject* new_tensor(uint8_t code, uint8_t bits, int64_t rows, int64_t columns, void*& data) {
  int64_t sizes[2] = {rows, columns}, strides[2] = {columns, 1};
  if (columns == 0) strides[0] = 1;
  TensorView wanted{nullptr, {kCpuOfDLPack, 0}, columns == 0 ? 1 : 2, {code, bits, 1}, sizes, strides, 0};
  ManagedTensor* made = nullptr;
  void* object = nullptr;
  const auto ignore = [](void*, const char*, const char*) {};
  if (torch_.table->allocate(&wanted, &made, nullptr, ignore) != 0 || made == nullptr) return nullptr;
  data = static_cast<char*>(made->tensor.data) + made->tensor.byte_offset;
  // torch takes the tensor over, even where it raises
  if (torch_.table->import_tensor(made, &object) != 0) return nullptr;
  return static_cast<PyObject*>(object);
}

// resample(log_weights, uniform, ess_threshold) -> a tuple of five tensors, or None where the dispatcher is needed.
PyObject* resample_of_python(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 3 || torch_.table == nullptr || !PyFloat_CheckExact(arguments[2]) || !nobody_watches()) return none();
  const bool recorded = is_recorded();
  TensorView weights;
  if (!read(arguments[0], recorded, weights) || weights.dims != 2 || !is_contiguous(weights)) return none();
  const ScalarType dtype = dtype_of(weights);
  if (dtype != ScalarType::Float && dtype != ScalarType::Double) return none();
  Resampling job{dtype, weights.sizes[0], weights.sizes[1], data_of<char>(weights)};
  if (job.populations < 1 || job.particles < 1 || job.particles >= int64_t{1} << 31) return none();
  int64_t points = 0;
  if (!read_vector(arguments[1], recorded, kFloatOfDLPack, job.uniform, points) || points != job.populations)
    return none();
  job.ess_threshold = PyFloat_AsDouble(arguments[2]);
  if (!(job.ess_threshold >= 0 && job.ess_threshold <= 1)) return none();

  struct Kind {
    uint8_t code, bits;
    int64_t columns;
  };
  // ancestors, log_mean, ess, resampled, degenerate
  const Kind kinds[5] = {{kIntOfDLPack, 32, job.particles}, {kFloatOfDLPack, 64, 0}, {kFloatOfDLPack, 64, 0},
                         {kBoolOfDLPack, 8, 0}, {kIntOfDLPack, 32, 0}};
  void* memory[5];
  Owned results(PyTuple_New(5));
  if (results.get() == nullptr) return nullptr;
  for (int i = 0; i < 5; ++i) {
    PyObject* const made = new_tensor(kinds[i].code, kinds[i].bits, job.populations, kinds[i].columns, memory[i]);
    if (made == nullptr) {
      PyErr_Clear();  // the dispatcher raises the same error in words
      return none();
    }
    PyTuple_SetItem(results.get(), i, made);
  }
  job.ancestors = static_cast<int32_t*>(memory[0]), job.log_mean = static_cast<double*>(memory[1]);
  job.ess = static_cast<double*>(memory[2]), job.resampled = static_cast<bool*>(memory[3]);
  job.degenerate = static_cast<int32_t*>(memory[4]);

  constexpr int64_t kLong = 1 << 14;
  const bool done = ran(job.populations * job.particles >= kLong, [&] { resample_systematic(job); });
  return done ? results.release() : none();
}

}  // namespace
}  // namespace edmfast
