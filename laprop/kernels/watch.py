"""Watching tensors from C++ (``watch.cpp``): whether they are still where a plan found them."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor

__all__ = ["Watch", "library"]

_GRAD = "grad"
_DLPACK_CODES = {torch.bfloat16: 4}  # kDLBfloat; 2, kDLFloat, for the other dtypes of kernels
_from_dlpack = ctypes.pythonapi.PyCapsule_GetPointer
_from_dlpack.argtypes, _from_dlpack.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p


class _ExchangeAPI(ctypes.Structure):
    """``DLPackExchangeAPI`` of DLPack 1.3."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        ("functions", ctypes.c_void_p * 5),
    )


class _Entry(ctypes.Structure):
    _fields_ = (("tensor", ctypes.c_void_p), ("address", ctypes.c_void_p))


class _Row(ctypes.Structure):
    _fields_ = (
        ("index", ctypes.c_int64),
        ("param", ctypes.c_void_p),
        ("address", ctypes.c_void_p),
        ("state", ctypes.c_void_p),
        ("at", ctypes.c_ssize_t),
        ("entries", ctypes.c_int64),
        ("code", ctypes.c_int64),
        ("bits", ctypes.c_int64),
        ("ndim", ctypes.c_int64),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
    )


class _Watch(ctypes.Structure):
    _fields_ = (
        ("describe", ctypes.c_void_p),
        ("none", ctypes.c_void_p),
        ("tensor_type", ctypes.c_void_p),
        ("grad", ctypes.c_void_p),
        ("group_size", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("params", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("entries", ctypes.c_void_p),
    )


def library() -> str | None:
    """Return the file of the shared library, None where it was not built."""
    built = importlib.util.find_spec("laprop.kernels._cpu")
    return None if built is None else built.origin


@functools.cache
def _functions() -> tuple[int, Any, Any] | None:
    """Return torch's description of a tensor for DLPack, and the two functions of watch.cpp."""
    file, capsule = library(), getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if file is None or capsule is None:
        return None
    api = _ExchangeAPI.from_address(_from_dlpack(capsule, b"dlpack_exchange_api"))
    loaded = ctypes.PyDLL(file)
    if api.major != 1 or not hasattr(loaded, "laprop_unchanged"):
        return None
    watch, unchanged = loaded.laprop_watch, loaded.laprop_unchanged
    watch.argtypes = (ctypes.c_void_p, ctypes.py_object)
    unchanged.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.py_object, ctypes.c_void_p)
    return api.functions[3], watch, unchanged


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
            raise LookupError("watch.cpp was not built")
        describe, watch, self._unchanged = functions
        with_grad = [
            (i, param, param.grad) for i, param in enumerate(params) if param.grad is not None
        ]
        entries = [tensor for _, param, _ in with_grad for tensor in state[param].values()]
        # Everything that is compared by its address is held, so that nothing else can be there.
        self._held: list[Any] = [params, entries, [state[param] for _, param, _ in with_grad]]
        rows = (_Row * len(with_grad))()
        for row, (i, param, grad) in zip(rows, with_grad, strict=True):
            layout = (ctypes.c_int64 * (2 * grad.dim()))(*grad.shape, *grad.stride())
            self._held.append(layout)
            row.index, row.param, row.address = i, id(param), param.data_ptr()
            row.state, row.entries = id(state[param]), len(state[param])
            row.code, row.bits = _DLPACK_CODES.get(grad.dtype, 2), 8 * grad.element_size()
            row.ndim = grad.dim()
            row.shape = ctypes.addressof(layout)
            row.strides = row.shape + 8 * grad.dim()
        objects = (ctypes.c_void_p * len(params))(*map(id, params))
        places = (_Entry * len(entries))(*((id(e), e.data_ptr()) for e in entries))
        self._held += [rows, objects, places]
        found = _Watch(
            describe, id(None), id(Tensor), id(_GRAD), len(params), len(rows),
            ctypes.addressof(objects), ctypes.addressof(rows), ctypes.addressof(places),
        )  # fmt: skip
        self._watch = ctypes.byref(found)
        if not watch(self._watch, state):
            raise LookupError("a parameter's state is not in the optimizer's")

    def unchanged(self, params: list[Tensor], state: dict[Tensor, Any], grads: Any) -> bool:
        """Return whether nothing has changed but where gradients are.

        Args:
            params: The group's, a list.
            state: The optimizer's.
            grads: A ctypes array that takes the address of each gradient.
        """
        return bool(self._unchanged(self._watch, params, state, grads))
