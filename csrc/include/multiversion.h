// Compiles a hot loop for the baseline, AVX2 and AVX-512 and picks one when the library is loaded.
// Arithmetic is unfused (portable.h), so the versions agree in every bit.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(EDMFAST_NO_MULTIVERSION)
#define EDMFAST_HAS_TARGETS
#define EDMFAST_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EDMFAST_MULTIVERSION
#endif
