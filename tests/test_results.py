"""The committed results: all that is generated from them is what the code makes today."""

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from experiments.common import CONFIGS, RESULTS, ROOT, config
from experiments.common.messages import ConfigError
from experiments.common.records import Results
from experiments.common.terminal import guarded
from scripts import build, check_claims, index, make_figures, paper, readme, report
from scripts.figures import fig03, fig06, fig07, style
from scripts.generated import settle

KEYS = (
    "of",
    "section",
    "says",
    "reports",
    "rule",
    "changed",
    "not_at_short",
    "written",
    "decided_by",
    "with",
    "logs",
)
COMMITTED = sorted(path.parent for path in RESULTS.glob("*/*/manifest.json"))
FIGURES = paper.figures()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in paper.drawn() if paper.drawable(name)])
def test_every_picture_is_what_its_script_draws(name: str) -> None:
    """Pictures drawn in this process are byte for byte the committed ones."""
    png = make_figures.picture(name)
    assert png is not None
    assert png == (make_figures.PICTURES / f"{name}.png").read_bytes(), "stale: run make figures"


@pytest.mark.parametrize("name", [name for name in paper.drawn() if paper.drawable(name)])
def test_every_figure_says_in_a_line_what_was_found(name: str) -> None:
    finding = paper.finding(name)
    assert 20 < len(finding) < 200
    assert "nan" not in finding
    assert "\n" not in finding


@pytest.mark.parametrize(
    ("figure", "claim", "numbers"),
    [
        ("fig03", "style_best_nu", [fig03.BEST]),
        ("fig04", "deep_nothing_above", []),
        ("fig06", "rainbow_breakout", list(fig06.REPORTED.values())),
        ("fig07", "imdb_ten_points", [fig07.GAIN]),
        ("imdb_tuned", "imdb_ten_points_tuned", [fig07.GAIN]),
        ("fig13", "cifar_test_loss_adam", []),
        ("epsilon", "epsilon_free", []),
        ("propositions", "adam_update_bounded", []),
    ],
)
def test_what_the_paper_reports_is_in_the_picture(
    figure: str, claim: str, numbers: list[float]
) -> None:
    reports = paper.claims()[claim]["reports"]
    assert all(f"{number:g}" in reports for number in numbers)
    style.use()
    drawn = paper.script(figure).draw(paper.results_of(figure))
    texts = [text.get_text() for text in drawn.findobj(Text)]
    plt.close(drawn)
    marks = " ".join(text for text in texts if "paper: " in text)
    assert marks
    assert all(f"{number:.3g}" in marks for number in numbers)


def test_a_generated_file_is_the_old_one_or_the_new_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also if Ctrl-C arrives while it is being written."""
    path = tmp_path / "fig.png"
    path.write_bytes(b"old")

    def interrupted(number: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            settle({path: b"new"}, check=False)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    assert settle({path: b"new"}, check=False) == 0
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for path in tmp_path / "file" / "fig.png", tmp_path / "folder.png":
        assert guarded(lambda path=path: settle({path: b"new"}, check=False)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        place = path if path.is_dir() else path.parent
        assert re.fullmatch(rf"error: {place}: .*; must be a place that can be written\n", err)
    monkeypatch.setattr(sys, "argv", ["report", "--to", str(tmp_path / "file")])
    assert guarded(report.main) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'file'}: ")


def test_one_command_names_all_that_is_stale(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    old, missing = tmp_path / "old.png", tmp_path / "missing.md"
    old.write_bytes(b"old")
    new = {old: b"new", missing: b"new"}
    monkeypatch.setattr(make_figures, "files", lambda names: new)
    monkeypatch.setattr(index, "files", dict)
    monkeypatch.setattr(sys, "argv", ["build", "figures", "--check"])
    assert build.main() == 1
    assert capsys.readouterr().err.count("stale: ") == 2
    assert old.read_bytes() == b"old"
    assert not missing.exists()
    monkeypatch.setattr(sys, "argv", ["build", "figures"])
    assert build.main() == 0
    assert old.read_bytes() == missing.read_bytes() == b"new"
    monkeypatch.setattr(sys, "argv", ["build", "figures", "--check"])
    assert build.main() == 0
    monkeypatch.setattr(sys, "argv", ["build", "figure"])
    with pytest.raises(SystemExit):
        build.main()


def test_the_index_names_every_figure_of_the_paper_and_every_script() -> None:
    assert {f"fig{n:02}" for n in range(1, 16)} <= FIGURES.keys()
    assert set(paper.drawn()) <= FIGURES.keys()
    text = (RESULTS / "FIGURES.md").read_text()
    assert text == index.text(), "stale: run make figures"
    for name in FIGURES:
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
        status = row.split(" | ")[4]
        assert ("not run" in status) == (paper.results_of(name) is None)


def test_a_command_says_where_the_grid_has_other_settings_than_the_picture(tmp_path: Path) -> None:
    first, *_ = config.expand(["figure=fig05", "scale=short"])
    updates = first.task.updates
    environments = [{"commit": "319e1fb5602265139ab46ed64d8e73d7ce43b26b"}]
    needs = " (needs iwslt14, which has no public source)"
    for changed, note in ((0, ""), (-500, " (short: as of commit 319e1fb)")):
        folder = tmp_path / str(changed)
        folder.mkdir()
        settings = {"task.updates": updates + changed, "task.gone": 1}
        manifest = {"figure": "fig05", "scale": "short", "settings": settings}
        (folder / "manifest.json").write_text(json.dumps(manifest | {"environments": environments}))
        command = "`python -m experiments figure=fig05 scale=short`" + needs
        assert index._command(Results(folder)) == command + note


def test_every_command_of_the_index_stands_for_runs() -> None:
    commands = re.findall(r"`python -m experiments ([^`]+)`", index.text())
    assert len(commands) > 30
    for command in commands:
        assert config.count(command.split()) > 0


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda f: f"{f.parent.name}-{f.name}")
def test_results_are_whole(folder: Path) -> None:
    results = Results(folder)
    assert results.scale in ("paper", "short", "small")
    assert (CONFIGS / "figure" / f"{results.figure}.yaml").exists()
    # Runs of seeds that are not whole yet are kept, not shown.
    assert (len(results.runs) > 0) == (results.manifest["seeds"] > 0)
    assert len(pd.read_csv(folder / "runs.csv")) > 0
    assert set(results.manifest["axes"]) <= set(results.runs.columns)
    assert set(results.manifest["summary"]) <= set(results.runs.columns)
    assert not results.runs.duplicated(list(results.manifest["axes"])).any()
    assert {run["status"] for run in results.manifest["runs"]} <= {"finished", "diverged"}
    assert results.scale == "paper" or results.manifest["reduced"], "what was reduced is not said"


@pytest.fixture(scope="module")
def claims() -> list[dict[str, Any]]:
    """Every claim with its verdict."""
    return check_claims.rows()


def test_claims_are_fresh(claims: list[dict[str, Any]]) -> None:
    for path, new in (check_claims.files(claims) | readme.files(claims)).items():
        assert path.read_bytes() == new, f"{path.name} is stale: run make claims"


def test_every_claim_is_one_sentence_and_says_how_it_is_decided() -> None:
    for name, claim in paper.claims().items():
        assert set(claim) >= {"figure", "of", "section", "says", "rule"}, name
        assert claim["reports"] or claim["of"] == "ours", name
        assert set(claim) <= {*KEYS, "figure"}, name
        assert claim["of"] in check_claims.OF
        says = claim["says"]
        assert not re.match(r"(That|It|This|They|There it)\b", says), name
        assert re.search(r"Adam|AMSGrad|LaProp|AmsProp|Rainbow|RoBERTa|bound", says), name
        assert says.endswith(".")
        assert says.count(". ") == says.count(";") == 0, f"{name} says two things"
        texts = "".join(claim[key] for key in ("says", "reports", "rule", "changed"))
        assert not {"|", "\n"} & set(texts), name
        assert not re.search(r"\bchanged\b|first run", claim["rule"]), f"{name}: see `changed`"


def test_every_claim_that_has_results_is_measured(claims: list[dict[str, Any]]) -> None:
    for row in claims:
        assert row["verdict"] in check_claims.VERDICTS
        if row["kind"] == check_claims.NOT_RUN:
            assert row["measured"] == row["apart"] == row["where"] == ""
            continue
        assert row["measured"]
        assert row["apart"]
        assert not {"|", "\n"} & set(row["measured"] + row["apart"])
        assert "nan" not in row["measured"]
        logs = row.get("logs", False)
        assert (row["kind"] == check_claims.LOGS) == logs
        assert row["held"] in (True, False, None)
        if not logs:
            assert paper.results_of(row["figure"]) is not None


@pytest.mark.parametrize("name", FIGURES)
def test_first_runs_are_listed_until_a_seed_is_complete(name: str) -> None:
    found = check_claims.first_runs(name)
    page = (RESULTS / "CLAIMS.md").read_text()
    for scale, lines in found.items():
        assert lines
        assert all(f"- {name}, scale {scale}: {line}\n" in page for line in lines)
    assert found or f"- {name}, scale " not in page


def test_a_smaller_scale_beside_a_larger_one_is_told() -> None:
    """Figure 5 has runs of scale short and of scale small."""
    (smaller,) = paper.smaller("fig05")
    assert (smaller.scale, paper.results_of("fig05").scale) == ("small", "short")
    lines = check_claims.smaller_scales()
    assert any(line.startswith("- fig05, scale: small (") for line in lines)
    assert any("`small model: undecided`: mean loss of the 100" in line for line in lines)
    assert all(line in (RESULTS / "CLAIMS.md").read_text().splitlines() for line in lines)


def test_what_was_removed_is_told() -> None:
    page = (RESULTS / "CLAIMS.md").read_text()
    removed = [entry["removed"] for entry in FIGURES.values() if "removed" in entry]
    assert removed
    assert all(text in page for text in removed)


def test_the_first_runs_of_any_figure_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs.csv").write_text("optimizer,seed,regret\nadam,0,1.0\n")
    (tmp_path / "manifest.json").write_text('{"scale": "short", "seeds": 0, "settings": {}}')
    monkeypatch.setattr(check_claims, "begun", lambda figure: Results(tmp_path))
    assert check_claims.first_runs("fig07") == {"short": ["1 rows in runs.csv"]}


def test_claims_of_the_paper_and_ours_are_counted_apart(claims: list[dict[str, Any]]) -> None:
    table = check_claims.counts(claims).splitlines()[2:]
    cells = [[int(cell) for cell in line.split("|")[2:4]] for line in table]
    total = cells.pop()
    assert np.sum(cells, axis=0).tolist() == total
    assert total == [sum(row["of"] == of for row in claims) for of in ("paper", "ours")]


def test_the_page_of_claims_has_each_in_its_index_and_below_its_figure(
    claims: list[dict[str, Any]],
) -> None:
    index, details = check_claims.claims_page(claims).split("\n## Index\n")[1].split("\n## ", 1)
    for row in claims:
        line = f"| [{row['says']}](#{row['claim']}) | {row['figure']} | {row['of']} |"
        assert index.count(f"\n{line} {row['verdict']} |") == 1
        above, below = details.split(f"\n#### {row['claim']}\n")
        assert above.rpartition("\n### ")[2].startswith(f"{row['figure']}: ")
        assert below.startswith(f"\n**{row['says']}** `{row['verdict']}`\n")


def test_scale_short_cannot_decide_a_claim_about_the_end(
    claims: list[dict[str, Any]], tmp_path: Path
) -> None:
    held, entry = check_claims.Measured("", True, ""), {"not_at_short": "it stops early"}
    for scale, decided in (("short", None), ("paper", True)):
        (tmp_path / "manifest.json").write_text(json.dumps({"scale": scale, "seeds": 3}))
        assert check_claims.decidable(held, entry, {}, Results(tmp_path)).held is decided
    told = [row for row in claims if "not_at_short" in row]
    assert told
    page = check_claims.claims_page(claims)
    assert all(f"Undecided at scale short: {row['not_at_short']}." in page for row in told)


def test_the_scorecard_counts_every_claim_of_the_paper_once(claims: list[dict[str, Any]]) -> None:
    card = readme.scorecard(claims)
    counted = sum(int(number) for number in re.findall(r"[✓✗?–] (\d+)", card))
    of_tasks = {task for tasks in paper.EXPERIMENTS.values() for task in tasks}
    assert counted == sum(row["of"] == "paper" for row in claims)
    for name, entry in FIGURES.items():
        if any(row["figure"] == name and row["of"] == "paper" for row in claims):
            assert entry["task"] in of_tasks, name
    rows = [re.findall(r"\d+", line) for line in readme.totals(claims).splitlines()[2:]]
    whole = np.array(rows, int).sum(axis=0)
    assert whole.sum() == counted
    listed = re.findall(r"CLAIMS.md#(\w+):", readme.failed(claims).replace(")", ""))
    assert len(listed) == whole[1]
    lines = readme.found(claims).splitlines()
    assert len(lines) == 5
    # Each has its picture and its verdicts, a failed claim of ours too where it has no other.
    verdict = (
        r"[\w' ]+ (claims: [✓✗?–] \d.*|one claim, “[^”]+”, (held|did not hold|is undecided).*)"
    )
    told = rf"- \S.* \(\[\w+\]\(results/figures/\w+\.png\); {verdict}\)\.$"
    assert all(re.match(told, line) for line in lines)


def test_mathematics_is_counted_apart_from_our_settings(claims: list[dict[str, Any]]) -> None:
    of_paper = [row for row in claims if row["of"] == "paper"]
    proved = [row for row in of_paper if "mathematics" in FIGURES[row["figure"]]]
    assert {row["figure"] for row in proved} == {
        *("table1", "propositions", "theorem1", "one_gradient", "update_variance"),
    }
    rows = dict(line[2:-2].split(" | ", 1) for line in readme.totals(claims).splitlines())
    counted = sum(map(int, rows["as mathematics, checked numerically"].split(" | ")))
    assert counted == len(proved)
    ours = [row for row in of_paper if "setting" in FIGURES[row["figure"]] and row not in proved]
    assert sum(map(int, rows["in our setting"].split(" | "))) == len(ours)
    before = [row for row in claims if row["written"] == "before"]
    known = sum("mathematics" in FIGURES[row["figure"]] for row in before)
    page = check_claims.claims_page(claims)
    assert f"\n  {known} of these are about mathematics" in page


def test_the_first_runs_of_cifar10_stand_in_the_readme() -> None:
    said, told = readme.first_runs(), check_claims.first_runs("fig12")
    assert bool(said) == bool(told)
    assert said in readme.filled((ROOT / "README.md").read_text(), check_claims.rows())


@pytest.mark.parametrize("kind", [k for k in check_claims.WORDS if k != check_claims.NOT_RUN])
def test_only_a_claim_of_the_paper_at_its_scale_is_reproduced(kind: str) -> None:
    words = [check_claims.WORDS[kind][held] for held in (True, False, None)]
    assert len(set(words)) == 3
    assert any("reproduced" in word for word in words) == (kind == "paper")
    legend = dict(check_claims.legend([{"kind": kind}]))
    assert all(word in " ".join(legend) for word in words)


@pytest.mark.parametrize(
    ("seeds", "row", "of", "verdict"),
    [
        (1, {"section": "3.1"}, "paper", "undecided"),
        (1, {"section": "3.1", "one_run": "nothing in it is random"}, "paper", "reproduced"),
        (2, {"section": "3.1"}, "paper", "reproduced"),
        (1, {"section": "3.1"}, "ours", "undecided"),
        (2, {"section": "3.1"}, "ours", "held"),
        (1, {"section": "-"}, "ours", "own task: undecided"),
        (2, {"section": "-"}, "ours", "own task: held"),
    ],
)
def test_one_seed_decides_nothing_and_an_own_task_reproduces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: int, row: dict[str, str], of: str,
    verdict: str,
) -> None:  # fmt: skip
    """A task of one's own has the scale paper, too: it is the default."""
    manifest = {"figure": "mine", "scale": "paper", "reduced": None, "seeds": seeds}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    held = types.SimpleNamespace(claim=lambda results: check_claims.Measured("0.9", True, "none"))
    monkeypatch.setattr(check_claims, "figures", lambda: {"mine": row})
    monkeypatch.setattr(check_claims, "claims", lambda: {"claim": {"figure": "mine", "of": of}})
    monkeypatch.setattr(check_claims, "results_of", lambda figure: Results(tmp_path))
    monkeypatch.setattr(check_claims, "script", lambda figure: held)
    (found,) = check_claims.rows()
    assert found["verdict"] == verdict
    assert found["measured"] == ("0.9; one seed decides nothing" if "und" in verdict else "0.9")
    legend = dict(check_claims.legend([found]))
    assert ("own task" in " ".join(legend)) == (row["section"] == "-")


def test_a_stale_table_fails_the_check_and_every_verdict_is_said(
    claims: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["build", "claims", "--check"])
    rows = check_claims.rows

    def known(figure: str | None = None, judged: Results | None = None) -> list[dict[str, Any]]:
        return claims if judged is None else rows(figure, judged)

    monkeypatch.setattr(check_claims, "rows", known)
    assert build.main() == 0
    said = capsys.readouterr().out.splitlines()
    for line, row in zip(said, claims, strict=True):
        assert line.split()[0] == row["figure"]
        assert line.endswith(f" {row['says']}")
        assert f" {row['verdict']} " in line
    monkeypatch.setattr(check_claims, "rows", lambda *given: known(*given)[1:])
    before = (RESULTS / "CLAIMS.md").read_text()
    assert build.main() == 1
    assert (RESULTS / "CLAIMS.md").read_text() == before


def test_an_unknown_figure_is_refused_in_one_line() -> None:
    command = [sys.executable, "-m", "scripts.make_figures", "fig99"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "fig99: unknown figure; allowed are" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("claim", "number"),
    [
        ("range_wider", "0.4 [-1.9, 2.7] points"),
        ("range_wider", "8.5 [7.6, 9.5] points"),
        ("range_wider", "-0.3 [-1.1, +0.4]"),
        ("deep_faster", "-0.01 [-0.16, +0.14]"),
        ("small_then_large", "-1.1 [-1.6, -0.5] %"),
        ("small_then_large", "-0.4 [-2.6, +1.9] %"),
        ("imdb_ten_points_tuned", "+0.4 [-3.6, +4.4] points"),
        ("imdb_ten_points_tuned", "-0.6 [-2.6, +1.5]"),
        ("no_clipping_exploding", "ends at 1.8 to 2.1 times"),
        ("no_clipping_exploding", "Adam at 1.8 to 2.2 times"),
    ],
)
def test_the_advice_of_the_readme_has_the_measured_numbers(
    claims: list[dict[str, Any]], claim: str, number: str
) -> None:
    (row,) = [row for row in claims if row["claim"] == claim]
    found = [np.array([e.centre, e.low, e.high]) for e in row["effects"]]
    if claim == "small_then_large":  # ratios as changes in per cent
        found = [100 * (ends - 1) for ends in found]
    if claim == "no_clipping_exploding":  # the ratios of LaProp at two nu, then those of Adam
        found = [np.array([two[0][0], two[1][0]]) for two in (found[:2], found[2:])]
    texts = re.findall(r"[-+]?\d+\.\d+", number)
    said, rounding = np.array(texts, float), 0.51 * 10.0 ** -len(texts[0].partition(".")[2])
    assert any(len(ends) == len(said) and np.abs(ends - said).max() < rounding for ends in found)
    assert number in " ".join((ROOT / "README.md").read_text().split())


def test_the_readme_says_how_fast_the_tuned_optimizers_are_under_noise(
    claims: list[dict[str, Any]],
) -> None:
    measured = {row["claim"]: row["measured"] for row in claims}
    strongest = measured["laprop_ahead_of_adam_rosenbrock"].split("σ 0.12")[1]
    steps, others, adam, seeds = re.search(
        r"medians ([\d,]+) and ([\d,]+) \(Adam converges in (\d+) of (\d+) seeds", strongest
    ).groups()
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"near it in {seeds} of {seeds} seeds, after {steps} updates; Adam" in text
    assert f"Adam did in {adam}, after {others} (medians of all seeds)" in text
    ratios = re.findall(r"updates ([\d.]+) \[", measured["laprop_ahead_of_adam_rosenbrock"])
    assert [int(1 / float(ratio)) for ratio in ratios[1:]] == [4, 25]
    assert "a quarter of Adam's updates at σ 0.10 and in a twenty-fifth at σ 0.12" in text
    losses = measured["laprop_lower_expected_loss_rosenbrock"].split("σ 0.12")[1]
    laprop, share, least = map(float, re.search(
        r": ([\d.]+), ([\d.]+) \[.*the minimum is ([\d.]+)", losses).groups())  # fmt: skip
    assert "less than 0.5 % above its minimum" in text
    assert max(laprop, laprop / share) / least < 1.005


def test_the_advice_of_the_readme_compares_tuned_optimizers_as_measured() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    told = dict(re.findall(r"(Adam|AMSGrad) (\d[^]]*\])", paper.finding("variants")))
    assert f"Adam ends at {told['Adam']} times" in text
    assert f"AMSGrad at {told['AMSGrad']} times" in text


def test_the_ratios_in_the_guide_to_speed_are_the_measured_ones() -> None:
    def benchmark(name: str, index: str | list[str]) -> pd.DataFrame:
        return pd.read_csv(RESULTS / "benchmarks" / f"{name}.csv").set_index(index)

    steps = benchmark("optimizer", ["problem", "threads", "way"]).times_fused_adam
    rows = {
        "10M": "one of 10M numbers",
        "transformer": "73 of a transformer, 39M numbers",
        "ResNet-20": "59 of ResNet-20",
        "300 small": "300 of 64 numbers",
        "come and go": "the same, a seventh of the gradients missing",
        "one strided": "the same, one with gaps between its elements",
    }
    ways = ("LaProp, fused", "LaProp, fused, clipped", "LaProp, foreach")
    ours = {problem: [steps[problem, 1, way] for way in ways] for problem in rows}
    ms = benchmark("optimizer", ["problem", "threads", "way"]).milliseconds
    loop = steps.xs((1, "LaProp, for-loop"), level=("threads", "way"))
    cells = benchmark("grid", "way").cells_per_second
    rainbow = benchmark("rainbow", ["what", "way"]).ratio
    sentences = [
        *(
            f"| {text} | {' | '.join(f'{t:.2f}' if t < 9.995 else f'{t:.1f}' for t in times)} |"
            for text, times in zip(rows.values(), ours.values(), strict=True)
        ),
        f"as fast as Adam on the large tensors ({steps['10M', 2, 'LaProp, fused']:.2f})",
        f"{ours['10M'][0] / steps['10M', 1, 'stream']:.2f} times as long as a loop in C",
        f"makes {cells['batch'] / cells['loop']:,.0f} times as many runs per second",
        f"at {benchmark('cifar10', 'way').times_the_better_plain['ours']:.2f} times the images",
        f"makes {rainbow['agent on Atari', 'ours, Adam']:.2f} times the steps per second of tian",
        "takes {:.2g} ms for a step on 10M numbers, {:.2g} ms on the transformer, {:.2g} ms on "
        "ResNet-20".format(*(ms[name, 1, ways[0]] for name in ("10M", "transformer", "ResNet-20"))),
        f"takes {loop.min():.2g} to {loop.max():.1f} times as long as that of torch's fused Adam",
        f"makes {rainbow['MinAtar alone', 'ours']:.2f} times as many steps per second as gym",
        f"at {benchmark('fairseq', 'way').ratio['laprop']:.2f} times the tokens",
    ]
    text = " ".join((ROOT / "docs" / "speed.md").read_text().split())
    assert [sentence for sentence in sentences if sentence not in text] == []
    memory = benchmark("optimizer", ["problem", "threads", "way"]).temporary_bytes
    assert memory["10M", 1, "LaProp, fused"] == 0


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("section: '-', task: imdb", "mine: needs the key shows"),
        ("section: '-', task: imbd, shows: it", "mine: task=imbd: unknown"),
        ("section: '-', task: imdb, shows: it, writen: before",
         "mine: unknown key writen (did you mean written?)"),
        ("section: '-', task: imdb, shows: it, claims: {ours: {of: us, section: '-', says: it, "
         "rule: so}}", "mine.claims.ours: of=us: must be paper or ours"),
        ("section: '-', task: imdb, shows: it, claims: {ours: {of: ours, section: '-', says: it}}",
         "mine.claims.ours: needs the key rule"),
    ],
)  # fmt: skip
def test_a_wrong_row_of_a_figure_is_refused_in_one_line(
    row: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "paper.yaml").write_text(f"mine: {{{row}}}\n")
    monkeypatch.setattr(paper, "HERE", tmp_path)
    with pytest.raises(ConfigError) as refused:
        paper.figures.__wrapped__()
    assert str(refused.value) == f"scripts/paper.yaml: {line}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("mine:", "scripts/paper.yaml: mine=null: must be KEY: VALUE with the keys section, task"),
        ("mine: 3", "scripts/paper.yaml: mine=3: must be KEY: VALUE with the keys section, task"),
        ("mine: {section: '-', task: imdb, shows: }", "scripts/paper.yaml: mine: needs the key sh"),
        ("mine: {section: '-', task: imdb, shows: it, claims: }",
         "scripts/paper.yaml: mine.claims=null: must be KEY: VALUE"),
        ("mine: {section: 1, task: imdb, shows: it}", "scripts/paper.yaml: mine.section=1: must"),
        ("mine: {section: '-', task: [imdb], shows: it}", "scripts/paper.yaml: mine.task=[imdb]: "),
        ("mine: {3: 4}", "scripts/paper.yaml: mine: unknown key 3"),
        ("mine: {section: '-', task: imdb, shows: it, mathematics: so}",
         "scripts/paper.yaml: mine.mathematics=so: must be true or false"),
        ("mine: {section: '-', task: imdb, shows: it, claims: {ours: }}",
         "scripts/paper.yaml: mine.claims.ours=null: must be KEY: VALUE with the keys of, sec"),
        ("- mine", "{place}: must hold lines of KEY: VALUE, but it is [mine]"),
        ("mine: [", "{place}, line 2: did not find expected node content"),
    ],
)  # fmt: skip
def test_a_file_of_figures_that_is_not_whole_is_refused_in_one_line(
    text: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "paper.yaml").write_text(text)
    monkeypatch.setattr(paper, "HERE", tmp_path)
    with pytest.raises(ConfigError) as refused:
        paper.figures.__wrapped__()
    place = "/".join([*tmp_path.parts[-2:], "paper.yaml"])
    assert str(refused.value).startswith(line.format(place=place))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('"""A figure."""\n', "has no function finding(results)"),
        ("def finding(results): ...\n", "has no function draw(results)"),
    ],
)
def test_a_script_without_a_function_is_refused_in_one_line(
    text: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("mine")
    exec(text, vars(module))
    monkeypatch.setitem(sys.modules, "scripts.figures.mine", module)
    with pytest.raises(ConfigError) as refused:
        paper.script("mine")
    assert str(refused.value) == f"scripts/figures/mine.py: {line}"
