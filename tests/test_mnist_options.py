"""The options of the MNIST net beyond Figure 1: clipping, spikes, and a later nu."""

import json

import pytest
import torch
from conftest import Maker

from experiments.common.execution import execute
from experiments.mnist_divergence import clipped

pytestmark = pytest.mark.slow

SHORT = ("task=mnist_divergence", "task.width=4", "task.batch_size=2000", "task.epochs=1")
SEEDS = ("optimizer.nu=[0.5,0.99]", "seed=[0,1]", "task.log_every=1")


def losses(make: Maker, *overrides: str) -> list[list[float]]:
    """Training loss of each of the 30 updates, a list over the four members."""
    run = make(*SHORT, *SEEDS, *overrides)
    assert execute(run) == "finished"
    records = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(record)["train_loss"] for record in records]


def test_clipping_shortens_long_gradients_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 5, 2), (3, 4))
    gradients = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [
        g * torch.tensor([0.01, 1.0, 1e6]).view(3, *(1,) * (g.dim() - 1)) for g in gradients
    ]

    def norm(stack: list[torch.Tensor], member: int) -> float:
        return float(torch.cat([g[member].flatten() for g in stack]).norm())

    short = clipped(gradients, 1.0)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(short, gradients, strict=True))
    for member in (1, 2):
        assert norm(short, member) == pytest.approx(1.0)
        factor = norm(gradients, member)
        for a, b in zip(short, gradients, strict=True):
            torch.testing.assert_close(a[member] * factor, b[member], rtol=1e-5, atol=0)
    assert all((g == 0).all() for g in clipped([torch.zeros(2, 3)], 1.0))


def test_no_clipping_and_a_loose_one_are_the_same(make: Maker) -> None:
    plain = losses(make, "optimizer=adam")
    assert losses(make, "optimizer=adam", "task.clip=1e6") == plain
    assert losses(make, "optimizer=adam", "task.clip=0.01") != plain


def test_signed_updates_do_not_see_spikes(make: Maker) -> None:
    """LaProp at nu 0 takes the sign of a spike; Adam's momentum takes its size."""
    rates = ("optimizer.nu=[0]", "task.spike_share=0.1")
    same = [losses(make, "optimizer=laprop", *rates, f"task.spike={s}") for s in (1, 1e6)]
    assert same[0] == same[1]
    other = [
        losses(make, "optimizer=adam", "task.spike_share=0.1", f"task.spike={s}") for s in (1, 1e6)
    ]
    assert other[0] != other[1]


def test_later_nu_takes_over_at_its_update(make: Maker) -> None:
    early = losses(make, "optimizer=laprop")
    later = losses(make, "optimizer=laprop", "task.later_nu=0.99", "task.later_from=10")
    assert later[:11] == early[:11]  # a loss is taken before its update
    small, large = slice(0, 2), slice(2, 4)
    assert all(later[i][small] != early[i][small] for i in range(12, 30))
    assert [row[large] for row in later] == [row[large] for row in early]
