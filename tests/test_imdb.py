"""The LSTM on IMDB: words, batches, the cell and its gradient, label noise, learning."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Maker, trained
from torch import Tensor

from experiments import imdb
from experiments.common import data
from experiments.common.execution import execute
from experiments.common.messages import ConfigError
from experiments.common.records import Results
from experiments.common.run import Run
from scripts.figures.imdb_tuned import imdb_ten_points_tuned, tuned

pytestmark = pytest.mark.slow

WORDS = ["the", "film", "do", "n't", "it", "'s", "good", ".", ",", "é"]


def test_tokens_are_gloves_own() -> None:
    text = "Don't   go: it's \"GOOD\".<br /><br />The film's été (1999)"
    pieces = imdb._untrained({"a": 0}).pre_tokenizer.pre_tokenize_str(
        imdb._untrained({"a": 0}).normalizer.normalize_str(text)
    )
    assert [piece for piece, _ in pieces] == [
        "do", "n't", "go", ":", "it", "'s", '"', "good", '"', ".",
        "the", "film", "'s", "été", "(", "1999", ")",
    ]  # fmt: skip


def test_vocabulary_is_the_most_frequent_words_that_have_a_vector() -> None:
    texts = ["good good good film film unheard unheard unheard unheard", "the good"]
    tokens = imdb.tokenizer(texts, WORDS, 2)
    assert tokens.get_vocab() == {imdb.UNKNOWN: 0, "good": 1, "film": 2}
    numbers, counts = imdb.encoded(tokens, ["the Good film", "", "film good unheard film"], 3)
    assert numbers.tolist() == [[0, 1, 2], [0, 0, 0], [1, 0, 2]]
    assert counts.tolist() == [3, 0, 3]


@pytest.fixture
def texts() -> imdb.Texts:
    generator = torch.Generator().manual_seed(0)
    tokens = imdb.tokenizer([" ".join(WORDS)], WORDS, 100)
    lengths = torch.randint(0, 12, (230,), generator=generator).tolist()
    words = [[WORDS[int(i)] for i in torch.randint(10, (n,), generator=generator)] for n in lengths]
    reviews = data.Reviews([" ".join(w) for w in words], torch.arange(230) % 2 == 0)
    table = torch.cat([torch.zeros(1, 5), torch.randn(10, 5, generator=generator)])
    return imdb.Texts(reviews, torch.arange(230), tokens, table, 8)


def stack(members: int, inputs: int = 5, hidden: int = 3) -> dict[str, Tensor]:
    nets = [
        imdb.initial(inputs, hidden, torch.Generator().manual_seed(seed)) for seed in range(members)
    ]
    return {name: torch.stack([net[name] for net in nets]) for name in nets[0]}


def test_a_review_alone_is_what_it_is_in_a_batch(texts: imdb.Texts) -> None:
    params = stack(2)
    index = torch.arange(40)
    together = imdb.logits(params, *texts.batch(index))
    assert len(set(texts.counts[:40].tolist())) > 5
    for i in index:
        alone = imdb.logits(params, *texts.batch(i[None]))
        torch.testing.assert_close(alone[:, 0], together[:, i])


def test_every_review_is_in_an_epoch_once_with_others_of_its_length(
    texts: imdb.Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imdb, "POOL", 6)
    first, second = (texts.order(20, torch.Generator().manual_seed(s)) for s in (0, 1))
    for order in (first, second):
        assert sorted(order.tolist()) == list(range(230))
        spread = [float(texts.counts[b].double().std()) for b in order.split(20)[:-1]]
        assert np.mean(spread) < 0.5 * float(texts.counts.double().std())
    assert not torch.equal(first, second)
    lengths = [float(texts.counts[b].double().mean()) for b in first.split(20)]
    assert sorted(lengths) != lengths  # the batches do not come sorted by length


def test_the_cell_is_torchs(texts: imdb.Texts) -> None:
    params = stack(1)
    reference = torch.nn.LSTM(5, 3)
    # our gates are in the order i, f, o, g, torch's in i, f, g, o
    order = torch.tensor([0, 1, 3, 2])

    def gates(weight: Tensor) -> Tensor:
        return weight.unflatten(-1, (4, 3))[..., order, :].flatten(-2)

    with torch.no_grad():
        reference.weight_ih_l0.copy_(gates(params["w_x"][0]).T)
        reference.weight_hh_l0.copy_(gates(params["w_h"][0]).T)
        reference.bias_ih_l0.copy_(gates(params["bias"][0]))
        reference.bias_hh_l0.zero_()
    index = torch.nonzero(texts.counts == 8)[:, 0]
    x, there = texts.batch(index)
    assert there.all()
    _, (h, _) = reference(x)
    expected = h[0] @ params["w_out"][0] + params["b_out"][0]
    torch.testing.assert_close(imdb.logits(params, x, there)[0], expected)


def test_gradient_of_the_cell(texts: imdb.Texts) -> None:
    x, there = texts.batch(torch.arange(7))
    assert not there.all()
    params = {name: value.double().requires_grad_() for name, value in stack(2).items()}
    weights = [params[name] for name in ("w_x", "w_h", "bias")]
    assert torch.autograd.gradcheck(
        lambda *w: imdb.LSTM.apply(x.double(), there, *w), weights, atol=1e-7
    )


def test_a_score_that_is_nan_counts_as_an_error(texts: imdb.Texts) -> None:
    params = stack(3)
    params["b_out"] = torch.tensor([[100.0], [-100.0], [torch.nan]])
    right = float(texts.labels.mean())
    found = imdb.errors(params, texts).tolist()
    assert found == pytest.approx([1 - right, right, 1])


def test_labels_are_flipped_in_training_alone(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise none is flipped; a higher level flips all that a lower one does, and more."""
    seen: dict[str, Tensor] = {}
    real = imdb.binary_cross_entropy_with_logits

    def spy(scores: Tensor, labels: Tensor, **options: Any) -> Tensor:
        seen.setdefault("train", labels.clone())
        return real(scores, labels, **options)

    monkeypatch.setattr(imdb, "binary_cross_entropy_with_logits", spy)
    flips = "task.flip=[0,0.1,0.3,0.5]"
    settings = make("task=imdb", "scale=smoke", flips, "task.batch_size=256", "task.epochs=1")
    settings.folder.mkdir(parents=True)
    texts = dict(
        zip(("train", "valid", "test"), imdb.load(settings.task, Run(settings)), strict=True)
    )
    assert execute(settings) == "finished"
    clean, *flipped = seen["train"]
    shares = [float((labels != clean).float().mean()) for labels in flipped]
    assert shares == pytest.approx([0.1, 0.3, 0.5], abs=0.07)
    for fewer, more in pairwise(flipped):
        assert ((fewer != clean) <= (more != clean)).all()
    assert float(clean.mean()) == pytest.approx(float(texts["train"].labels.mean()))
    for part in texts.values():
        assert 0.3 < float(part.labels.mean()) < 0.7


def test_subnormal_numbers_are_zero_while_it_trains(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    torch.set_flush_denormal(False)

    def product() -> float:
        return float(torch.tensor(1e-30) * torch.tensor(1e-10))

    seen: list[float] = []
    real = imdb.binary_cross_entropy_with_logits

    def spy(*arguments: Any, **options: Any) -> Tensor:
        seen.append(product())
        return real(*arguments, **options)

    monkeypatch.setattr(imdb, "binary_cross_entropy_with_logits", spy)
    trained(make("task=imdb", "scale=smoke"))
    assert seen
    assert not any(seen)
    assert product() > 0
    monkeypatch.setattr(imdb, "load", lambda cfg, run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        execute(make("task=imdb", "scale=smoke", "seed=1"))
    assert product() > 0


def test_tuning_chooses_by_the_held_out_reviews(tmp_path: Path) -> None:
    """The best on held out reviews is not the best on the test set; two choices are at the ends."""
    rng = np.random.default_rng(0)
    valid = {"adam": [0.3, 0.2, 0.4], "amsgrad": [0.2, 0.3, 0.4], "laprop": [0.4, 0.3, 0.2]}
    rows = [
        (
            optimizer,
            lr,
            0.9,
            seed,
            valid[optimizer][i],
            0.5 - valid[optimizer][i] + rng.normal(0, 0.001),
        )
        for optimizer in valid
        for i, lr in enumerate((0.002, 0.004, 0.008))
        for seed in range(3)
    ]
    columns = ["optimizer", "lr", "nu", "seed", "valid_error", "test_error"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "runs.csv", index=False)
    (tmp_path / "manifest.json").write_text("{}")
    results = Results(tmp_path)
    assert {o: chosen for o, (chosen, _) in tuned(results).items()} == {
        "adam": (0.004, 0.9), "amsgrad": (0.002, 0.9), "laprop": (0.008, 0.9),
    }  # fmt: skip
    measured = imdb_ten_points_tuned(results)
    assert measured.held is False
    assert "(lr 0.004, ν 0.9)" in measured.text  # nu has one value, so no end
    assert "% (lr 0.002, the grid's lowest, ν 0.9)" in measured.text
    assert "% (lr 0.008, the grid's highest, ν 0.9)" in measured.text


def test_it_learns_from_real_reviews(make: Maker) -> None:
    settings = make(
        "task=imdb", "scale=short", "task.hidden=16", "task.length=40", "task.reviews=2000",
        "task.test_reviews=500", "task.validation=100", "task.epochs=4", "task.batch_size=50",
        "task.average_over=1", "optimizer.lr=0.01", "optimizer.nu=0.99",
    )  # fmt: skip
    assert trained(settings)["test_error"][0] < 0.36


def test_more_reviews_than_there_are_is_refused(make: Maker) -> None:
    with pytest.raises(ConfigError, match=r"task.validation=501: must be at most 500"):
        make("task=imdb", "task.reviews=24500", "task.validation=501")
