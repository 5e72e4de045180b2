// What the C++ files share: the number of their interface, and the table of addresses, which
// tensors.cpp fills and a kernel reads.

#pragma once

#include <cstdint>

#if defined(__GNUC__) && !defined(_WIN32)
#define EXPORT extern "C" __attribute__((visibility("default")))
#else
#error "no function multi-versioning here: the package works without its kernels"
#endif

// The number of the interface between these files and the Python files; native.py has the same.
// Raise both when a signature, a structure, a flag, a code or a result of a kernel changes. A library
// that was built before the change is then refused, and not called with other arguments than it reads.
constexpr int64_t kInterface = 1;

// The columns of the table; each holds one number per parameter. The first is the number of
// elements, the others are addresses, or 0 if the column is not in use. native.py has the same order.
enum Column {
  kNumel, kParam, kGrad, kExpAvg, kExpAvgSq, kMaximum, kMean, kMaster, kStep, kWeight, kSqWeight,
  kColumns
};
