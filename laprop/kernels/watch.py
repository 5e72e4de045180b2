"""Watching tensors from C++ (``watch.cpp``): whether they are still where a plan found them."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Watch", "library"]

_GRAD = "grad"
_DLPACK_CODES = {torch.bfloat16: 4}  # kDLBfloat; 2, kDLFloat, for the other dtypes of kernels
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_capsule_pointer.restype = ctypes.c_void_p


class _ExchangeAPI(ctypes.Structure):
    """``DLPackExchangeAPI`` of DLPack 1.3."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        ("functions", ctypes.c_void_p * 5),
    )


class _Entry(ctypes.Structure):
    _fields_ = (
        ("tensor", ctypes.c_void_p),
        ("handle", ctypes.c_void_p),
        ("address", ctypes.c_void_p),
    )


class _Row(ctypes.Structure):
    _fields_ = (
        ("index", ctypes.c_int64),
        ("param", ctypes.c_void_p),
        ("state", ctypes.c_void_p),
        ("at", ctypes.c_ssize_t),
        ("tensors", ctypes.c_int64),
        ("code", ctypes.c_int64),
        ("bits", ctypes.c_int64),
        ("ndim", ctypes.c_int64),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
    )


class _Watch(ctypes.Structure):
    _fields_ = (
        ("describe", ctypes.c_void_p),
        ("data_ptr", ctypes.c_void_p),
        ("none", ctypes.c_void_p),
        ("tensor_type", ctypes.c_void_p),
        ("grad", ctypes.c_void_p),
        ("group_size", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("params", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("entries", ctypes.c_void_p),
        ("end", ctypes.c_void_p),
    )


def library() -> str | None:
    """Return the file of the shared library, None where it was not built."""
    built = importlib.util.find_spec("laprop.kernels._cpu")
    return None if built is None else built.origin


@dataclass
class _Functions:
    describe: int  # addresses
    data_ptr: int
    delete: Any  # functions of ctypes
    watch: Any
    unchanged: Any
    handles: Callable[[list[Tensor]], list[Any]]  # capsules


@functools.cache
def _functions() -> _Functions | None:
    """Return what torch and watch.cpp have for it, None where something is not there."""
    file, capsule = library(), getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if file is None or capsule is None:
        return None
    api = _ExchangeAPI.from_address(_capsule_pointer(capsule, b"dlpack_exchange_api"))
    ours, theirs = ctypes.PyDLL(file), ctypes.PyDLL(torch._C.__file__)
    try:
        functions = _Functions(
            describe=api.functions[3],
            data_ptr=_address(theirs.aoti_torch_get_data_ptr),
            delete=theirs.aoti_torch_delete_tensor_object,
            watch=ours.laprop_watch,
            unchanged=ours.laprop_unchanged,
            handles=torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors,
        )
    except AttributeError:
        return None
    functions.delete.argtypes = (ctypes.c_void_p,)
    functions.watch.argtypes = (ctypes.c_void_p, ctypes.py_object)
    functions.unchanged.argtypes = (
        *(ctypes.c_void_p, ctypes.py_object, ctypes.py_object),
        ctypes.c_void_p,
    )
    return functions if api.major == 1 and functions.describe else None


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _delete(handles: list[int], delete: Any) -> None:
    for handle in handles:
        delete(handle)


class Watch:
    """The parameters of a group that have gradients, and their state.

    Args:
        params: All parameters of the group.
        state: The optimizer's state.

    Raises:
        LookupError: The functions are not there, or something is not in the state.
    """

    def __init__(self, params: list[Tensor], state: dict[Tensor, dict[str, Tensor]]) -> None:
        functions = _functions()
        if functions is None:
            raise LookupError("watch.cpp or what it needs of torch is not there")
        with_grad = [
            (i, param, param.grad) for i, param in enumerate(params) if param.grad is not None
        ]
        tensors = [t for _, param, _ in with_grad for t in (param, *state[param].values())]
        handles = [_capsule_pointer(capsule, None) for capsule in functions.handles(tensors)]
        weakref.finalize(self, _delete, handles, functions.delete).atexit = False
        entries = (_Entry * len(tensors))()
        for entry, tensor, handle in zip(entries, tensors, handles, strict=True):
            entry.tensor, entry.handle, entry.address = id(tensor), handle, tensor.data_ptr()

        # Everything that is compared by its address is held, so that nothing else can be there.
        self._held: list[Any] = [params, tensors, [state[param] for _, param, _ in with_grad]]
        rows = (_Row * len(with_grad))()
        for row, (i, param, grad) in zip(rows, with_grad, strict=True):
            layout = (ctypes.c_int64 * (2 * grad.dim()))(*grad.shape, *grad.stride())
            self._held.append(layout)
            row.index, row.param = i, id(param)
            row.state, row.tensors = id(state[param]), len(state[param])
            row.code, row.bits = _DLPACK_CODES.get(grad.dtype, 2), 8 * grad.element_size()
            row.ndim = grad.dim()
            row.shape = ctypes.addressof(layout)
            row.strides = row.shape + 8 * grad.dim()
        objects = (ctypes.c_void_p * len(params))(*map(id, params))
        self._held += [rows, objects, entries]
        found = _Watch(
            *(functions.describe, functions.data_ptr, id(None), id(Tensor), id(_GRAD)),
            *(len(params), len(rows), ctypes.addressof(objects), ctypes.addressof(rows)),
            *(ctypes.addressof(entries), ctypes.addressof(entries) + ctypes.sizeof(entries)),
        )
        self._unchanged, self._watch = functions.unchanged, ctypes.byref(found)
        if not functions.watch(self._watch, state):
            raise LookupError("a parameter's state is not in the optimizer's")

    def unchanged(self, params: list[Tensor], state: dict[Tensor, Any], grads: Any) -> bool:
        """Return whether nothing has changed but where gradients are.

        Args:
            params: The group's, a list.
            state: The optimizer's.
            grads: A ctypes array that takes the address of each gradient.
        """
        return bool(self._unchanged(self._watch, params, state, grads))
