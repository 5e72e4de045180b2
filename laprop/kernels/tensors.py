"""Ask torch for the type, dtype, device, sizes, strides and address of many tensors at once.

``tensors.cpp`` asks torch through DLPack. Since torch 2.10 DLPack is a C function that it can call;
with an older torch, Python makes a capsule for each tensor first, which takes longer.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Parameter

from laprop.kernels.native import library

__all__ = ["look"]

# A dtype as DLPack numbers it: 256 times its kind (2 float, 4 bfloat) plus its bits.
_CODES = {
    torch.float64: 2 * 256 + 64,
    torch.float32: 2 * 256 + 32,
    torch.float16: 2 * 256 + 16,
    torch.bfloat16: 4 * 256 + 16,
}
# A type of device as DLPack numbers it; torch calls AMD's "cuda" too.
_DEVICES = {"cpu": 1, "cuda": 2 if torch.version.hip is None else 10}


class _Api(ctypes.Structure):
    """``DLPackExchangeAPI`` of DLPack 1.3."""


_Api._fields_ = (
    ("major", ctypes.c_uint32),
    ("minor", ctypes.c_uint32),
    ("previous", ctypes.POINTER(_Api)),
    ("managed_tensor_allocator", ctypes.c_void_p),
    ("managed_tensor_from_py_object", ctypes.c_void_p),
    ("managed_tensor_to_py_object", ctypes.c_void_p),
    ("dltensor_from_py_object", ctypes.c_void_p),
    ("current_work_stream", ctypes.c_void_p),
)


class _Exchange(ctypes.Structure):
    """``Exchange`` in tensors.cpp."""

    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("item", "describe", "open", "forget", "none")
    )


_open_capsule = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _describe() -> int | None:
    """Return the address of torch's ``DLPackDLTensorFromPyObjectNoSync``, or None."""
    try:
        address = _open_capsule(Tensor.__dlpack_c_exchange_api__, b"dlpack_exchange_api")
    except (AttributeError, ValueError):  # an older torch, or a capsule of another name
        return None
    api = ctypes.cast(address, ctypes.POINTER(_Api))
    while api and api.contents.major != 1:
        api = api.contents.previous
    return cast("int | None", api.contents.dltensor_from_py_object) if api else None


@functools.cache
def _exchange() -> _Exchange:
    """Return the functions by which tensors.cpp asks this version of torch."""
    python = ctypes.pythonapi
    needed = (python.PyList_GetItem, python.PyCapsule_GetPointer, python.PyErr_Clear)
    item, opens, forgets = (ctypes.cast(function, ctypes.c_void_p) for function in needed)
    return _Exchange(item, _describe(), opens, forgets, id(None))


@functools.cache
def _function() -> Any:
    """Return ``laprop_look`` of tensors.cpp. Calls of it hold Python's global lock (PYFUNCTYPE)."""
    pointer, small, number = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    function = ctypes.PYFUNCTYPE(
        number,
        *(pointer, ctypes.py_object, pointer, pointer, number, number),
        *(small, small, small, pointer, pointer),
    )
    return function(("laprop_look", cast(ctypes.CDLL, library())))


@functools.lru_cache(maxsize=256)
def _wanted(columns: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> tuple[Any, Any]:
    array_of = ctypes.c_int32 * len(columns)
    return array_of(*columns), array_of(*(_CODES.get(dtype, 0) for dtype in dtypes))


def look(
    tensors: Sequence[Sequence[Tensor]],
    columns: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
    scalars: int,
    width: int,
    device: torch.device,
    scalars_on_device: bool,
    shards: bool,
) -> tuple[array[int], list[int] | None]:
    """Return the table of addresses of a step, and which of its rows a kernel can take.

    Args:
        tensors: The columns of the rows: the parameters, their gradients, then the tensors of
            their state. The caller has to keep a reference to them.
        columns: For each of these, its column in the table (see table.h).
        dtypes: For each of these, the dtype that its tensors have to have.
        scalars: How many columns at the end hold scalars.
        width: Number of columns of the table.
        device: The device that the tensors have to be on, of the type "cpu" or "cuda".
        scalars_on_device: Whether the scalars have to be on this device; if not, they have to be on
            the CPU.
        shards: Whether a step of the local tensor of a DTensor is the step of the DTensor.

    Returns:
        The table, and the indices of the rows that a kernel can take, or None if it can take all.
        It cannot take a row if one of its tensors is of a subclass (except Parameter, and with
        ``shards`` DTensor), on another device, of another dtype, not dense, not laid out as the
        row's parameter, or lazily negated, or if a scalar has dimensions.
    """
    count = len(tensors[0])
    objects: list[Any] = [*chain(*tensors)]
    # Scalars on the CPU need no check here: the CPU kernel reads them, and refuses those whose sign
    # bit is set, which only a lazy negation can do.
    negatable = count * (len(columns) if scalars_on_device else len(columns) - scalars)
    if not _plain(objects, count, negatable):
        if shards:
            objects = [*chain(*_local(tensors, scalars))]
        objects = [
            x if _plain([x], i < count, i < negatable) else None for i, x in enumerate(objects)
        ]
    exchange = _exchange()
    if exchange.describe is None:
        objects = [*map(_capsule, objects)]
    table, fits = array("q", bytes(8 * width * count)), array("b", bytes(count))
    fitting = _function()(
        ctypes.byref(exchange),
        objects,
        *_wanted(columns, dtypes),
        *(len(columns), count, _DEVICES[device.type], device.index or 0, scalars_on_device),
        *(table.buffer_info()[0], fits.buffer_info()[0]),
    )
    return table, None if fitting == count else [i for i in range(count) if fits[i]]


def _local(tensors: Sequence[Sequence[Any]], scalars: int) -> Sequence[Sequence[Any]]:
    """Return the columns with local tensors in the place of a row's DTensors, if placed alike.

    The DTensors keep the local tensors alive. Those of a partial placement stay, since a step does
    not add up.

    Args:
        tensors: The columns of the rows.
        scalars: How many columns at the end hold scalars, which are no DTensors.
    """
    module = sys.modules.get("torch.distributed.tensor")  # imported by whoever made a DTensor
    if module is None:
        return tensors
    columns = [[*column] for column in tensors]
    for i, row in enumerate(zip(*columns[:-scalars], strict=True)):
        if all(isinstance(x, module.DTensor) for x in row):
            placed = {(x.device_mesh, x.placements) for x in row}
            if len(placed) == 1 and not any(place.is_partial() for place in row[0].placements):
                for column in columns[:-scalars]:
                    column[i] = column[i].to_local()
    return columns


def _plain(tensors: list[Any], parameters: int, negatable: int) -> bool:
    """Return whether no tensor is lazily negated or of a subclass other than Parameter.

    Args:
        tensors: The tensors to check.
        parameters: How many of them, from the first on, may be of the class Parameter.
        negatable: How many of them, from the first on, are checked for a lazy negation.
    """
    types = [*map(type, tensors)]
    if types.count(Tensor) + types[:parameters].count(Parameter) < len(types):
        return False
    return not any(map(Tensor.is_neg, tensors[:negatable]))


def _capsule(tensor: Tensor | None) -> Any:
    try:
        return None if tensor is None else torch.utils.dlpack.to_dlpack(tensor)  # type: ignore[attr-defined]
    except (RuntimeError, BufferError):  # such as a sparse tensor
        return None
