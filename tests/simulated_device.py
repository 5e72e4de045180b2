"""A GPU for machines without one: tensors that say cuda:0, compute on the CPU, and refuse its own.

torch's device for Python backends stands behind it, because CUDA without a GPU ends the process in
autograd. A process cannot undo this, so it needs one of its own, in which no backward pass was yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Generator, Tensor
from torch.optim.optimizer import _foreach_supported_types
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

CUDA, CPU, SIMULATED = (torch.device(name) for name in ("cuda:0", "cpu", "privateuseone:0"))
COPYING = {"copy_", "copy", "_to_copy"}  # these alone take tensors of both devices
INDEXING = {"index", "_unsafe_index", "index_put", "index_put_"}  # the indices may be on the CPU
JOINING = {"cat", "stack"}  # these take no number on the CPU beside tensors on the device either
FROM_DATA = {torch.tensor, torch.as_tensor, torch.asarray}  # they allocate where no mode looks


class OnDevice(Tensor):
    """A tensor on the device; ``held`` are its data."""

    held: Tensor
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        layout = held.size(), held.stride(), held.storage_offset()
        made = Tensor._make_wrapper_subclass(cls, *layout, dtype=held.dtype, device=SIMULATED)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        return computed(function, args, kwargs or {})

    def __reduce_ex__(self, protocol: int) -> Any:
        return self.held.__reduce_ex__(protocol)  # saved as what loading to the CPU gives

    def tolist(self) -> Any:
        return self.held.tolist()


class Dispatched(TorchDispatchMode):
    """Sees every operation; counts the floating-point numbers that each device computes."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        found = computed(function, args, kwargs or {})
        some = any(isinstance(x, Tensor) for x in flat(args))  # else it draws, fills or reads
        for x in flat(found) if some and not function.is_view else ():
            if isinstance(x, Tensor) and x.is_floating_point():
                self.counts[x.device.type] += x.numel()
        return found


class Called(TorchFunctionMode):
    """Says the device's own name to torch where a program says cuda."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        if function is torch.device:
            return function(*args, **kwargs or {})
        args = [renamed(x) for x in args]
        kwargs = {name: renamed(x) for name, x in (kwargs or {}).items()}
        if function is Tensor.cuda:
            return args[0].to(SIMULATED)
        if function is Tensor.new_tensor:
            like, *args = args
            kwargs = {"dtype": like.dtype, "device": renamed(like.device)} | kwargs
            function = torch.tensor
        device = kwargs.pop("device", None) if function in FROM_DATA else None
        made = function(*args, **kwargs)
        return made if device is None else made.to(device)


def renamed(x: Any) -> Any:
    is_name = isinstance(x, str | torch.device) and str(x) in ("cuda", "cuda:0")
    return SIMULATED if is_name else x


def each(function: Callable[[Any], Any], x: Any) -> Any:
    """Apply a function to all that is in lists and tuples."""
    return type(x)(each(function, y) for y in x) if type(x) in (list, tuple) else function(x)


def flat(x: Any) -> list[Any]:
    return [z for y in x for z in flat(y)] if type(x) in (list, tuple) else [x]


def computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute an operation on the CPU, and refuse what CUDA refuses."""
    leaves = flat([args, *kwargs.values()])
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    some = any(isinstance(x, OnDevice) for x in tensors)
    on_device = some if kwargs.get("device") is None else kwargs["device"] == SIMULATED
    if on_device and any(isinstance(x, Generator) for x in leaves):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    if some:
        check(function._schema, args, tensors)

    def held(x: Any) -> Any:
        is_device = isinstance(x, torch.device) and x == SIMULATED
        return CPU if is_device else x.held if isinstance(x, OnDevice) else x

    def placed(x: Any) -> Any:
        wraps = on_device and isinstance(x, Tensor) and id(x) not in before
        return OnDevice(x) if wraps else before.get(id(x), x)

    before = {id(x.held): x for x in tensors if isinstance(x, OnDevice)}  # returned if in place
    before |= {id(x): x for x in tensors if not isinstance(x, OnDevice)}
    kwargs = {name: each(held, x) for name, x in kwargs.items()}
    return each(placed, function(*each(held, args), **kwargs))


def check(schema: Any, args: Any, tensors: list[Tensor]) -> None:
    """Raise RuntimeError where tensors of both devices meet in an operation that takes one."""
    name = schema.name.removeprefix("aten::")
    if name in COPYING:
        return
    if name in INDEXING:
        if not isinstance(args[0], OnDevice) and any(isinstance(x, OnDevice) for x in args[1]):
            raise RuntimeError("indices should be either on cpu or on the same device (cpu)")
        tensors = [x for x in (args[0], *args[2:3]) if isinstance(x, Tensor)]
    pairs = zip(schema.arguments, args, strict=False)
    writes = [x for a, x in pairs if a.alias_info is not None and a.alias_info.is_write]
    written = {id(x) for x in flat(writes)}
    for x in tensors:
        is_number = x.dim() == 0 and name not in JOINING and id(x) not in written
        if not (isinstance(x, OnDevice) or is_number):
            raise RuntimeError(f"Expected all tensors to be on the same device: {name}")


@contextmanager
def simulate() -> Iterator[Counter[str]]:
    """Where cuda is the simulated device; yields how many numbers each device computed."""
    backend_registration._setup_privateuseone_for_python_backend("simulated")
    torch.__future__.set_swap_module_params_on_conversion(True)
    _foreach_supported_types.append(OnDevice)
    functions = {
        "device_count": lambda: 1,
        "get_device_name": lambda device: "simulated",
        "reset_peak_memory_stats": lambda device: None,
        "max_memory_allocated": lambda device: 1,
        "get_rng_state": lambda device: torch.get_rng_state(),
        "set_rng_state": lambda state, device: torch.set_rng_state(state),
    }
    with mock.patch.multiple(torch.cuda, **functions), Dispatched() as seen, Called():
        yield seen.counts
