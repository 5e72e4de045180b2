"""RoBERTa on English Wikipedia, pretrained by fairseq (paper 5.4 and C.5, Figures 5b and 10).

fairseq-train runs as a separate process with :mod:`laprop.fairseq_plugin`, on GPT-2's byte pairs
and with whole words masked. The training loss of every update is recorded. See
:mod:`experiments.common.fairseq`.
"""

import json
import lzma
import shutil
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from experiments.common import data, fairseq
from experiments.common.messages import ConfigError
from experiments.common.run import Run
from experiments.common.schema import settings
from experiments.common.settings import Settings

VERSION = 1  # raise it when the same settings give other numbers
OPTIMIZERS, OPTIONS = fairseq.OPTIMIZERS, fairseq.OPTIONS
SCHEDULED = False  # fairseq schedules lr, by task.warmup and task.decay_until


@settings
class Config:
    """roberta_base, or a smaller network.

    Attributes:
        megabytes: how much of the training text is used, from its start; null: all 150 MB.
        layers: number of layers of the encoder.
        width: width of the embeddings and layers.
        inner: width of the feed-forward layers.
        heads: number of attention heads; must divide the width.
        dropout: share of activations that are dropped.
        attention_dropout: share of attention weights that are dropped.
        tokens_per_sample: whole paragraphs are joined up to this length; longer ones are left out.
        batch_size: samples that go through the network at once.
        update_freq: number of such batches in an update.
        updates: number of updates of the training.
        decay_until: the update at which the learning rate would reach 0.
        warmup: number of updates over which the learning rate grows from 0.
        average_over: number of last updates whose mean is the final loss.
        save_every: number of updates between fairseq's checkpoints.
        precision: number format of the network; fp16 needs a GPU.
    """

    megabytes: Annotated[float, Gt(0)] | None
    layers: Annotated[int, Gt(0)]
    width: Annotated[int, Gt(0)]
    inner: Annotated[int, Gt(0)]
    heads: Annotated[int, Gt(0)]
    dropout: Annotated[float, Interval(ge=0, lt=1)]
    attention_dropout: Annotated[float, Interval(ge=0, lt=1)]
    tokens_per_sample: Annotated[int, Gt(8)]
    batch_size: Annotated[int, Gt(0)]
    update_freq: Annotated[int, Gt(0)]
    updates: Annotated[int, Gt(0)]
    decay_until: Annotated[int, Gt(0)]
    warmup: Annotated[int, Ge(0)]
    average_over: Annotated[int, Gt(0)]
    save_every: Annotated[int, Gt(0)]
    precision: Literal["float32", "fp16", "bf16"]

    def __post_init__(self) -> None:
        fairseq.check_lengths(self)


def prepare(cfg: Config, folder: Path) -> None:
    """Write the text as numbers of byte pairs to ``folder``, and fairseq's input to ``bin/``."""
    bpe = data.fetch("gpt2_bpe")
    with lzma.open(data.fetch("wikipedia") / "train.txt.xz") as stream:
        text = stream.read(-1 if cfg.megabytes is None else int(cfg.megabytes * 1e6))
    (folder / "train.txt").write_bytes(text[: text.rindex(b"\n") + 1])
    fairseq.tool(
        "fairseq.examples.roberta.multiprocessing_bpe_encoder",
        *("--encoder-json", bpe / "encoder.json", "--vocab-bpe", bpe / "vocab.bpe"),
        *("--inputs", folder / "train.txt", "--outputs", folder / "train.bpe"),
        *("--keep-empty", "--workers", 2),
        log=folder / "encode.log",
    )
    # All of GPT-2's pairs, even those not in the text, so that the network has the paper's size.
    pairs = sorted(json.loads((bpe / "encoder.json").read_text(encoding="utf-8")).values())
    (folder / "dict.txt").write_text("".join(f"{pair} 1\n" for pair in pairs), encoding="utf-8")
    fairseq.tool(
        "fairseq_cli.preprocess",
        *("--only-source", "--srcdict", folder / "dict.txt", "--trainpref", folder / "train.bpe"),
        *("--destdir", folder / "bin", "--workers", 1),
        log=folder / "preprocess.log",
    )


def prepared(cfg: Config, run: Settings) -> Path:
    """The folder of the prepared text of these settings; it is prepared at the first call."""
    return fairseq.prepared(run, {"megabytes": cfg.megabytes}, lambda folder: prepare(cfg, folder))


check = fairseq.check


def train(cfg: Config, run: Run) -> None:
    """Prepare the text and train."""
    if cfg.precision == "fp16" and run.device.type != "cuda":
        raise ConfigError("task.precision=fp16: needs a GPU; a CPU has float32 and bf16")
    text = prepared(cfg, run.config)
    bpe = data.fetch("gpt2_bpe")
    updates = fairseq.train(
        run,
        [
            *(text / "bin", "--task", "masked_lm", "--criterion", "masked_lm"),
            *("--arch", "roberta_base", "--encoder-layers", cfg.layers),
            *("--encoder-attention-heads", cfg.heads, "--encoder-embed-dim", cfg.width),
            *("--encoder-ffn-embed-dim", cfg.inner, "--dropout", cfg.dropout),
            *("--attention-dropout", cfg.attention_dropout, "--mask-whole-words", "--bpe", "gpt2"),
            *("--gpt2-encoder-json", bpe / "encoder.json", "--gpt2-vocab-bpe", bpe / "vocab.bpe"),
            *("--sample-break-mode", "complete", "--tokens-per-sample", cfg.tokens_per_sample),
            *("--batch-size", cfg.batch_size, "--update-freq", cfg.update_freq),
            *("--lr-scheduler", "polynomial_decay", "--warmup-updates", cfg.warmup),
            *("--total-num-update", cfg.decay_until, "--clip-norm", 0.0),
            *([] if cfg.precision == "float32" else [f"--{cfg.precision}"]),
        ],
        cfg.updates,
        cfg.save_every,
    )
    losses = updates.train_loss
    run.summary(final_loss=losses[-cfg.average_over :].mean(), mean_loss=losses.mean())
    # A finished run keeps no checkpoints, neither ours nor fairseq's.
    shutil.rmtree(fairseq.checkpoints(run), ignore_errors=True)
