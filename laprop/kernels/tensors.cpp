// Finds which rows of a step a kernel can take, and their addresses. This is done in every step.
//
// A row is a parameter with its gradient and its state. Torch describes a tensor through DLPack, a
// standard of plain C structures. This file therefore includes no header of torch or Python, and
// one build serves every version of both.

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "table.h"

namespace {

// --- the part of DLPack that is needed here ------------------------------------------------------
// https://dmlc.github.io/dlpack/latest/c_api.html

struct Device {
  int32_t type, id;
};
constexpr int32_t kCpu = 1;

struct Dtype {
  uint8_t code, bits;
  uint16_t lanes;
};

struct Described {  // DLTensor
  char* data;
  Device device;
  int32_t ndim;
  Dtype dtype;
  const int64_t *shape, *strides;
  uint64_t byte_offset;
};

}  // namespace

// The functions that describe a tensor. `item` returns an object of a Python list. If `describe`
// (of DLPack 1.3) is given, the object is a tensor; if it is null, the object is a capsule that
// torch made for the tensor, and `open` opens it. `none` is Python's None, which stands for a
// tensor that a kernel cannot take. `forget` clears a Python exception.
struct Exchange {
  void* (*item)(void* list, intptr_t index);
  int (*describe)(void* tensor, Described* described);
  const Described* (*open)(void* capsule, const char* name);
  void (*forget)();
  const void* none;
};

namespace {

bool ask(const Exchange& exchange, void* objects, int64_t index, Described* described) {
  void* const object = exchange.item(objects, intptr_t(index));
  if (object == exchange.none) return false;
  if (exchange.describe) {
    if (!exchange.describe(object, described)) return true;
  } else if (const Described* const opened = exchange.open(object, "dltensor")) {
    *described = *opened;
    return true;
  }
  exchange.forget();
  return false;
}

// --- layouts -------------------------------------------------------------------------------------

int64_t numel(const Described& x) {
  return std::accumulate(x.shape, x.shape + x.ndim, int64_t(1), [](int64_t a, int64_t b) { return a * b; });
}

// Whether the elements fill a piece of memory without gaps, in any order of the dimensions.
bool dense(const Described& x) {
  constexpr int kMost = 64;  // dimensions, as in torch
  if (x.ndim > kMost || (x.ndim && !x.strides)) return false;
  int order[kMost], count = 0;  // dimensions by falling stride
  bool sorted = true;
  for (int d = 0; d < x.ndim; ++d) {
    if (x.shape[d] == 1) continue;  // its stride has no meaning
    sorted = sorted && (!count || x.strides[order[count - 1]] >= x.strides[d]);
    order[count++] = d;
  }
  if (!sorted)
    std::sort(order, order + count, [&](int a, int b) { return x.strides[a] > x.strides[b]; });
  int64_t expected = 1;
  while (count--) {
    if (x.strides[order[count]] != expected) return false;
    expected *= x.shape[order[count]];
  }
  return true;
}

bool same_layout(const Described& x, const Described& y, int64_t elements) {
  if (x.ndim != y.ndim || !std::equal(x.shape, x.shape + x.ndim, y.shape)) return false;
  if (!elements || !x.ndim) return true;
  if (!y.strides) return false;
  for (int d = 0; d < x.ndim; ++d)
    if (x.shape[d] != 1 && x.strides[d] != y.strides[d]) return false;
  return true;
}

}  // namespace

// Fill the table of addresses, and mark each row that a kernel can take.
//
// Arguments:
//   objects: a Python list of `used` columns of `count` objects each, the parameters first.
//   columns, dtypes: for each of these columns, its column in the table, and the dtype that its
//     tensors have to have: code x 256 + bits, as DLPack numbers them.
//   device_type, device_id: the device that the tensors have to be on, as DLPack numbers it.
//   scalars_on_device: whether the scalars have to be on this device; if not, they have to be on the
//     CPU.
//   table: kColumns columns of `count` numbers, all 0.
//   fits: `count` numbers, set to 1 for a row whose tensors are on the right device, of the right
//     dtype, dense, and laid out as their parameter (scalars: without dimensions), else to 0.
//
// Returns the number of rows that fit. The caller keeps references to the tensors and holds
// Python's global lock.
EXPORT int64_t laprop_look(const Exchange* exchange, void* objects, const int32_t* columns,
                           const int32_t* dtypes, int32_t used, int64_t count,
                           int32_t device_type, int32_t device_id, int32_t scalars_on_device,
                           int64_t* table, int8_t* fits) {
  const Device device{device_type, device_id};
  int64_t fitting = 0;
  for (int64_t i = 0; i < count; ++i) {
    Described param, other;
    fits[i] = 0;
    if (!ask(*exchange, objects, i, &param)) continue;
    const int64_t elements = numel(param);
    bool fit = !elements || dense(param);
    for (int32_t k = 0; fit && k < used; ++k) {
      if (k && !ask(*exchange, objects, k * count + i, &other)) {
        fit = false;
        break;
      }
      const Described& x = k ? other : param;
      const bool scalar = columns[k] >= kStep;
      const Device where = scalar && !scalars_on_device ? Device{kCpu, 0} : device;
      fit = x.dtype.code * 256 + x.dtype.bits == dtypes[k] && x.dtype.lanes == 1 &&
            x.device.type == where.type && x.device.id == where.id &&
            (scalar ? x.ndim == 0 : !k || same_layout(param, x, elements));
      table[columns[k] * count + i] = reinterpret_cast<int64_t>(x.data + x.byte_offset);
    }
    table[kNumel * count + i] = elements;
    fits[i] = fit;
    fitting += fit;
  }
  return fitting;
}
