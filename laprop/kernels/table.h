// The table of addresses, which tensors.cpp fills and a kernel reads.

#pragma once

#include <cstdint>

#if defined(__GNUC__) && !defined(_WIN32)
#define EXPORT extern "C" __attribute__((visibility("default")))
#else
#error "no function multi-versioning here: the package works without its kernels"
#endif

// The columns of the table; each holds one number per parameter. The first is the number of
// elements, the others are addresses, or 0 if the column is not in use. rows.py has the same order.
enum Column {
  kNumel, kParam, kGrad, kExpAvg, kExpAvgSq, kMaximum, kMean, kMaster, kStep, kWeight, kSqWeight,
  kColumns
};
