"""A small GPT on the characters of a text: an example of all that a task can have.

It is not an experiment of the paper. The task's default schedule is a warm-up and a cosine. The
validation loss decides which checkpoint is the best and when the training ends early, and the best
network writes a sample at the end.
"""

import math
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from experiments.common import data
from experiments.common.messages import ConfigError
from experiments.common.run import Run
from experiments.common.schema import settings
from experiments.common.settings import Settings

VERSION = 1  # raise it when the same settings give other numbers
RESULT = "best_valid_loss"
SAMPLE = 400  # characters that the network writes at the end


@settings
class Config:
    """A decoder of pre-normalised transformer blocks with learned positions.

    Attributes:
        text: path of a file in UTF-8; null: the King James Bible.
        characters: number of characters to use, from the first on; null: all.
        valid_share: share of the text, at its end, that is used for validation only.
        layers: number of blocks of attention and feed-forward layers.
        heads: number of attention heads; must divide the width.
        width: width of the embeddings; the feed-forward layers are four times as wide.
        context: number of characters that the network sees.
        dropout: share of activations that are dropped.
        batch_size: pieces of the text in a minibatch, drawn with replacement.
        updates: number of updates of the training.
        evaluate_every: number of updates between two evaluations.
        valid_pieces: number of pieces of the validation text that are evaluated, from the first on;
            null: all.
        patience: the training ends after so many evaluations in a row without a new best one;
            null: it never ends early.
    """

    text: str | None
    characters: Annotated[int, Gt(0)] | None
    valid_share: Annotated[float, Interval(gt=0, lt=1)]
    layers: Annotated[int, Gt(0)]
    heads: Annotated[int, Gt(0)]
    width: Annotated[int, Gt(0)]
    context: Annotated[int, Gt(0)]
    dropout: Annotated[float, Interval(ge=0, lt=1)]
    batch_size: Annotated[int, Gt(0)]
    updates: Annotated[int, Gt(0)]
    evaluate_every: Annotated[int, Gt(0)]
    valid_pieces: Annotated[int, Gt(0)] | None
    patience: Annotated[int, Ge(1)] | None

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"task.heads={self.heads}: must divide task.width={self.width}")


def updates(cfg: Config) -> int:
    """Number of updates of a run that does not end early; schedules end at this update."""
    return cfg.updates


# The network --------------------------------------------------------------------------------------


class Block(nn.Module):
    """Causal attention, then a feed-forward layer on each position; both are added to the input."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        width = cfg.width
        self.heads, self.rate = cfg.heads, cfg.dropout
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, T, width) to the same."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.before(x)).chunk(3, dim=-1)
        )
        rate = self.rate if self.training else 0.0
        seen = scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=rate)
        x = x + self.dropout(self.out(seen.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.down(nn.functional.gelu(self.up(self.between(x)))))


class GPT(nn.Module):
    """Characters (B, T) to logits of the next ones (B, T, vocabulary).

    Weights start normal with standard deviation 0.02; at the end of a branch it is divided by the
    root of the number of branches. They are drawn from torch's default generator.
    """

    def __init__(self, vocabulary: int, cfg: Config) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, cfg.width)
        self.positions = nn.Embedding(cfg.context, cfg.width)
        self.dropout = nn.Dropout(cfg.dropout)
        self.blocks = nn.Sequential(*(Block(cfg) for _ in range(cfg.layers)))
        self.norm = nn.LayerNorm(cfg.width)
        for name, param in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(param, std=0.02 / math.sqrt(2 * cfg.layers))
            elif param.dim() > 1:
                nn.init.normal_(param, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(param)

    def forward(self, text: Tensor) -> Tensor:
        """Logits (B, T, vocabulary); the embedding of the characters is also the last layer."""
        places = torch.arange(text.shape[1], device=text.device)
        x = self.dropout(self.tokens(text) + self.positions(places))
        return self.norm(self.blocks(x)) @ self.tokens.weight.T


def loss(net: GPT, pieces: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of each character of (B, T + 1) after the first."""
    return cross_entropy(net(pieces[:, :-1]).flatten(0, 1), pieces[:, 1:].flatten())


@torch.no_grad()
def validation(net: GPT, pieces: Tensor, batch_size: int) -> float:
    """The loss on all pieces (N, T + 1)."""
    net.eval()
    total = sum(float(loss(net, part)) * len(part) for part in pieces.split(batch_size))
    net.train()
    return total / len(pieces)


@torch.no_grad()
def written(net: GPT, start: Tensor, context: int, generator: torch.Generator) -> Tensor:
    """Characters (T,) followed by :data:`SAMPLE` more that the network writes.

    Each of them is drawn with its predicted probability.
    """
    net.eval()
    text = start
    for _ in range(SAMPLE):
        chances = net(text[None, -context:])[0, -1].softmax(-1).cpu()
        drawn = torch.multinomial(chances, 1, generator=generator)
        text = torch.cat([text, drawn.to(text.device)])
    return text


# Training -----------------------------------------------------------------------------------------


def check(settings: Settings) -> None:
    """Refuse a text that cannot be read; this is called before any run of a sweep begins."""
    if (path := settings.task.text) is not None:
        try:
            Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"task.text={path}: {error.strerror}; must be a file") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"task.text={path}: must be a text in UTF-8 ({error})") from None


def load(cfg: Config) -> tuple[list[str], Tensor]:
    """The characters that occur, and the text as indices into them."""
    text = data.king_james() if cfg.text is None else Path(cfg.text).read_text(encoding="utf-8")
    text = text[: cfg.characters]
    letters = sorted(set(text))
    index = {letter: i for i, letter in enumerate(letters)}
    return letters, torch.tensor([index[letter] for letter in text])


def train(cfg: Config, run: Run) -> None:
    """Train, evaluate regularly, keep the best network, and let it write a sample."""
    letters, text = load(cfg)
    length = cfg.context + 1
    cut = int(len(text) * (1 - cfg.valid_share))
    if min(cut, len(text) - cut) < length:
        raise ConfigError(
            f"task.context={cfg.context}: the text's {len(text)} characters are too few for it"
        )
    train_text, valid_text = text[:cut].to(run.device), text[cut:].to(run.device)
    valid = valid_text.unfold(0, length, length)[: cfg.valid_pieces]
    inside = torch.arange(length)

    net = GPT(len(letters), cfg).to(run.device)
    optimizer = run.optimizer(net.parameters())
    generator = run.generator("batches")
    count: dict[str, Any] = {
        "since_best": 0,
        "total": torch.zeros((), device=run.device),
        "losses": 0,
    }
    run.track(net=net, optimizer=optimizer, count=count)
    for step in run.steps(cfg.updates):
        first = torch.randint(len(train_text) - length + 1, (cfg.batch_size,), generator=generator)
        batch_loss = loss(net, train_text[(first[:, None] + inside).to(run.device)])
        optimizer.zero_grad()
        batch_loss.backward()
        optimizer.step()
        count["total"] += batch_loss.detach()
        count["losses"] += 1
        update = step + 1
        if update % cfg.evaluate_every and update < cfg.updates:
            continue
        valid_loss, train_loss = (
            validation(net, valid, cfg.batch_size),
            count["total"] / count["losses"],
        )
        run.log(update, train_loss=train_loss, valid_loss=valid_loss)
        run.summary(train_loss=train_loss, valid_loss=valid_loss)
        count |= {"total": torch.zeros_like(count["total"]), "losses": 0}
        if run.diverged(valid_loss, update):
            break
        best = run.best("valid_loss", valid_loss, update, net=net)
        count["since_best"] = 0 if best else count["since_best"] + 1
        if cfg.patience is not None and count["since_best"] >= cfg.patience:
            break
    if run.load_best(net=net):
        sample = written(net, valid_text[:1], cfg.context, run.generator("sample"))
        by = run.config.optimizer
        row = {"optimizer": by.name, "lr": by.lr, "mu": by.mu, "nu": by.nu, "seed": run.config.seed}
        row["text"] = "".join(letters[i] for i in sample.tolist())
        run.table("sample", pd.DataFrame([row]))
