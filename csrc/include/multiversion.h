// Compiles a hot loop for the baseline, AVX2 and AVX-512, and picks one when the library is loaded. Arithmetic is
// unfused (portable.h), so the versions agree in every bit.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(EDMFAST_NO_MULTIVERSION)
#define EDMFAST_HAS_TARGETS
#define EDMFAST_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
// The same for a loop that is written in two ways: `kConverts` says whether vectors of 64-bit integers convert from
// and to double in one instruction.
#define EDMFAST_BY_CONVERSION(SIGNATURE, ...)                        \
  __attribute__((target("arch=x86-64-v4"))) inline SIGNATURE {       \
    constexpr bool kConverts = true;                                 \
    __VA_ARGS__                                                      \
  }                                                                  \
  __attribute__((target("arch=x86-64-v3"))) inline SIGNATURE {       \
    constexpr bool kConverts = false;                                \
    __VA_ARGS__                                                      \
  }                                                                  \
  __attribute__((target("default"))) inline SIGNATURE {              \
    constexpr bool kConverts = false;                                \
    __VA_ARGS__                                                      \
  }
// The same for a loop that is written in vectors: `kBytes` says how wide they are.
#define EDMFAST_BY_WIDTH(SIGNATURE, ...)                       \
  __attribute__((target("arch=x86-64-v4"))) inline SIGNATURE { \
    constexpr int kBytes = 64;                                 \
    __VA_ARGS__                                                \
  }                                                            \
  __attribute__((target("arch=x86-64-v3"))) inline SIGNATURE { \
    constexpr int kBytes = 32;                                 \
    __VA_ARGS__                                                \
  }                                                            \
  __attribute__((target("default"))) inline SIGNATURE {        \
    constexpr int kBytes = 16;                                 \
    __VA_ARGS__                                                \
  }
#else
#define EDMFAST_MULTIVERSION
#define EDMFAST_BY_WIDTH(SIGNATURE, ...) \
  inline SIGNATURE {                     \
    constexpr int kBytes = 16;           \
    __VA_ARGS__                          \
  }
#define EDMFAST_BY_CONVERSION(SIGNATURE, ...) \
  inline SIGNATURE {                          \
    constexpr bool kConverts = true;          \
    __VA_ARGS__                               \
  }
#endif
