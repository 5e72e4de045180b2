"""Where the tables of captured steps come from, and how long they live, tried without a GPU.

in_triton.py captures real graphs where there is a GPU.
"""

import gc
import weakref

import pytest
import torch
from fused import give_gradients
from torch.nn import Parameter

from laprop import LaProp, kernels

pytest.importorskip("triton")
from laprop.kernels import cuda


class Device:
    """Stands in the place of torch's functions for a GPU, and records what is asked of them.

    The tables of each step of an optimizer are made as on a GPU; its tensors stay on the CPU.

    Attributes:
        captures: Whether a graph is being captured.
        copies: For each copy to the GPU during a capture, whether its memory is pinned.
        pinned: The pinned memory that was made.
        read: For each table that a stream reads outside captures, the table and the stream.
    """

    def __init__(self, patch):
        self.captures, self.copies, self.pinned, self.read = False, [], [], []
        empty, to = torch.empty, torch.Tensor.to

        def pinned_empty(*size, pin_memory=False, **options):
            made = empty(*size, **options)
            if pin_memory:
                assert not self.captures  # CUDA could not allocate it
                self.pinned.append(made)
            return made

        def moved(tensor, where, *rest, **options):
            if where != torch.device("cuda"):
                return to(tensor, where, *rest, **options)
            if self.captures:
                spans = [(x.data_ptr(), x.data_ptr() + x.nbytes) for x in self.pinned]
                end = tensor.data_ptr() + tensor.nbytes
                self.copies.append(any(a <= tensor.data_ptr() and end <= b for a, b in spans))
            return tensor.clone()

        patch.setattr(torch, "empty", pinned_empty)
        patch.setattr(torch.Tensor, "to", moved)
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
        patch.setattr(torch.Tensor, "record_stream", lambda *pair: self.read.append(pair))
        patch.setattr(torch.cuda, "current_stream", lambda device: "this stream")
        patch.setattr(cuda, "_captures", lambda device: self.captures)
        patch.setattr(cuda, "_captured", [])
        patch.setattr(cuda, "_pinned", type(cuda._pinned)())
        patch.setitem(kernels._MODULES, "cpu", "laprop.kernels.cuda")
        patch.setattr(cuda.CudaKernel, "step", self.step)

    def step(self, batch, group, grad_scale, found_inf):
        made = cuda._tables_of(batch, torch.device("cuda"), group["capturable"])
        # What was copied is right, and nothing wrote into the memory of an earlier copy.
        expected = cuda._tables_of(batch, torch.device("cpu"), group["capturable"])
        assert torch.equal(made[0].addresses, expected[0].addresses)
        assert torch.equal(made[1], expected[1])
        for (_, blocks), (_, others) in zip(made[0].blocks, expected[0].blocks, strict=True):
            assert torch.equal(blocks, others)
        return True


def forget():
    kernels.kernel_for.cache_clear()
    cuda._tables.cache_clear()
    cuda._uploaded.cache_clear()


@pytest.fixture
def device():
    forget()
    with pytest.MonkeyPatch.context() as patch:
        yield Device(patch)
    forget()


def alike(count, **options):
    """An optimizer of groups that differ in their memory alone, and its parameters."""
    shapes = [(5, 3), (cuda._BLOCK + 1,), ()]
    params = [[Parameter(torch.ones(shape)) for shape in shapes] for _ in range(count)]
    optimizer = LaProp([{"params": these} for these in params], fused=True, **options)
    return optimizer, [param for these in params for param in these]


@pytest.mark.parametrize(("warm", "at_once"), [(1, 1), (3, 2)])
def test_graphs_copy_from_pinned_memory(device, warm, at_once):
    """In each of six groups, in each of three captures, of one step or two, after 1 or 3 steps."""
    optimizer, params = alike(6, capturable=True)
    for t in range(3):
        for _ in range(warm):
            give_gradients(params, t)
            optimizer.step()
        device.captures = True
        for _ in range(at_once):
            give_gradients(params, t)  # in other memory than before
            optimizer.step()
        device.captures = False
    assert len(device.copies) == 3 * at_once * 6 * 3  # three tables of each group
    assert all(device.copies)


def test_what_a_graph_copies_is_never_written_again(device):
    optimizer, params = alike(2, capturable=True)
    kept = []
    for t in range(6):
        give_gradients(params, t)
        optimizer.step()
        device.captures = True
        optimizer.step()
        device.captures = False
        hosts = [entry[0] for entry in cuda._captured if len(entry) == 1]
        assert all(map(torch.equal, hosts, kept))
        kept = [host.clone() for host in hosts]
    assert len({host.data_ptr() for host in hosts}) == len(hosts) == 6 * 2 * 3


def test_pinned_memory_is_kept_for_capturable_groups_alone_and_given_back(device):
    optimizer, params = alike(2)
    give_gradients(params, 0)
    optimizer.step()
    assert not device.pinned
    for group in optimizer.param_groups:
        group["capturable"] = True
    for _ in range(3):
        optimizer.step()
    assert len(device.pinned) == 2 * cuda._AHEAD
    assert len(cuda._pinned) == 2
    # torch.utils.swap_tensors, by which modules are converted, refuses weak references.
    assert not any(map(weakref.getweakrefs, params))
    del optimizer, params, group
    gc.collect()
    assert len(cuda._pinned) == 0


def test_a_table_is_not_freed_while_another_stream_reads_it(device):
    optimizer, params = alike(1, capturable=True)
    give_gradients(params, 0)
    for _ in range(2):
        optimizer.step()
    tables = [id(table) for table, _ in device.read]
    assert len(tables) == 6
    assert tables[:3] == tables[3:]  # they are cached
    assert {stream for _, stream in device.read} == {"this stream"}
    device.captures = True
    optimizer.step()
    assert len(device.read) == 6  # a graph keeps its tables for ever
