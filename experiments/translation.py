"""IWSLT14 German to English with a transformer, trained by fairseq (paper 5.4, Figure 5a).

fairseq-train runs as a separate process with :mod:`laprop.fairseq_plugin`. The training loss of
every update is recorded, and the test set is translated at the end. See
:mod:`experiments.common.fairseq`.
"""

import contextlib
import html
import io
import lzma
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Interval

from experiments.common import data, fairseq
from experiments.common.messages import ConfigError
from experiments.common.run import Run
from experiments.common.schema import settings
from experiments.common.settings import Settings

VERSION = 1  # raise it when the same settings give other numbers
OPTIMIZERS, OPTIONS = fairseq.OPTIMIZERS, fairseq.OPTIONS
SCHEDULED = False  # fairseq schedules lr, by task.warmup and task.decay_until
LANGUAGES = ("de", "en")
TEST = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
PAIRS = {"train": 160_239, "valid": 7_283, "test": 6_750}  # sentence pairs of fairseq's recipe
Pair = tuple[str, str]


@settings
class Config:
    """transformer_iwslt_de_en, with input and output embeddings of the decoder shared.

    Attributes:
        archive: path of the official ``de-en.tgz``, which has to be downloaded by hand and gives
            all 160,239 training pairs; null: the 34,907 of them that the artefact iwslt14 has.
        pairs: number of training pairs, from the first on; null: all of them.
        merges: number of merges of the joint byte pair encoding.
        layers: number of layers of the encoder, and of the decoder.
        width: width of the embeddings and layers.
        inner: width of the feed-forward layers.
        heads: number of attention heads; must divide the width.
        dropout: share of activations that are dropped.
        label_smoothing: share of the target that is spread evenly over all words.
        max_tokens: largest number of tokens in a batch, with padding.
        updates: number of updates of the training.
        decay_until: the update at which the learning rate would reach 0.
        warmup: number of updates over which the learning rate grows from 0.
        average_over: number of last updates whose mean is the final loss.
        save_every: number of updates between fairseq's checkpoints.
        test_pairs: number of sentences of the test set to translate, from the first on; 0: none,
            and no BLEU.
        beam: width of the beam search.
    """

    archive: str | None
    pairs: Annotated[int, Gt(0)] | None
    merges: Annotated[int, Gt(0)]
    layers: Annotated[int, Gt(0)]
    width: Annotated[int, Gt(0)]
    inner: Annotated[int, Gt(0)]
    heads: Annotated[int, Gt(0)]
    dropout: Annotated[float, Interval(ge=0, lt=1)]
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)]
    max_tokens: Annotated[int, Gt(0)]
    updates: Annotated[int, Gt(0)]
    decay_until: Annotated[int, Gt(0)]
    warmup: Annotated[int, Ge(0)]
    average_over: Annotated[int, Gt(0)]
    save_every: Annotated[int, Gt(0)]
    test_pairs: Annotated[int, Interval(ge=0, le=PAIRS["test"])]
    beam: Annotated[int, Gt(0)]

    def __post_init__(self) -> None:
        fairseq.check_lengths(self)


def check(settings: Settings) -> None:
    """Refuse a run for which fairseq or the archive is missing.

    Raises:
        ConfigError: one of them is missing; the message says what to do.
    """
    fairseq.check(settings)
    archive = settings.task.archive
    if archive is not None and not Path(archive).is_file():
        raise _no_archive(archive, "there is no such file")


def _no_archive(archive: str | Path, why: str) -> ConfigError:
    return ConfigError(
        f"task.archive={archive}: must be IWSLT14's de-en.tgz, or null for the part of it that the "
        f"artefact iwslt14 has ({why})"
    )


# Text -------------------------------------------------------------------------------------------


def clean(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Yield the pairs with 1 to 175 tokens on each side.

    The longer side may have at most 1.5 times as many tokens as the shorter one.
    """
    for pair in pairs:
        short, long = sorted(len(side.split()) for side in pair)
        if short >= 1 and long <= 175 and long <= 1.5 * short:
            yield pair


def mirrored() -> dict[str, list[Pair]]:
    """The artefact iwslt14, a part of the data set, tokenised, in lower case, and split."""
    folder = data.fetch("iwslt14")

    def lines(name: str) -> list[str]:
        # Training text has ' where validation and test text have &apos;.
        with lzma.open(folder / f"{name}.xz", "rt", encoding="utf-8") as file:
            return html.unescape(file.read()).splitlines()

    names = {"train": "train_subset", "valid": "valid.tok", "test": "test.tok"}
    splits = {
        split: list(zip(*(lines(f"{name}.{language}") for language in LANGUAGES), strict=True))
        for split, name in names.items()
    }
    return splits | {"train": list(clean(splits["train"]))}


def official(archive: Path) -> dict[str, list[Pair]]:
    """The whole set from ``de-en.tgz``, as fairseq's prepare-iwslt14.sh makes it.

    There is one difference: the script writes ``&apos;`` and the like, but here punctuation is not
    escaped, as in the artefact's training text.

    Raises:
        ConfigError: the file is missing, or it is not the official one.
    """
    from sacremoses import MosesTokenizer

    def read(tar: tarfile.TarFile, name: str) -> list[str]:
        stream = tar.extractfile(f"de-en/{name}")
        assert stream is not None
        return stream.read().decode().splitlines()

    def tokenised(lines: list[str], language: str) -> list[str]:
        moses = MosesTokenizer(lang=language)
        return [moses.tokenize(line, return_str=True, escape=False).lower() for line in lines]

    sides: dict[str, list[list[str]]] = {"train": [], "test": []}
    try:
        with tarfile.open(archive) as tar:
            for language in LANGUAGES:
                text = [
                    re.sub("</?(title|description)>", "", line)
                    for line in read(tar, f"train.tags.de-en.{language}")
                    if not re.search("<(url|talkid|keywords)>", line)
                ]
                sides["train"].append(tokenised(text, language))
                text = [
                    re.sub(r"<seg id=\"[0-9]*\">\s*|\s*</seg>\s*", "", line).replace("’", "'")
                    for name in TEST
                    for line in read(tar, f"IWSLT14.{name}.de-en.{language}.xml")
                    if "<seg id" in line
                ]
                sides["test"].append(tokenised(text, language))
    except (OSError, tarfile.TarError, KeyError) as error:
        raise _no_archive(archive, " ".join(str(error).split())) from error
    kept = list(clean(zip(*sides["train"], strict=True)))
    return {
        "train": [pair for i, pair in enumerate(kept, 1) if i % 23],
        "valid": kept[22::23],
        "test": list(zip(*sides["test"], strict=True)),
    }


def prepare(cfg: Config, folder: Path) -> None:
    """Write the text in byte pairs to ``folder``, and fairseq's input to ``bin/``."""
    from subword_nmt.apply_bpe import BPE
    from subword_nmt.learn_bpe import learn_bpe

    splits = mirrored() if cfg.archive is None else official(Path(cfg.archive))
    splits["train"] = splits["train"][: cfg.pairs]
    splits["test"] = splits["test"][: cfg.test_pairs or 1]  # fairseq refuses an empty split
    both = [side for language in (0, 1) for side in (pair[language] for pair in splits["train"])]
    with (folder / "code").open("w+", encoding="utf-8") as codes:
        with contextlib.redirect_stderr(io.StringIO()):  # learn_bpe always draws a progress bar
            learn_bpe(both, codes, cfg.merges)
        codes.seek(0)
        bpe = BPE(codes)
    for split, pairs in splits.items():
        for i, language in enumerate(LANGUAGES):
            text = "".join(f"{bpe.process_line(pair[i])}\n" for pair in pairs)
            (folder / f"{split}.{language}").write_text(text, encoding="utf-8")
    prefixes = [f for s in splits for f in (f"--{s}pref", folder / s)]
    fairseq.tool(
        "fairseq_cli.preprocess",
        *("--source-lang", "de", "--target-lang", "en", *prefixes),
        *("--destdir", folder / "bin", "--workers", 1),
        log=folder / "preprocess.log",
    )


def unigram_loss(text: Path, smoothing: float) -> float:
    """Loss in bits of a decoder that knows only how frequent each token is.

    That is the entropy of the training targets after label smoothing. In fairseq's label smoothing
    a share of each target is spread evenly over all other tokens.

    Args:
        text: the folder that :func:`prepare` filled.
        smoothing: this share.
    """
    lines = (text / "bin" / "dict.en.txt").read_text(encoding="utf-8").splitlines()
    counts = [int(line.split()[-1]) for line in lines]
    with (text / "train.en").open(encoding="utf-8") as sentences:
        counts.append(sum(1 for _ in sentences))  # every sentence ends in </s>
    counts += [0, 0, 0]  # <s>, <pad>, <unk>
    shares = np.array(counts) / sum(counts)
    smoothed = (1 - smoothing) * shares + smoothing * (1 - shares) / (len(shares) - 1)
    return float(-(smoothed * np.log2(smoothed)).sum())


# Training and translation -----------------------------------------------------------------------


def translate(cfg: Config, run: Run, text: Path) -> list[Pair]:
    """Translate the test set with the last weights.

    The output of fairseq-generate is kept as ``generate.txt``. If that file exists, it is complete;
    it is then read, and nothing is translated.

    Returns:
        pairs of hypothesis and reference, tokenised.
    """
    printed = run.folder / "generate.txt"
    if not printed.exists():
        partial = printed.with_suffix(".new")
        fairseq.tool(
            "fairseq_cli.generate",
            *(text / "bin", "--path", fairseq.checkpoints(run) / "checkpoint_last.pt"),
            *("--gen-subset", "test", "--beam", cfg.beam, "--remove-bpe"),
            *("--max-len-a", 1.2, "--max-len-b", 10, "--max-tokens", cfg.max_tokens),
            *("--user-dir", fairseq.PLUGIN, "--seed", 1),
            # By default fairseq leaves out a last batch whose size is not a multiple of 8. It holds
            # the longest sentences, or all of a small set, where fairseq then divides by zero.
            *("--required-batch-size-multiple", 1),
            log=partial,
            device=run.device,
        )
        partial.rename(printed)
    sides: dict[str, dict[int, str]] = {"H": {}, "T": {}}
    for line in printed.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"([HT])-(\d+)\t(.*)", line):
            sides[found[1]][int(found[2])] = found[3].split("\t")[-1]
    return [(sides["H"][n], sides["T"][n]) for n in sorted(sides["T"])]


def prepared(cfg: Config, run: Settings) -> Path:
    """The prepared text of these settings; it is prepared at the first call."""
    return fairseq.prepared(
        run,
        {"archive": cfg.archive, "pairs": cfg.pairs, "merges": cfg.merges, "test": cfg.test_pairs},
        lambda folder: prepare(cfg, folder),
    )


def training(cfg: Config, text: Path) -> list[object]:
    """The arguments of fairseq-train that say what to train."""
    sides = [
        option
        for side in ("encoder", "decoder")
        for option in (
            *(f"--{side}-layers", cfg.layers, f"--{side}-attention-heads", cfg.heads),
            *(f"--{side}-embed-dim", cfg.width, f"--{side}-ffn-embed-dim", cfg.inner),
        )
    ]
    return [
        *(text / "bin", "--arch", "transformer_iwslt_de_en", *sides),
        *("--share-decoder-input-output-embed", "--dropout", cfg.dropout),
        *("--criterion", "label_smoothed_cross_entropy"),
        *("--label-smoothing", cfg.label_smoothing, "--max-tokens", cfg.max_tokens),
        *("--lr-scheduler", "polynomial_decay", "--warmup-updates", cfg.warmup),
        *("--total-num-update", cfg.decay_until, "--clip-norm", 0.0),
    ]


def train(cfg: Config, run: Run) -> None:
    """Prepare the text, train, translate the test set."""
    import sacrebleu

    text = prepared(cfg, run.config)
    updates = fairseq.train(run, training(cfg, text), cfg.updates, cfg.save_every)
    losses = updates.train_loss
    run.summary(final_loss=losses[-cfg.average_over :].mean(), mean_loss=losses.mean(), bleu=None)
    run.summary(unigram_loss=unigram_loss(text, cfg.label_smoothing))
    if cfg.test_pairs and run.diverged_at is None:
        hypotheses, references = zip(*translate(cfg, run, text), strict=True)
        bleu = sacrebleu.corpus_bleu(hypotheses, [references], tokenize="none", force=True)
        run.summary(bleu=bleu.score)
    # A finished run keeps no checkpoints, neither ours nor fairseq's.
    shutil.rmtree(fairseq.checkpoints(run), ignore_errors=True)
