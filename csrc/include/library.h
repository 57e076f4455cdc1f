// The namespace of torch in which operators are registered: `edmfast`, unless a build names another one, so that two
// builds can be loaded into one process.
#pragma once

#include <torch/csrc/stable/library.h>

#ifndef EDMFAST_NAMESPACE
#define EDMFAST_NAMESPACE edmfast
#endif

// torch pastes its argument into names without expanding it, so it is expanded here first
#define EDMFAST_EXPANDED_LIBRARY(name, m) STABLE_TORCH_LIBRARY(name, m)
#define EDMFAST_EXPANDED_KERNELS(name, device, m) STABLE_TORCH_LIBRARY_IMPL(name, device, m)

#define EDMFAST_LIBRARY(m) EDMFAST_EXPANDED_LIBRARY(EDMFAST_NAMESPACE, m)
#define EDMFAST_KERNELS(device, m) EDMFAST_EXPANDED_KERNELS(EDMFAST_NAMESPACE, device, m)
