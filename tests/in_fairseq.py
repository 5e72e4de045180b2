"""Tests of the plugin that need fairseq in their own process; test_fairseq.py runs this file.

They share one process, because importing fairseq takes longer than any of the trainings.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import laprop
from experiments.common import fairseq as ours_of_fairseq

PLUGIN = Path(laprop.__file__).parent / "fairseq_plugin"
GPT2 = Path(os.environ["GPT2_BPE"])
WORDS = [
    "the",
    "old",
    "man",
    "and",
    "the",
    "sea",
    "were",
    "unfathomably",
    "antediluvian",
    ",",
    "he",
    "said",
    "to",
    "himself",
]

from fairseq import checkpoint_utils, optim, options, tasks, utils  # noqa: E402
from fairseq.dataclass.utils import (  # noqa: E402
    convert_namespace_to_omegaconf,
    gen_parser_from_dataclass,
)
from fairseq.logging import metrics, progress_bar  # noqa: E402
from fairseq.trainer import Trainer  # noqa: E402
from fairseq_cli import preprocess, train  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

PATH_BEFORE = list(sys.path)
utils.import_user_module(argparse.Namespace(user_dir=str(PLUGIN)))

from laprop.fairseq_plugin.optimizer import FairseqLaProp, FairseqLaPropConfig  # noqa: E402


def test_the_plugins_neighbours_are_not_importable_under_bare_names():
    assert sys.path == PATH_BEFORE
    with pytest.raises(ImportError):
        __import__("functional")


def config(**changes: Any) -> Any:
    values = {"_name": "laprop", "lr": [0.01]} | changes
    return OmegaConf.merge(OmegaConf.structured(FairseqLaPropConfig()), values)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"decay_by_lr": True}),
        (
            {"laprop_betas": "(0.8, 0.5)", "laprop_eps": 1e-3},
            {"betas": (0.8, 0.5), "eps": 1e-3, "decay_by_lr": True},
        ),
        ({"weight_decay": 0.1}, {"weight_decay": 0.1, "decay_by_lr": True}),
        ({"weight_decay": 0.1, "laprop_decay": "paper"}, {"weight_decay": 0.1}),
        (
            {"laprop_betas": "(0.9, 0.5)", "laprop_amsgrad": True, "laprop_fused": "off"},
            {"betas": (0.9, 0.5), "amsgrad": True, "fused": False},
        ),
        (
            {"laprop_betas": "(0.9, 0.5)", "laprop_centered": True, "laprop_centered_warmup": 2},
            {"betas": (0.9, 0.5), "centered": True, "centered_warmup": 2},
        ),
        (
            {"laprop_eps_in_sqrt": True, "laprop_printed_correction": True, "laprop_eps": 0.1},
            {"eps_in_sqrt": True, "lr_weighted_correction": False, "eps": 0.1},
        ),
        (
            {"laprop_agc": 0.01, "laprop_cautious": True, "laprop_lr_outside_momentum": True},
            {"agc": 0.01, "cautious": True, "lr_in_momentum": False, "decay_by_lr": True},
        ),
        (
            {"laprop_state_dtype": "bfloat16"},
            {"state_dtype": "bfloat16", "decay_by_lr": True},
        ),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_is_that_of_laprop_bit_for_bit(ours, theirs, dtype):
    def start() -> list[torch.nn.Parameter]:
        torch.manual_seed(0)
        return [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in ((5, 3), (7,))]

    def steps(params: list[torch.nn.Parameter], optimizer: Any) -> None:
        torch.manual_seed(1)
        for step in range(6):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (1 + step)
            for p in params:
                p.grad = torch.randn_like(p)
            optimizer.step()

    mine, other = start(), start()
    wrapped = optim.build_optimizer(config(**ours), mine)
    assert isinstance(wrapped, FairseqLaProp)
    assert wrapped.supports_flat_params == ("agc" not in theirs)
    assert wrapped.supports_memory_efficient_fp16
    steps(mine, wrapped)
    plain = laprop.LaProp(other, lr=0.01, **theirs)
    steps(other, plain)
    assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))
    numbers = {k: v for k, v in theirs.items() if k in ("betas", "eps", "weight_decay")}
    if numbers.keys() != theirs.keys() - {"decay_by_lr"} or "decay_by_lr" not in theirs:
        without = start()  # the flags do something
        steps(without, laprop.LaProp(without, lr=0.01, **numbers, decay_by_lr=True))
        assert not all(torch.equal(a, b) for a, b in zip(mine, without, strict=True))


@pytest.mark.parametrize("betas", ["nonsense", "0.9", "(0.9,)", "(0.9, 1.5)"])
def test_bad_betas_are_refused(betas):
    with pytest.raises((ValueError, TypeError), match=r"betas|beta parameter"):
        optim.build_optimizer(config(laprop_betas=betas), [torch.nn.Parameter(torch.zeros(2))])


def group_of(*arguments: str) -> dict[str, Any]:
    """The options of LaProp that fairseq builds for these arguments of its command line."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--optimizer", default="laprop")
    parser.add_argument("--lr", type=float, default=0.01)
    gen_parser_from_dataclass(parser, FairseqLaPropConfig())
    cfg = FairseqLaPropConfig.from_namespace(parser.parse_args(arguments))
    wrapped = FairseqLaProp(cfg, [torch.nn.Parameter(torch.zeros(2))])
    (group,) = wrapped.param_groups
    return {key: group[key] for key in laprop.options.OPTIONS}


FLAGS = [  # each flag, the option that it reaches, and the value that arrives
    (["--lr", "0.02"], "lr", 0.02),
    (["--laprop-betas", "(0.8, 0.5)"], "betas", (0.8, 0.5)),
    (["--laprop-eps", "0.001"], "eps", 0.001),
    (["--weight-decay", "0.1"], "weight_decay", 0.1),
    (["--laprop-decay", "paper"], "decay_by_lr", False),
    (["--laprop-amsgrad"], "amsgrad", True),
    (["--laprop-centered"], "centered", True),
    (["--laprop-centered-warmup", "3"], "centered_warmup", 3),
    (["--laprop-agc", "0.3"], "agc", 0.3),
    (["--laprop-cautious"], "cautious", True),
    (["--laprop-lr-outside-momentum"], "lr_in_momentum", False),
    (["--laprop-state-dtype", "bfloat16"], "state_dtype", "bfloat16"),
    (["--laprop-eps-in-sqrt"], "eps_in_sqrt", True),
    (["--laprop-printed-correction"], "lr_weighted_correction", False),
    (["--laprop-low-precision", "stochastic"], "low_precision", "stochastic"),
    (["--laprop-low-precision", "nearest"], "low_precision", "nearest"),
    (["--laprop-fused", "on"], "fused", True),
    (["--laprop-fused", "off"], "fused", False),
]


def test_every_flag_reaches_its_option_and_no_other():
    plain = group_of()
    assert (
        plain
        == laprop.LaProp([torch.nn.Parameter(torch.zeros(2))], lr=0.01, decay_by_lr=True).defaults
    )
    for arguments, option, value in FLAGS:
        assert plain[option] != value
        assert group_of(*arguments) == plain | {option: value}, arguments
    fields = {field.name for field in dataclasses.fields(FairseqLaPropConfig)} - {"_name"}
    assert {arguments[0][2:].replace("-", "_") for arguments, _, _ in FLAGS} == fields
    without = {"maximize", "foreach", "capturable", "differentiable"}
    assert {option for _, option, _ in FLAGS} == plain.keys() - without


def test_the_options_of_an_experiment_reach_fairseqs_optimizer():
    changed = {
        **{"amsgrad": True, "centered": True, "cautious": True, "eps_in_sqrt": True},
        **{"lr_in_momentum": False, "lr_weighted_correction": False, "agc": 0.3},
        **{"centered_warmup": 3, "low_precision": "nearest", "state_dtype": "bfloat16"},
    }
    assert changed.keys() == set(ours_of_fairseq.OPTIONS)
    first = {"name": "laprop", "lr": 0.02, "mu": 0.8, "nu": 0.5, "epsilon": 1e-8}
    first |= {"weight_decay": 0.1, "decay_by_lr": False, "options": None}

    def reached(**values: Any) -> dict[str, Any]:
        settings: Any = SimpleNamespace(optimizer=SimpleNamespace(**first | values))
        return group_of(*ours_of_fairseq.optimizer(settings))

    plain = reached()
    wanted = {"lr": 0.02, "betas": (0.8, 0.5), "eps": 1e-8, "weight_decay": 0.1}
    assert plain == group_of() | wanted | {"decay_by_lr": False}
    assert reached(decay_by_lr=True) == plain | {"decay_by_lr": True}
    assert reached(name="amsprop") == plain | {"amsgrad": True}
    assert reached(name="amsprop", options={"amsgrad": False}) == plain
    for option, value in changed.items():
        assert reached(options={option: value}) == plain | {option: value}


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty lines of GPT-2's byte pairs, binarised as text of one language."""
    from fairseq.data.encoders.gpt2_bpe import GPT2BPE

    folder = tmp_path_factory.mktemp("text")
    files = {"gpt2_encoder_json": GPT2 / "encoder.json", "gpt2_vocab_bpe": GPT2 / "vocab.bpe"}
    bpe = GPT2BPE(SimpleNamespace(**{k: str(v) for k, v in files.items()}))
    lines = [" ".join(WORDS[i % 7 :] + WORDS[: i % 5]) for i in range(60)]
    (folder / "train").write_text("".join(f"{bpe.encode(line)}\n" for line in lines))
    parser = options.get_preprocessing_parser()
    arguments = ["--only-source", "--trainpref", str(folder / "train"), "--workers", "1"]
    preprocess.main(parser.parse_args([*arguments, "--destdir", str(folder / "bin")]))
    return folder / "bin"


def configuration(text: Path, *arguments: str) -> Any:
    parser = options.get_training_parser()
    given = [
        *(str(text), "--task", "masked_lm", "--criterion", "masked_lm", "--arch", "roberta_base"),
        *("--encoder-layers", "1", "--encoder-embed-dim", "32", "--encoder-ffn-embed-dim", "32"),
        *("--encoder-attention-heads", "2", "--tokens-per-sample", "32", "--batch-size", "4"),
        *("--optimizer", "laprop", "--lr", "0.01", "--lr-scheduler", "fixed", "--cpu"),
        *("--disable-validation", "--num-workers", "0", "--log-format", "json"),
        *("--log-interval", "1", "--save-interval", "100", "--clip-norm", "0"),
        *("--user-dir", str(PLUGIN), "--distributed-world-size", "1", *arguments),
    ]
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, given))


def training(text: Path, folder: Path, *arguments: str) -> list[float]:
    """The loss of every update, read from fairseq's own meters."""
    losses = []
    real = progress_bar.JsonProgressBar.log

    def log(bar: Any, stats: Any, tag: Any = None, step: Any = None) -> None:
        losses.append(float(stats["loss"]))
        real(bar, stats, tag, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress_bar.JsonProgressBar, "log", log)
        metrics.reset()
        train.main(configuration(text, "--save-dir", str(folder), *arguments))
    return losses


PRECISIONS = {
    "float32": [],
    "fp16": ["--fp16", "--fp16-no-flatten-grads"],
    "memory-efficient fp16": ["--memory-efficient-fp16"],
    "bf16": ["--bf16"],
    "memory-efficient bf16": ["--memory-efficient-bf16"],
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_resumed_training_is_an_undisturbed_one(text, tmp_path, precision):
    """Equal bit for bit, except where fairseq itself saves float32 weights in 16 bits."""
    options = PRECISIONS[precision]
    whole = training(text, tmp_path / "whole", "--max-update", "8", *options)
    first = training(text, tmp_path / "part", "--max-update", "5", *options)
    second = training(text, tmp_path / "part", "--max-update", "8", *options)
    assert len(set(whole)) == 8
    assert first == whole[:5]
    rounded = precision in ("fp16", "bf16")
    assert second == pytest.approx(whole[5:], abs=0.02 if rounded else 0)
    a, b = (
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / name / "checkpoint_last.pt"))
        for name in ("whole", "part")
    )
    for name, value in a["model"].items():
        assert rounded or torch.equal(value, b["model"][name]), name
    states = [x["last_optimizer_state"]["state"] for x in (a, b)]
    assert states[0].keys() == states[1].keys()
    for key, state in states[0].items():
        assert {"exp_avg", "exp_avg_sq"} <= state.keys()
        assert ("master_param" in state) == precision.startswith("memory")
        for name, value in state.items():
            assert value.dtype in (torch.float32, torch.float64), name
            assert rounded or torch.equal(value, states[1][key][name]), name


def test_sixteen_bits_train_as_float32_does(text, tmp_path):
    losses = {
        name: training(text, tmp_path / name, "--max-update", "40", *options)
        for name, options in PRECISIONS.items()
    }
    reference = losses["float32"]
    fallen = reference[0] - reference[-1]
    assert fallen > 0.2
    for name, loss in losses.items():
        assert abs(loss[-1] - reference[-1]) < 0.3 * fallen, name


def test_a_trainer_takes_the_options_of_old_programs():
    """fairseq converts an argparse.Namespace; --bf16 is repaired and --fp16 refused there too."""
    model = torch.nn.Linear(2, 2)

    def trainer_of(*arguments: str) -> Any:
        parser = options.get_training_parser()
        given = options.parse_args_and_arch(
            parser, ["no data", "--arch", "transformer", "--cpu", *arguments]
        )
        return Trainer(given, SimpleNamespace(), model, torch.nn.Module())

    assert trainer_of("--bf16").cfg.common.tpu is False
    with pytest.raises(SystemExit, match=r"^error: --fp16: .*--fp16-no-flatten-grads"):
        trainer_of("--fp16")


def test_fp16_with_flat_gradients_is_refused_without_a_gpu(text, tmp_path):
    with pytest.raises(SystemExit, match=r"^error: --fp16: .*--fp16-no-flatten-grads"):
        training(text, tmp_path, "--fp16", "--max-update", "1")


def test_whole_words_are_masked_together(text):
    bpe = ["--bpe", "gpt2", "--gpt2-encoder-json", str(GPT2 / "encoder.json")]
    bpe += ["--gpt2-vocab-bpe", str(GPT2 / "vocab.bpe")]

    def split_words(*arguments: str) -> tuple[int, int]:
        """Count words of several byte pairs: those masked in part, and those masked as a whole."""
        cfg = configuration(text, *arguments)
        task = tasks.setup_task(cfg.task)
        task.load_dataset("train")
        source = configuration(text, *bpe)
        decode = tasks.setup_task(source.task).source_dictionary
        from fairseq.data import encoders

        coder = encoders.build_bpe(source.bpe)
        part = full = 0
        dataset = task.datasets["train"]
        for i in range(len(dataset)):
            item = dataset[i]
            target = item["target"]
            tokens = torch.where(
                target == decode.pad(), item["net_input.src_tokens"], target
            ).tolist()
            masked = (target != decode.pad()).tolist()
            words: list[list[bool]] = []
            for token, hidden in zip(tokens, masked, strict=True):
                name = decode[token] if token < len(decode) else "<mask>"
                begins = token < decode.nspecial or coder.is_beginning_of_word(name)
                if begins or not words:
                    words.append([])
                words[-1].append(hidden)
            several = [word for word in words if len(word) > 1]
            part += sum(any(word) and not all(word) for word in several)
            full += sum(all(word) for word in several)
        return part, full

    part, full = split_words("--mask-whole-words", *bpe)
    assert part == 0
    assert full > 5
    assert split_words()[0] > 5  # without the option some words are masked in part
    with pytest.raises(SystemExit, match=r"^error: --mask-whole-words: needs --bpe"):
        split_words("--mask-whole-words")
