"""fairseq in processes of its own: the plugin, records from its log, resuming, the recipes."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import golden
import pytest
import torch
from conftest import ROOT, Maker, manifest, wait_for

from experiments import translation
from experiments.common import data, fairseq
from experiments.common.config import compose_settings
from experiments.common.execution import check_task, execute
from experiments.common.messages import ConfigError
from experiments.common.run import Run
from experiments.common.settings import Settings
from scripts.benchmarks import fairseq as benchmark

HERE = importlib.util.find_spec("fairseq") is not None
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HERE, reason="fairseq is not installed: make fairseq"),
]

SMOKE = ("task=translation", "scale=smoke", "threads=1")


def records(settings: Settings) -> list[dict[str, Any]]:
    lines = (settings.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A finished training, whose prepared text the other tests use too."""
    output = tmp_path_factory.mktemp("fairseq") / "outputs"
    settings = compose_settings([*SMOKE, f"output={output}", "optimizer=laprop"])
    assert execute(settings) == "finished"
    return settings


def test_the_plugin_inside_fairseq() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
    result = subprocess.run(
        [*command, str(ROOT / "tests" / "in_fairseq.py")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GPT2_BPE": str(data.fetch("gpt2_bpe"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-5000:]


def test_every_update_of_the_log_is_a_record(smoke: Settings) -> None:
    task, told = smoke.task, records(smoke)
    assert [record["step"] for record in told] == list(range(1, task.updates + 1))
    # fairseq reports the mean over its one epoch so far: that of our records, weighted by tokens.
    log = (smoke.folder / "fairseq.log").read_text()
    (epoch,) = (
        json.loads(line.split(" | ")[-1]) for line in log.splitlines() if "| train |" in line
    )
    tokens = sum(record["tokens"] for record in told)
    mean = sum(record["train_loss"] * record["tokens"] for record in told) / tokens
    assert mean == pytest.approx(float(epoch["train_loss"]), abs=2e-3)
    # A record has the lr of the next update; it rises from 0 in the warmup and then falls to 0.
    for record in told:
        n, warmup, end = record["step"], task.warmup, task.decay_until
        share = n / warmup if n <= warmup else (end - n) / (end - warmup)
        assert record["scheduled_lr"] == pytest.approx(smoke.optimizer.lr * share, rel=1e-5)
    summary = json.loads((smoke.folder / "summary.json").read_text())
    losses = [record["train_loss"] for record in told]
    assert summary["mean_loss"] == pytest.approx(sum(losses) / len(losses))
    assert summary["final_loss"] == pytest.approx(sum(losses[-2:]) / 2)
    assert not (smoke.folder / "fairseq").exists()


def test_every_sentence_of_a_small_test_set_is_translated(smoke: Settings) -> None:
    """fairseq's default leaves out sentences of a last batch that is no multiple of 8."""
    assert json.loads((smoke.folder / "summary.json").read_text())["bleu"] >= 0
    printed = (smoke.folder / "generate.txt").read_text()
    assert len(re.findall(r"^H-\d+\t", printed, re.MULTILINE)) == smoke.task.test_pairs == 4


def test_numbers_change_only_with_a_version(smoke: Settings, tmp_path: Path) -> None:
    golden.compare("translation", smoke.output)  # LaProp's run is there already
    golden.compare("roberta", tmp_path)


def test_hydra_train_takes_the_plugin_to_the_same_losses(smoke: Settings, tmp_path: Path) -> None:
    task, h = smoke.task, smoke.optimizer
    text = translation.prepared(task, smoke) / "bin"
    side = {"embed_dim": task.width, "ffn_embed_dim": task.inner, "layers": task.layers}
    side["attention_heads"] = task.heads
    config = {
        "common": {"user_dir": str(fairseq.PLUGIN), "log_format": "json", "log_interval": 1},
        "task": {"_name": "translation", "data": str(text), "source_lang": "de"},
        "dataset": {"max_tokens": task.max_tokens, "num_workers": 0, "disable_validation": True},
        "criterion": {"_name": "label_smoothed_cross_entropy"},
        "optimization": {"lr": [h.lr], "max_update": task.updates, "clip_norm": 0.0},
        "optimizer": {"_name": "laprop", "laprop_betas": f"({h.mu}, {h.nu})"},
        "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": task.warmup},
        "checkpoint": {"no_save": True},
        "model": {"_name": "transformer", "encoder": side, "decoder": side},
    }
    config["task"]["target_lang"] = "en"
    config["criterion"]["label_smoothing"] = task.label_smoothing
    config["optimizer"]["weight_decay"] = h.weight_decay
    config["model"] |= {"dropout": task.dropout, "share_decoder_input_output_embed": True}
    (tmp_path / "iwslt.yaml").write_text(json.dumps(config))  # JSON is YAML
    command = ["fairseq_cli.hydra_train", "--config-dir", str(tmp_path), "--config-name", "iwslt"]
    result = subprocess.run(
        [sys.executable, "-m", *command, f"hydra.run.dir={tmp_path}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [line for line in result.stdout.splitlines() if "[train_inner]" in line]
    losses = [float(json.loads(line.split(" - ", 1)[1])["loss"]) for line in lines]
    assert losses == [record["train_loss"] for record in records(smoke)]


# Kill and resume ---------------------------------------------------------------------------------

LONG = (
    *SMOKE, "task.test_pairs=0", "task.updates=120", "task.decay_until=120", "task.save_every=15",
)  # fmt: skip


def children(process: int) -> list[int]:
    """The processes that ``process`` started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_killed_at_any_end_it_goes_on_to_the_same_numbers(smoke: Settings, tmp_path: Path) -> None:
    whole = compose_settings([*LONG, f"output={smoke.output}", "optimizer=adam"])
    assert execute(whole) == "finished"
    output = tmp_path / "outputs"
    (output / "prepared").parent.mkdir()
    (output / "prepared").symlink_to(smoke.output / "prepared")
    settings = compose_settings([*LONG, f"output={output}", "optimizer=adam"])
    command = [sys.executable, "-m", "experiments", *LONG, f"output={output}", "optimizer=adam"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, "checkpoint_every=0.3"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def logged(update: int) -> bool:
        path = settings.folder / "metrics.jsonl"
        return path.exists() and f'"step": {update},' in path.read_text()

    for victim, number, update in (
        ("ours", signal.SIGKILL, 25),
        ("fairseq", signal.SIGKILL, 55),
        ("ours", signal.SIGTERM, 85),
    ):
        ours = start()
        wait_for(lambda update=update: logged(update))
        (theirs,) = children(ours.pid)
        os.kill(ours.pid if victim == "ours" else theirs, number)
        told, _ = ours.communicate(timeout=60)
        wait_for(lambda theirs=theirs: not Path(f"/proc/{theirs}/fd").exists(), 10)
        if victim == "fairseq":
            assert ours.returncode == 1
            assert "ended by signal 9" in told
            assert told.count("\n") < 6
            assert manifest(settings)["status"] == "failed"
        else:
            assert ours.returncode in (-signal.SIGKILL, 128 + signal.SIGTERM)
        assert not logged(120), "it was too fast to be killed"
    assert execute(settings) == "finished"
    for name in ("metrics.jsonl", "summary.json"):
        assert (settings.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    starts = (settings.folder / "fairseq.log").read_text().count("Start iterating over samples")
    assert starts > (whole.folder / "fairseq.log").read_text().count("Start iterating over samples")


def test_a_loss_that_is_no_number_is_divergence(smoke: Settings) -> None:
    overrides = ["optimizer=adam", "optimizer.lr=1e38", "task.warmup=0", "task.test_pairs=0"]
    settings = compose_settings([*SMOKE, f"output={smoke.output}", *overrides])
    assert execute(settings) == "diverged"
    assert 1 < manifest(settings)["diverged_at"] <= settings.task.updates
    assert len(records(settings)) == manifest(settings)["diverged_at"] - 1


def test_a_run_without_one_update_has_diverged(make: Maker, monkeypatch) -> None:
    settings = make("task=translation", "scale=smoke")
    settings.folder.mkdir(parents=True)
    monkeypatch.setattr(fairseq._Training, "record", lambda *_: None)
    run = Run(settings)
    updates = fairseq.train(run, [], updates=3, save_every=1)
    assert run.diverged_at == 1
    assert math.isnan(updates.train_loss[-2:].mean())


def test_what_fairseq_says_of_its_failure_is_passed_on(smoke: Settings) -> None:
    settings = compose_settings([*SMOKE, f"output={smoke.output}", "task.max_tokens=1"])
    with pytest.raises(RuntimeError, match=r"^fairseq-train: \w*(Error|Exception)"):
        execute(settings)


# The log and the checkpoints without fairseq -----------------------------------------------------

LINE = '2026-01-01 00:00:00 | INFO | train_inner | {{"epoch": 1, "loss": "{loss}", "wpb": "9", "num_updates": "{n}", "lr": "0.1", "gnorm": "2.5"}}\n'  # noqa: E501


def test_half_a_line_waits_for_the_rest_and_other_lines_are_passed_over(make: Maker) -> None:
    settings = make("task=translation", "scale=smoke")
    settings.folder.mkdir(parents=True)
    training = fairseq._Training(Run(settings), [])
    log = settings.folder / "fairseq.log"
    first, second = LINE.format(n=1, loss=9.5), LINE.format(n=2, loss=9.25)
    log.write_text(f"noise {{\n{first}{second[:60]}")
    with training:
        assert training.record(1)["train_loss"] == 9.5
        assert 2 not in training.records
        with log.open("a") as stream:
            stream.write(second[60:] + "x | Saved checkpoint a.pt (epoch 1 @ 2 updates, score\n")
        assert training.record(2) == {
            "update": 2, "train_loss": 9.25, "gradient_norm": 2.5, "scheduled_lr": 0.1, "tokens": 9,
        }  # fmt: skip
        training.finish(2)  # everything is done already, so that no process starts
        with log.open("a") as stream:
            stream.write(LINE.format(n=4, loss=9))
        with pytest.raises(RuntimeError, match="update 3 is missing"):
            training.record(3)


@pytest.mark.parametrize("saved", [0, 30, 35])  # the last save in the log before the kill
def test_the_newest_whole_checkpoint_is_resumed_whatever_the_clock_says(
    tmp_path: Path, saved: int
) -> None:
    numbered, last = tmp_path / "checkpoint_1_30.pt", tmp_path / "checkpoint_last.pt"
    for moment, path in ((2, last), (1, numbered)):
        torch.save({"n": torch.arange(1000)}, path)
        os.utime(path, (moment, moment))
    newest = numbered if saved == 0 else last
    for _ in range(2):
        assert fairseq._whole(tmp_path, saved)[-1] == newest
        os.utime(numbered, (3, 3))
    last.write_bytes(last.read_bytes()[:-100])  # cut short when the process was killed
    assert fairseq._whole(tmp_path, saved) == [numbered]
    assert not last.exists()
    assert zipfile.is_zipfile(numbered)


# Recipes and refusals ----------------------------------------------------------------------------


def test_cleaning_keeps_what_the_recipe_keeps() -> None:
    def pair(a: int, b: int) -> tuple[str, str]:
        return " ".join(["x"] * a), " ".join(["y"] * b)

    lengths = [(1, 1), (2, 3), (3, 2), (4, 6), (175, 117), (175, 175), (0, 1), (0, 0), (2, 4),
               (3, 5), (176, 170), (175, 116)]  # fmt: skip
    kept = list(translation.clean(pair(*n) for n in lengths))
    assert kept == [pair(*n) for n in lengths[:6]]


def test_the_official_archive_goes_through_fairseqs_recipe(tmp_path: Path) -> None:
    members = {}
    for language, sentence in (("de", "Das ist Satz {}, nicht wahr?"), ("en", "It's no. {}, OK?")):
        text = [f"<url>http://x/{language}</url>", "<title>Ein Titel</title>"]
        text += [sentence.format(i) for i in range(1, 60)]
        members[f"train.tags.de-en.{language}"] = "\n".join(text)
        for name in translation.TEST:
            xml = f'<doc>\n<seg id="1"> {sentence.format(name)} Tom’s </seg>\n<x>no</x>\n</doc>'
            members[f"IWSLT14.{name}.de-en.{language}.xml"] = xml
    archive = tmp_path / "de-en.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(f"de-en/{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    splits = translation.official(archive)
    assert splits["train"][0] == ("ein titel", "ein titel")
    assert splits["train"][1] == ("das ist satz 1 , nicht wahr ?", "it 's no . 1 , ok ?")
    assert {name: len(pairs) for name, pairs in splits.items()} == {
        "train": 58, "valid": 2, "test": 5,
    }  # fmt: skip
    assert [pair[0].split()[3] for pair in splits["valid"]] == ["22", "45"]  # every 23rd line
    assert splits["test"][0][1].endswith("'s")


def test_the_data_folder_has_the_recipes_valid_and_test_set() -> None:
    splits = translation.mirrored()
    assert len(splits["valid"]) == translation.PAIRS["valid"]
    assert len(splits["test"]) == translation.PAIRS["test"]
    assert 30_000 < len(splits["train"]) <= 34_907
    text = [side for pairs in splits.values() for pair in pairs for side in pair]
    assert not any("&apos;" in side or "&quot;" in side for side in text)
    assert all(side == side.lower() for side in text[:2000])


def test_bleu_is_what_fairseqs_own_scorer_says(make: Maker, tmp_path: Path) -> None:
    import sacrebleu

    settings = make("task=translation", "scale=smoke")
    settings.folder.mkdir(parents=True)
    pairs = translation.mirrored()["test"][:40]
    lines = []
    for n, (_, reference) in reversed(list(enumerate(pairs))):  # fairseq sorts by length
        words = reference.split()
        hypothesis = " ".join(words[: max(4, len(words) * 4 // 5)])
        lines += [f"S-{n}\tx", f"T-{n}\t{reference}", f"H-{n}\t-0.5\t{hypothesis}", f"D-{n}\t-1\tz"]
    (settings.folder / "generate.txt").write_text("\n".join(["INFO", *lines, "Generate test"]))
    got = translation.translate(settings.task, Run(settings), tmp_path)
    hypotheses, references = zip(*got, strict=True)
    assert list(references) == [pair[1] for pair in pairs]
    ours = sacrebleu.corpus_bleu(hypotheses, [references], tokenize="none", force=True).score
    for name, side in (("sys", hypotheses), ("ref", references)):
        (tmp_path / name).write_text("\n".join(side))
    fairseq.tool(
        "fairseq_cli.score", "--sys", tmp_path / "sys", "--ref", tmp_path / "ref",
        log=tmp_path / "score",
    )  # fmt: skip
    theirs = float((tmp_path / "score").read_text().split("BLEU4 = ")[1].split(",")[0])
    assert 20 < theirs < 99
    assert ours == pytest.approx(theirs, abs=0.01)


def test_the_frequencies_loss_is_the_least_without_looking_at_the_source(smoke: Settings) -> None:
    """It is fairseq's formula over the training text, and other fixed distributions have more."""
    text = translation.prepared(smoke.task, smoke) / "bin"
    names = [line.split()[0] for line in (text / "dict.en.txt").read_text().splitlines()]
    index = {name: i for i, name in enumerate([*names, "</s>", "<s>", "<pad>", "<unk>"])}
    lines = (text.parent / "train.en").read_text().splitlines()
    targets = torch.tensor([index[word] for line in lines for word in (*line.split(), "</s>")])
    smoothing, share = 0.1, 0.1 / (len(index) - 1)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        """fairseq.criterions.label_smoothed_cross_entropy, in bits."""
        log_p = logits.log_softmax(0)
        nll = -log_p[targets].mean()
        return ((1 - smoothing - share) * nll - share * log_p.sum()) / math.log(2)

    logits = torch.zeros(len(index), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(logits)
        value.backward()
        return value

    optimizer.step(closure)
    found = translation.unigram_loss(text.parent, smoothing)
    assert found == pytest.approx(loss(logits.detach()).item(), abs=1e-4)
    assert found < math.log2(len(index)) - 0.5
    summary = json.loads((smoke.folder / "summary.json").read_text())
    assert summary["unigram_loss"] == found


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["task.heads=3"], "task.heads=3: must divide width=512"),
        (["task.warmup=60000"], "task.warmup=60000: must be less than decay_until=60000"),
        (["task.average_over=70000"], "task.average_over=70000: must be at most updates=60000"),
        (["task.test_pairs=9999"], "task.test_pairs=9999: must be less than or equal to 6750"),
    ],
)
def test_bad_settings_are_refused_in_one_line(make: Maker, overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}$"):
        make("task=translation", *overrides)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["optimizer=amsgrad"], "optimizer=amsgrad: is not for translation, which takes adam, "),
        (["optimizer=adam", "optimizer.decay_by_lr=false"], "optimizer.decay_by_lr=false: torch"),
        (["optimizer=adam", "optimizer.amsgrad=true"], "optimizer.amsgrad=true: fairseq's adam "),
        (["optimizer.maximize=true"], "optimizer.maximize=true: translation takes amsgrad, "),
        (["schedule.lr.warmup=3"], "schedule.lr.warmup=3: translation does not follow schedule"),
    ],
)
def test_an_optimizer_that_fairseq_has_not_is_refused(
    make: Maker, overrides: list[str], line: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{line}"):
        fairseq.optimizer(make("task=translation", *overrides))


def test_without_the_official_archive_or_fairseq_one_line_says_so(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make("task=translation", "task.archive=nowhere.tgz")
    for refuse in (check_task, execute):
        with pytest.raises(ConfigError, match=r"^task.archive=nowhere.tgz: must be IWSLT14's de-"):
            refuse(settings)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^task=translation: fairseq .* `make fairseq`"):
        execute(settings)


@pytest.mark.parametrize("optimizer", ["adam", "laprop"])
def test_the_benchmark_trains_the_papers_transformer(
    optimizer: str, smoke: Settings, tmp_path: Path
) -> None:
    ours, paper = benchmark.settings(optimizer).task, compose_settings(["task=translation"]).task
    same = ("layers", "width", "inner", "heads", "merges")
    assert [getattr(ours, key) for key in same] == [getattr(paper, key) for key in same]
    text = translation.prepared(smoke.task, smoke)
    small = compose_settings([*SMOKE, f"output={tmp_path}", f"optimizer={optimizer}"])
    assert benchmark.tokens_per_second(small, text) > 0
