"""The discrepancies: their rules are options of the package, and they are measured."""

import itertools
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from tables import tables
from torch import Tensor

from experiments import style_transfer
from experiments.common import RESULTS
from experiments.common.config import compose_settings
from experiments.common.execution import execute
from experiments.common.records import Results
from experiments.discrepancies import PAIRS, SCHEDULES, Rule, factor, gradient, initial, losses
from laprop import LaProp
from scripts import discrepancies, paper
from scripts.figures.discrepancies import pairs

STEPS = 40
HYPER = {"mu": 0.9, "nu": 0.999, "epsilon": 1e-15, "weight_decay": 0.0, "lr_peak": 1e-2}


def gradients(n: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, n, generator=generator, dtype=torch.float64) for _ in range(STEPS)]


def path(rule: Rule, rates: list[float], **changes: float) -> Tensor:
    """Weights after every step, (steps + 1, n), on the same gradients for every rule."""
    theta = torch.ones(1, 7, dtype=torch.float64)
    state, thetas = rule.algorithm.init(theta), [theta]
    for i, (g, rate) in enumerate(zip(gradients(), rates, strict=True)):
        lr = torch.tensor([1e-2 * rate], dtype=torch.float64)
        theta, state = rule.step(theta, g, state, i + 1, lr=lr, **(HYPER | changes))
        thetas.append(theta)
    return torch.cat(thetas)


def schedule(name: str) -> list[float]:
    return [factor(name, i, STEPS) for i in range(STEPS)]


def rules() -> dict[str, Rule]:
    both = itertools.chain.from_iterable((p.default, p.other) for p in PAIRS.values())
    return {str(dict(rule.options)): rule for rule in both if rule.options is not None}


# The printed Algorithm 2 moves weights at lr = 0; the package's option for it does not.
CASES = [
    (options, name)
    for options, rule in rules().items()
    for name in SCHEDULES
    if name != "pause" or rule.algorithm.lr_weighted_correction
]


@pytest.mark.parametrize(("options", "name"), CASES)
def test_a_rule_with_options_is_the_package_with_these_options(options: str, name: str) -> None:
    rule = rules()[options]
    param = torch.ones(7, dtype=torch.float64, requires_grad=True)
    optimizer = LaProp([param], weight_decay=1e-2, **rule.options)
    thetas = [param.detach().clone()]
    for g, rate in zip(gradients(), schedule(name), strict=True):
        optimizer.param_groups[0]["lr"] = 1e-2 * rate
        param.grad = g[0]
        optimizer.step()
        thetas.append(param.detach().clone())
    ours = path(rule, schedule(name), weight_decay=1e-2)
    torch.testing.assert_close(ours, torch.stack(thetas), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("pair", ["printed_correction", "algorithm_1", "moves_at_zero_lr"])
def test_what_differs_by_the_schedule_agrees_without_one(pair: str) -> None:
    constant = schedule("constant")
    ours, theirs = path(PAIRS[pair].default, constant), path(PAIRS[pair].other, constant)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)
    changing = schedule("pause" if pair == "moves_at_zero_lr" else "cosine")
    ours, theirs = path(PAIRS[pair].default, changing), path(PAIRS[pair].other, changing)
    assert (ours[-1] - theirs[-1]).abs().max() > 1e-4


def test_at_zero_lr_ours_stands_still_and_theirs_moves_as_derived() -> None:
    pair, rates = PAIRS["moves_at_zero_lr"], schedule("pause")
    still = [i for i, rate in enumerate(rates) if rate == 0]
    ours = path(pair.default, rates, weight_decay=1e-2).diff(dim=0)[still]
    theirs = path(pair.other, rates).diff(dim=0)[still]
    printed = path(PAIRS["printed_correction"].other, rates).diff(dim=0)[still]
    assert (ours == 0).all()
    assert (printed != 0).all()
    # Nothing is added to the momentum, which is applied at each step and shrinks by mu.
    torch.testing.assert_close(theirs[1:], 0.9 * theirs[:-1], rtol=1e-9, atol=1e-15)
    assert (theirs != 0).all()


def test_epsilon_before_the_correction_counts_more_at_first() -> None:
    pair, g = PAIRS["eps_first_adam"], gradients()[0]
    first = {}
    for name, rule in (("after", pair.default), ("before", pair.other)):
        theta = torch.zeros_like(g)
        lr = torch.ones(1, dtype=torch.float64)
        hyper = HYPER | {"epsilon": 0.1}
        first[name] = -rule.step(theta, g, rule.algorithm.init(theta), 1, lr=lr, **hyper)[0]
    torch.testing.assert_close(first["after"], g / (g.abs() + 0.1))
    # sqrt(c_n) g / (sqrt(n) + epsilon) with n = (1 - nu) g^2 and c_n = 1 - nu
    torch.testing.assert_close(
        first["before"], 0.001**0.5 * g / ((0.001 * g**2).sqrt() + 0.1), rtol=1e-9, atol=0
    )


def test_the_decays_agree_where_they_should() -> None:
    constant = schedule("constant")
    base = path(PAIRS["decay_scheduled"].default, constant, weight_decay=1e-2)
    scheduled = path(PAIRS["decay_scheduled"].other, constant, weight_decay=1e-2)
    torch.testing.assert_close(base, scheduled, rtol=0, atol=0)
    by_lr = path(PAIRS["decay_by_lr"].other, constant, weight_decay=1.0)  # lr w = 1e-2
    torch.testing.assert_close(base, by_lr, rtol=1e-13, atol=0)


def test_the_flat_net_is_the_net() -> None:
    generator = torch.Generator().manual_seed(1)
    theta = torch.stack([initial(5, generator) for _ in range(2)]).double()
    images = torch.rand(2, 3, 196, generator=generator, dtype=torch.float64)
    labels = torch.randint(10, (2, 3), generator=generator)
    value, slope = losses(theta, images, labels), gradient(theta, images, labels)
    for i in range(2):
        net = torch.nn.Sequential(
            torch.nn.Linear(196, 5), torch.nn.ReLU(), torch.nn.Linear(5, 10)
        ).double()
        w1, b1, w2, b2 = theta[i].split((980, 5, 50, 10))
        with torch.no_grad():
            for p, v in zip(
                net.parameters(), (w1.view(196, 5).T, b1, w2.view(5, 10).T, b2), strict=True
            ):
                p.copy_(v)
        loss = torch.nn.functional.cross_entropy(net(images[i]), labels[i])
        loss.backward()
        torch.testing.assert_close(value[i], loss.detach())
        p1, q1, p2, q2 = (p.grad for p in net.parameters())
        expected = torch.cat([p1.T.flatten(), q1, p2.T.flatten(), q2])
        torch.testing.assert_close(slope[i], expected)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_stay_within_the_peak(name: str) -> None:
    rates = [factor(name, i, 1000) for i in range(1000)]
    assert max(rates) == 1.0
    assert min(rates) >= 0
    assert (min(rates) == 0) == (name == "pause")


def test_a_run_compares_the_paths(tmp_path: Path) -> None:
    settings = compose_settings(
        [
            "task=discrepancies",
            "task.pair=moves_at_zero_lr",
            "task.schedule=[constant,pause]",
            "seed=[0,1]",
            "scale=smoke",
            "threads=1",
            f"output={tmp_path}",
        ]
    )
    assert execute(settings) == "finished"
    summary = json.loads((settings.folder / "summary.json").read_text())
    assert summary["difference"][:2] == summary["zero_lr_step"][:2] == [0, 0]
    assert min(summary["difference"][2:]) > 1e-3
    assert all(0 < step < 1e-2 for step in summary["zero_lr_step"][2:])


# The list -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", discrepancies.entries())
def test_every_row_is_whole_and_measured_or_says_why_not(name: str) -> None:
    row = discrepancies.entries()[name]
    told = {"title", "group", "where", *discrepancies.LABELS}
    assert set(row) - {"with"} == told
    assert all(isinstance(row[key], str) and row[key] for key in told)
    assert " " in row["title"], "it is a key, not a phrase"
    assert "\n" not in "".join(str(value) for value in row.values())
    if row["measured"] in (discrepancies.NOT_MEASURED, discrepancies.NOTHING):
        return
    figure, _, function = row["measured"].partition(".")
    assert callable(getattr(paper.script(figure), function))


def test_a_function_without_its_results_says_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discrepancies, "load", lambda figure: None)
    said = {discrepancies.NOT_MEASURED, discrepancies.NOTHING}
    assert {row["measured"] for row in discrepancies.rows()} == said


def test_every_row_is_a_heading_and_a_list() -> None:
    table = discrepancies.rows()
    text = discrepancies.page(table)
    for row in table:
        lines = [f"- {label}: {row[key]}" for key, label in discrepancies.LABELS.items()]
        block = "\n".join(lines)
        assert f"\n\n### {row['title']} ({row['where']})\n\n{block}\n" in text
    assert "\n### When Rainbow stops (P 5.5; R rainbow/raw results/)\n" in text


def test_the_rows_that_change_a_result_come_first_with_their_measured_changes() -> None:
    found = discrepancies.changes()
    assert next(iter(found)) == "rainbow_dueling"
    assert {"decay_by_lr", "rainbow_multi_step"} <= set(found)
    assert "rainbow_noise" not in found
    page = discrepancies.page(discrepancies.rows())
    headings = re.findall(r"^### (.+)$", page, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= anchors
    for name, changes in found.items():
        row = discrepancies.entries()[name]
        assert all(change.clear for change in changes)
        line = next(line for line in page.splitlines() if line.startswith(f"| [{row['title']}](#"))
        assert all(str(change) in line for change in changes)
        if row["measured"].startswith("discrepancies."):  # the same numbers stand in the row
            told = discrepancies.measured(row["measured"], row.get("with"))
            assert all(str(change).partition(") ")[2] in told for change in changes)


def test_what_was_checked_without_a_disagreement_comes_last() -> None:
    groups = [row["group"] for row in discrepancies.rows()]
    assert groups[-3:] == ["no disagreement found"] * groups.count("no disagreement found")
    assert list(dict.fromkeys(groups)) == [g for g, _ in itertools.groupby(groups)]


def test_the_committed_page_is_the_generated_one() -> None:
    for path, new in discrepancies.files(discrepancies.rows()).items():
        assert path.read_bytes() == new, f"{path.name} is stale: run make claims"


def test_rainbows_settings_leave_the_memory_that_the_paper_states() -> None:
    option = discrepancies.entries()["rainbow_rest"]["option"].split()
    task = compose_settings(["task=rainbow", *option]).task
    assert task.target_every == 8_000
    assert (task.replay, task.random_overwrite) == (500_000, True)


def test_the_tutorials_sum_over_five_layers_is_five_times_the_style_weight() -> None:
    option = discrepancies.entries()["style_loss"]["option"]
    ours, theirs = (
        compose_settings(["task=style_transfer", *more]).task.style_weight
        for more in ([], [option])
    )
    assert theirs == len(style_transfer.LAYERS) * ours


def paths(tmp_path: Path, pair: dict[str, float], control: float) -> Results:
    """Results of one pair and of the control, in which all distances and losses are known.

    Args:
        tmp_path: where they are written.
        pair: the mean distance of the pair under each schedule; the seeds differ by a tenth of it.
        control: that of the control under every schedule.
    """
    changes = dict(zip(SCHEDULES, (0.01, -0.04, 0.03, 0.02, 0.0), strict=True))
    rows = [
        {"pair": name, "schedule": schedule, "updates": 100, "seed": seed, "loss": 2.0}
        | {"difference": means[schedule] * (1 + 0.1 * (seed - 1))}
        | {"loss_difference": 2 * changes[schedule] * (1 + 0.1 * (seed - 1))}
        for name, means in (("own", pair), ("last_bit", dict.fromkeys(SCHEDULES, control)))
        for schedule in SCHEDULES
        for seed in range(3)
    ]
    return tables(tmp_path, "discrepancies", rows)


DISTANCES = {"constant": 0.0, "warmup": 0.1, "cosine": 0.2, "drop": 0.05, "pause": 0.02}


def test_the_largest_of_five_means_has_a_simultaneous_interval(tmp_path: Path) -> None:
    """Student's t at 1 - 0.01/2 with two degrees of freedom is 9.925."""
    found = pairs(paths(tmp_path, DISTANCES, 1e-3), {"": "own"})
    half = 9.925 * 2 / 3**0.5
    assert found.startswith(
        f"distance 20 [{20 - half:.2g}, {20 + half:.2g}] % after 100 (cosine), "
    )


def test_the_loss_is_that_of_the_schedule_under_which_it_changes_most(tmp_path: Path) -> None:
    found = pairs(paths(tmp_path, DISTANCES, 1e-3), {"": "own"})
    half = 9.925 * 0.4 / 3**0.5
    assert found.endswith(
        f", 0 at a constant lr; loss -4 [{-4 - half:+.2g}, {-4 + half:+.2g}] % after 100 (warmup)"
    )


@pytest.mark.parametrize(
    ("control", "marked"), [(1e-3, False), (0.05, False), (0.06, True), (0.3, True)]
)
def test_a_distance_that_is_not_above_the_controls_is_marked(
    tmp_path: Path, control: float, marked: bool
) -> None:
    """The interval under cosine begins at 0.085, and the control's ends at 1.57 times its mean."""
    results = paths(tmp_path, DISTANCES, control)
    found = pairs(results, {"": "own"})
    assert ("(cosine; not above the control)" in found) == marked
    assert "not above" not in pairs(results, {"": "last_bit"})


def test_one_schedule_above_the_control_is_enough(tmp_path: Path) -> None:
    """The largest mean may be of a schedule whose seeds scatter."""
    results = paths(tmp_path, DISTANCES, 1e-3)
    cosine = (results.runs.pair == "own") & (results.runs.schedule == "cosine")
    results.runs.loc[cosine, "difference"] = [0.0, 0.0, 0.6]
    found = pairs(results, {"": "own"})
    assert "% after 100 (cosine), " in found


@pytest.mark.parametrize(
    ("row", "task", "settings"),
    [
        ("roberta_faster", "roberta", [(0.98, 10_000), (0.999, 10_000), (0.999, 0)]),
        ("iwslt_loss", "iwslt", [(0.98, 0), (0.98, 2000)]),
    ],
)
def test_losses_of_the_authors_logs_are_those_of_the_committed_table(
    row: str, task: str, settings: list[tuple[float, int]]
) -> None:
    """Each pair of Adam and LaProp, in the order of the text; settings are nu and warmup."""
    ends = pd.read_csv(RESULTS / "authors" / "ends.csv").set_index(
        ["task", "nu", "warmup", "optimizer"]
    )
    losses = [
        tuple(f"{ends.last_loss[task, *setting, name]:.2f}" for name in ("adam", "laprop"))
        for setting in settings
    ]
    text = discrepancies.entries()[row]["code"]
    assert re.findall(r"\b(\d\.\d\d) and (\d\.\d\d)\b", text) == losses
