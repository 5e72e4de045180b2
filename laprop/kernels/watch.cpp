// Whether a param group is where it was at the last step, and where its gradients are now.
//
// What Plan._unchanged in plan.py finds out, in a fraction of its time: for a network of many small
// tensors that takes as long as the step itself. It goes through Python's lists and dicts by
// CPython's stable ABI, declared here so that no headers of Python are needed. Where tensors are it
// asks torch: by its stable C interface for those that it has a handle of, and for gradients, new
// ones at each step, by the function that torch offers for DLPack. The caller holds the GIL.

#include <cstdint>

extern "C" {
struct PyObject;
intptr_t PyList_Size(PyObject*);
PyObject* PyList_GetItem(PyObject*, intptr_t);                           // borrowed
int PyDict_Next(PyObject*, intptr_t* at, PyObject** key, PyObject** value);  // borrowed
PyObject* PyObject_GetAttr(PyObject*, PyObject*);
PyObject* PyObject_Type(PyObject*);
void Py_DecRef(PyObject*);
void PyErr_Clear();
}

#if defined(__GNUC__) && !defined(_WIN32)
#define EXPORT extern "C" __attribute__((visibility("default")))
#else
#define EXPORT extern "C"
#endif

namespace {

// DLTensor of DLPack 1.
struct DLTensor {
  char* data;
  int32_t device_type, device_id, ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
using Describe = int (*)(PyObject*, DLTensor*);
using DataPtr = int32_t (*)(void* handle, void** address);

struct Entry {
  PyObject* tensor;
  void* handle;
  const void* address;
};

// A parameter that has a gradient. The same layout as in watch.py.
struct Row {
  int64_t index;  // in the group
  PyObject* param;
  PyObject* state;  // its dict
  intptr_t at;      // where that is in the optimizer's state, for PyDict_Next
  int64_t tensors;  // how many are in its state
  int64_t code, bits, ndim;
  const int64_t *shape, *strides;  // of its gradient
};

// The same layout as in watch.py, which owns all that is pointed to.
struct Watch {
  Describe describe;
  DataPtr data_ptr;
  PyObject *none, *tensor_type, *grad;  // grad: the attribute's name
  int64_t group_size, count;
  PyObject* const* params;  // of the group
  Row* rows;
  const Entry *entries, *end;  // of each row, the parameter and what is in its state
};

// Whether a gradient is laid out as it was; then also its address.
bool locate(const Watch& watch, const Row& row, PyObject* grad, const void** address) {
  PyObject* const type = PyObject_Type(grad);
  Py_DecRef(type);  // which others hold
  DLTensor found;
  if (type != watch.tensor_type) return false;
  if (watch.describe(grad, &found) != 0) return PyErr_Clear(), false;  // it has no memory
  if (found.code != row.code || found.bits != row.bits || found.ndim != row.ndim) return false;
  for (int64_t i = 0; i < row.ndim; ++i)
    if (found.shape[i] != row.shape[i] || found.strides[i] != row.strides[i]) return false;
  *address = found.data + found.byte_offset;
  return true;
}

}  // namespace

// Find the rows in the optimizer's state. Returns whether all are there.
EXPORT int32_t laprop_watch(Watch* watch, PyObject* state) {
  intptr_t at = 0;
  for (Row* row = watch->rows; row < watch->rows + watch->count; ++row) {
    PyObject *key, *value;
    bool again = at != 0;
    for (;;) {
      row->at = at;
      if (!PyDict_Next(state, &at, &key, &value)) {
        if (!again) return 0;
        again = false;
        at = 0;
      } else if (key == row->param && value == row->state) {
        break;
      }
    }
  }
  return 1;
}

// Returns whether nothing has changed but where gradients are; these go to grads, one of each row.
EXPORT int32_t laprop_unchanged(const Watch* watch, PyObject* params, PyObject* state,
                                const void** grads) {
  if (PyList_Size(params) != watch->group_size) return PyErr_Clear(), 0;
  // Loops of their own, in which the processor can wait for the memory of several tensors at once.
  for (const Entry* entry = watch->entries; entry < watch->end; ++entry) {
    void* address;
    if (watch->data_ptr(entry->handle, &address) != 0 || address != entry->address) return 0;
  }
  const Row* const end = watch->rows + watch->count;
  const Entry* entry = watch->entries;
  for (const Row* row = watch->rows; row < end; ++row) {
    PyObject *key, *value;
    intptr_t at = row->at;
    if (!PyDict_Next(state, &at, &key, &value)) return 0;
    if (key != row->param || value != row->state) return 0;
    ++entry;
    at = 0;
    int64_t left = row->tensors;
    while (PyDict_Next(row->state, &at, &key, &value))
      if (left-- == 0 || value != entry++->tensor) return 0;
    if (left != 0) return 0;
  }
  const Row* row = watch->rows;
  for (int64_t i = 0; i < watch->group_size; ++i) {
    PyObject* const param = watch->params[i];
    if (PyList_GetItem(params, i) != param) return 0;
    PyObject* const grad = PyObject_GetAttr(param, watch->grad);
    if (!grad) return PyErr_Clear(), 0;
    Py_DecRef(grad);  // which the parameter holds
    const bool has_row = row < end && row->index == i;
    if ((grad != watch->none) != has_row) return 0;
    if (has_row && !locate(*watch, *row++, grad, grads++)) return 0;
  }
  return 1;
}
