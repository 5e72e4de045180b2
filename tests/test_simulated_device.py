"""Every task trains on a simulated GPU, which refuses what CUDA refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import SERVER, TASKS, Maker, manifest
from simulated_device import simulate
from torch.utils import backend_registration

from experiments.check import Kill, attempt
from experiments.common import data, plan
from experiments.common.settings import Settings

pytestmark = [
    pytest.mark.usefixtures("forkserver"),
    pytest.mark.skipif(
        not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
        reason="this version of torch has no devices for Python backends",
    ),
]

# What a task's smoke scale does not reach, and shorter runs.
MORE = {
    "convex_regret": ("task.problem=mnist", "task.rounds=100"),
    "gpt": ("task.updates=8", "task.evaluate_every=4", "task.dropout=0.2"),
    "mnist_divergence": (
        "task.batch_size=6000",
        "task.epochs=2",
        "task.log_every=5",
        "task.clip=1",
        "task.spike_share=0.1",
    ),
    "rainbow": ("task.steps=120", "task.evaluate_every=60", "task.dueling=true"),
    "rosenbrock": ("task.updates=200", "task.mean_over=100"),
}
CASES = [(task, MORE.get(task, ())) for task in TASKS if task not in ("roberta", "translation")]
CASES += [("convex_regret", (f"task.problem={name}",)) for name in ("growing", "median", "rare")]
CASES += [("style_transfer", ("optimizer=lbfgs", "task.size=16", "task.updates=60", "seed=[0,1]"))]
CASES += [("cifar10", (f"optimizer={name}",)) for name in ("adam", "radam", "rmsprop", "sgd")]


def train(settings: Settings, planned: Sequence[Kill], told: Any, counts: Any) -> None:
    """What a process of its own does: train, and tell how many numbers each device computed."""
    torch.set_num_threads(1)
    with simulate() as seen:
        attempt(settings, planned, told)
        counts[:] = seen["cuda"], seen["cpu"]


@pytest.mark.parametrize(("task", "more"), CASES)
def test_every_task_trains_and_resumes_on_the_device(
    make: Maker, task: str, more: tuple[str, ...]
) -> None:
    settings = make(f"task={task}", "scale=smoke", "device=cuda", *more)
    counts = SERVER.RawArray("q", 2)
    for planned, every in (([Kill(1, False)], 0.0), ([], 600.0)):
        now = replace(settings, checkpoint_every=every)
        process = SERVER.Process(target=train, args=(now, planned, SERVER.RawArray("q", 2), counts))
        process.start()
        process.join()
    error = str(manifest(settings).get("error"))
    for name in plan.needed(task) if "no place serves" in error else ():
        data.fetch(name)  # which skips the test
    assert manifest(settings)["status"] == "finished", error
    on_device, on_cpu = counts
    assert on_device > on_cpu


REFUSED = (
    "x + torch.ones(3)",
    "torch.ones(3).add_(x)",
    "torch.zeros(()).add_(x[0])",
    "torch.stack([x[0], torch.zeros(())])",
    "torch.cat([x, torch.ones(3)])",
    "torch.ones(3)[x.long()]",
    "x.index_put_((x.long(),), torch.ones(3))",
    "torch.nn.functional.cross_entropy(x[None], torch.tensor([1]))",
    "torch.nn.Linear(3, 1)(x)",
    "torch.rand(3, generator=torch.Generator(), device='cuda')",
    "x.normal_(generator=torch.Generator())",
    "x.numpy()",
    "torch.from_numpy(np.ones(3, np.float32)) * x",
    "torch.equal(x, torch.ones(3))",
)
ALLOWED = (
    "x + torch.ones(())",
    "x[torch.tensor([0, 2])]",
    "x[:2].copy_(torch.zeros(2))",
    "torch.ones(3).copy_(x)",
    "torch.nn.Linear(3, 1).to('cuda')(x).sum().backward()",
    "x.new_tensor([1.0, 2.0, 3.0]) + torch.tensor([1.0], device=x.device) + x.cuda()",
    "x.cpu().numpy() + torch.ones(3).numpy()",
    "float(x.sum()) + x.tolist()[0]",
)


def evaluate(texts: Sequence[str], refused: Any) -> None:
    """What a process of its own does: evaluate each text, and tell which ones torch refuses."""
    import numpy as np

    with simulate():
        for i, text in enumerate(texts):
            try:
                eval(text, {"torch": torch, "np": np, "x": torch.ones(3, device="cuda")})
            except (RuntimeError, TypeError):
                refused[i] = 1


def test_the_device_refuses_what_cuda_refuses() -> None:
    told = SERVER.RawArray("i", len(REFUSED) + len(ALLOWED))
    process = SERVER.Process(target=evaluate, args=(REFUSED + ALLOWED, told))
    process.start()
    process.join()
    found = dict(zip(REFUSED + ALLOWED, told, strict=True))
    assert found == dict.fromkeys(REFUSED, 1) | dict.fromkeys(ALLOWED, 0)
