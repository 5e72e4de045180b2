"""An LSTM on IMDB reviews with label noise (paper C.1, Figure 7).

A vectorised task: seed, optimizer.lr, mu, nu, epsilon and task.flip may be lists. Members with the
same seed start at the same weights and see the same batches. A larger ``flip`` flips all the labels
that a smaller one flips, and more.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Interval
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from experiments import stacked
from experiments.common import data
from experiments.common.run import Run
from experiments.common.schema import Axis, settings

VERSION = 1  # raise it when the same settings give other numbers
AXES = (
    "seed", "optimizer.lr", "optimizer.mu", "optimizer.epsilon", "optimizer.nu", "task.flip",
)  # fmt: skip
UNKNOWN = "[UNK]"  # any word without a vector; its own vector is 0, like that of the padding
# Tokens as GloVe has them: don't becomes "do n't" and it's becomes "it 's". Every other word and
# sign is one token.
TOKEN = r"\w+(?=n't\b)|n't\b|'(?:s|re|ve|d|ll|m)\b|\w+|[^\w\s]"
RESULT = "test_error"
METRICS = ("train_loss", "valid_error", "test_error")
POOL = 20  # batches in a pool within which reviews are sorted by length
TEST_BATCH = 500


@settings
class Config:
    """GloVe vectors - LSTM - one logit of the last hidden state, cross-entropy.

    Attributes:
        hidden: units of the LSTM.
        length: number of words that are read, from the end of a review.
        vocabulary: number of words: the most frequent ones of the training reviews that have a
            vector.
        reviews: number of training reviews, drawn from the 25,000; all runs have the same ones.
        validation: number of other reviews among the 25,000 that are held out.
        test_reviews: number of test reviews, drawn from 25,000 in the same way.
        flip: r, the share of the training labels that are wrong.
        batch_size: reviews in a minibatch; the last of an epoch may be smaller.
        epochs: passes over the training reviews.
        average_over: number of last epochs whose mean is a run's final number.
    """

    hidden: Annotated[int, Gt(0)]
    length: Annotated[int, Gt(0)]
    vocabulary: Annotated[int, Gt(0)]
    reviews: Annotated[int, Interval(ge=2, le=25000)]
    validation: Annotated[int, Ge(1)]
    test_reviews: Annotated[int, Interval(ge=1, le=25000)]
    flip: Axis[Annotated[float, Interval(ge=0, le=0.5)]]
    batch_size: Annotated[int, Gt(0)]
    epochs: Annotated[int, Gt(0)]
    average_over: Annotated[int, Gt(0)]

    def __post_init__(self) -> None:
        if self.average_over > self.epochs:
            raise ValueError(
                f"task.average_over={self.average_over}: must be at most task.epochs={self.epochs}"
            )
        left = 25000 - self.reviews
        if self.validation > left:
            raise ValueError(
                f"task.validation={self.validation}: must be at most {left}, the training reviews "
                f"that task.reviews={self.reviews} leaves of 25,000"
            )


# Words --------------------------------------------------------------------------------------------


def tokenizer(texts: list[str], words: list[str], size: int) -> Tokenizer:
    """A tokenizer that numbers words: 0 is any unknown word, 1 the most frequent word, and so on.

    Args:
        texts: the texts in which words are counted.
        words: the words that have a vector; only these get a number.
        size: largest number of words.
    """
    counter = _untrained({})
    trainer = trainers.WordLevelTrainer(vocab_size=1 << 30, show_progress=False)
    counter.train_from_iterator(texts, trainer)
    ranks = counter.get_vocab()
    known = sorted(ranks.keys() & set(words), key=ranks.__getitem__)
    return _untrained({word: i for i, word in enumerate([UNKNOWN, *known[:size]])})


def _untrained(vocabulary: dict[str, int]) -> Tokenizer:
    result = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    result.normalizer = normalizers.Sequence(
        [normalizers.Replace("<br />", " "), normalizers.Lowercase()]
    )
    result.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN), "removed", invert=True)
    return result


def encoded(tokens: Tokenizer, texts: list[str], length: int) -> tuple[Tensor, Tensor]:
    """The numbers of the last words of each text, aligned on the right.

    Returns:
        numbers, int64 (texts, length), 0 before the first word; counts of words, int64 (texts,).
    """
    numbers = torch.zeros(len(texts), length, dtype=torch.int64)
    counts = torch.zeros(len(texts), dtype=torch.int64)
    for i, encoding in enumerate(tokens.encode_batch_fast(texts)):
        ids = encoding.ids[-length:]
        if ids:
            numbers[i, -len(ids) :] = torch.tensor(ids)
        counts[i] = len(ids)
    return numbers, counts


# The network --------------------------------------------------------------------------------------


class LSTM(torch.autograd.Function):
    """The last hidden state of each member's LSTM, (B, N, H); gates are in the order i, f, o, g.

    The gradient is computed by hand, because two matrix products then give the weights' gradient
    for all words at once.

    Args:
        x: (T, N, E), the same for all members; it gets no gradient.
        there: bool (T, N), False before a text begins, where the state stays zero.
        w_x, w_h, bias: (B, E, 4 H), (B, H, 4 H) and (B, 4 H).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, there: Tensor, w_x: Tensor, w_h: Tensor, bias: Tensor
    ) -> Tensor:
        """See the class."""
        (steps, batch, _), (members, hidden, _) = x.shape, w_h.shape
        flat = x.flatten(0, 1).expand(members, -1, -1)
        gates = torch.baddbmm(bias[:, None], flat, w_x).unflatten(1, (steps, batch))
        keeps = there.to(x.dtype)[..., None]
        states = x.new_zeros(2, members, steps + 1, batch, hidden)  # h and c, before each word
        h, c = states
        for t in range(steps):
            gate = gates[:, t].baddbmm_(h[:, t], w_h)
            i, f, o = gate[..., : 3 * hidden].sigmoid_().chunk(3, -1)
            g = gate[..., 3 * hidden :].tanh_()
            torch.mul(f, c[:, t], out=c[:, t + 1]).addcmul_(i, g).mul_(keeps[t])
            torch.mul(o, c[:, t + 1].tanh(), out=h[:, t + 1])
        ctx.save_for_backward(flat, keeps, w_h, gates, states)
        return h[:, -1].clone()

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:
        """Backpropagation through time."""
        flat, keeps, w_h, gates, (h, c) = ctx.saved_tensors
        hidden = w_h.shape[1]
        dgates, dc = torch.empty_like(gates), torch.zeros_like(dh)
        for t in reversed(range(gates.shape[1])):
            i, f, o, g = gates[:, t].chunk(4, -1)
            tanh = c[:, t + 1].tanh()
            dc = torch.addcmul(dc, dh * o, 1 - tanh.square()).mul_(keeps[t])
            dgate, sigmoids = dgates[:, t], gates[:, t, :, : 3 * hidden]
            torch.cat([dc * g, dc * c[:, t], dh * tanh], -1, out=dgate[..., : 3 * hidden])
            dgate[..., : 3 * hidden].mul_(sigmoids).mul_(1 - sigmoids)
            dgate[..., 3 * hidden :] = dc * i * (1 - g.square())
            dc = dc * f
            dh = dgate @ w_h.mT
        flat_gates = dgates.flatten(1, 2)
        dw_h = h[:, :-1].flatten(1, 2).mT @ flat_gates
        return None, None, flat.mT @ flat_gates, dw_h, flat_gates.sum(1)


def initial(inputs: int, hidden: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of one network, uniform in +- 1/sqrt(hidden), as torch's LSTM has them.

    Each gate has one bias. Torch has two, and an adaptive optimizer moves their sum twice as fast.
    """

    def uniform(*shape: int) -> Tensor:
        return (2 * torch.rand(*shape, generator=generator) - 1) / hidden**0.5

    return {
        "w_x": uniform(inputs, 4 * hidden),
        "w_h": uniform(hidden, 4 * hidden),
        "bias": uniform(4 * hidden),
        "w_out": uniform(hidden),
        "b_out": uniform(1),
    }


def logits(params: dict[str, Tensor], x: Tensor, there: Tensor) -> Tensor:
    """Logits (B, N), positive for a favourable review; x (T, N, E) and there (T, N) as in LSTM."""
    last = LSTM.apply(x, there, params["w_x"], params["w_h"], params["bias"])
    return (last @ params["w_out"][..., None]).squeeze(-1) + params["b_out"]


# Training -----------------------------------------------------------------------------------------


class Texts:
    """Encoded reviews with their labels.

    Args:
        reviews: texts and labels.
        chosen: indices of the reviews to take, in order.
        tokens: the tokenizer.
        table: vectors of the words, (words, E).
        length: see :class:`Config`.
    """

    def __init__(
        self, reviews: data.Reviews, chosen: Tensor, tokens: Tokenizer, table: Tensor, length: int
    ) -> None:
        numbers, counts = encoded(tokens, [reviews.texts[i] for i in chosen.tolist()], length)
        self.numbers, self.counts = numbers.to(table.device), counts.to(table.device)
        self.labels = reviews.labels[chosen].to(table.device, table.dtype)
        self.table = table

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of the network, (T, N, E) and (T, N), where T is the longest review's length."""
        counts = self.counts[index]
        steps = int(counts.max().clamp(min=1))
        place = torch.arange(steps, device=index.device)[:, None]
        return self.table[self.numbers[index, -steps:].T], place >= steps - counts

    def order(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """A random order of all reviews in which those of a minibatch are of similar length."""
        shuffled = torch.randperm(len(self), generator=generator)
        batches: list[Tensor] = []
        for pool in shuffled.split(POOL * batch_size):
            by_length = pool[self.counts.cpu()[pool].argsort(stable=True)].split(batch_size)
            mixed = torch.randperm(len(by_length), generator=generator).tolist()
            batches += [by_length[i] for i in mixed]
        # The minibatch that may be smaller comes last.
        return torch.cat(sorted(batches, key=lambda b: len(b) < batch_size))


def errors(params: dict[str, Tensor], texts: Texts) -> Tensor:
    """Share of the reviews that each member gets wrong, (B,); a NaN counts as wrong."""
    right: list[Tensor] = []
    for index in texts.counts.argsort(stable=True).split(TEST_BATCH):
        scores = logits(params, *texts.batch(index))
        correct = (scores > 0) == texts.labels[index].bool()
        right.append((correct & scores.isfinite()).sum(1))
    return 1 - torch.stack(right).sum(0) / len(texts)


def load(cfg: Config, run: Run) -> tuple[Texts, Texts, Texts]:
    """The training, held out and test reviews; the vocabulary is the training reviews'."""
    train_set, test_set = data.imdb()
    words, vectors = data.glove()
    drawn = [
        torch.randperm(25000, generator=run.generator(f"{n} reviews", 0)) for n in ("train", "test")
    ]
    train, valid = drawn[0][: cfg.reviews + cfg.validation].split([cfg.reviews, cfg.validation])
    tokens = tokenizer([train_set.texts[i] for i in train.tolist()], words, cfg.vocabulary)
    place = {word: i for i, word in enumerate(words)}
    codes = tokens.get_vocab()
    known = [place[word] for word in sorted(codes, key=lambda word: codes[word])[1:]]
    table = torch.cat([torch.zeros(1, vectors.shape[1]), vectors[known]]).to(run.device)

    def texts(reviews: data.Reviews, chosen: Tensor) -> Texts:
        return Texts(reviews, chosen, tokens, table, cfg.length)

    test = drawn[1][: cfg.test_reviews]
    return texts(train_set, train), texts(train_set, valid), texts(test_set, test)


@contextmanager
def subnormals_as_zero() -> Iterator[None]:
    """Make the CPU treat numbers below 1e-38 as zero, in this thread.

    Gradients become that small over a hundred words or behind a saturated gate, and arithmetic with
    such numbers makes an update two to four times as slow.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def updates(cfg: Config) -> int:
    """Updates of a run."""
    return cfg.epochs * -(-cfg.reviews // cfg.batch_size)


@subnormals_as_zero()
def train(cfg: Config, run: Run) -> None:
    """Train the stack; after each epoch log the training loss and the errors on clean labels."""
    grid, flip = run.grid, run.grid["task.flip"].float()
    seeds, _ = grid.codes("seed")
    # Number of members with the same seed. They are adjacent, since the seed is the first axis.
    members = len(grid) // len(seeds)
    groups = [slice(s * members, (s + 1) * members) for s in range(len(seeds))]
    train_set, valid_set, test_set = load(cfg, run)

    drawn = torch.stack(
        [torch.rand(len(train_set), generator=run.generator("flips", s)) for s in seeds]
    )
    wrong = drawn.to(run.device).repeat_interleave(members, 0) < flip[:, None]
    labels = torch.where(wrong, 1 - train_set.labels, train_set.labels)  # (B, reviews)
    carry = stacked.begin(run, lambda g: initial(train_set.table.shape[1], cfg.hidden, g))
    carry |= {
        "order": torch.zeros(len(seeds), len(train_set), dtype=torch.int64, device=run.device),
        "total": torch.zeros(len(grid), dtype=torch.float64, device=run.device),  # of the losses
        "history": torch.zeros(cfg.epochs, len(METRICS), len(grid), dtype=torch.float64),
    }
    shuffles = [run.generator("batches", seed) for seed in seeds]
    run.track(carry=carry)
    per_epoch = -(-len(train_set) // cfg.batch_size)
    for step in run.steps(cfg.epochs * per_epoch):
        i = step % per_epoch
        if i == 0:
            orders = [train_set.order(cfg.batch_size, g) for g in shuffles]
            carry["order"] = torch.stack(orders).to(run.device)
        batches = carry["order"][:, i * cfg.batch_size : (i + 1) * cfg.batch_size]
        gradients: dict[str, list[Tensor]] = {name: [] for name in carry["params"]}
        for index, group in zip(batches, groups, strict=True):
            params = {k: v[group].requires_grad_() for k, v in carry["params"].items()}
            scores = logits(params, *train_set.batch(index))
            loss = binary_cross_entropy_with_logits(
                scores, labels[group][:, index], reduction="none"
            ).mean(1)
            for name, g in zip(
                params, torch.autograd.grad(loss.sum(), [*params.values()]), strict=True
            ):
                gradients[name].append(g)
            carry["total"][group] += loss.detach() * len(index)
        stacked.step(run, carry, map(torch.cat, gradients.values()), step)
        if i == per_epoch - 1:
            with torch.no_grad():
                found = [carry["total"] / len(train_set)]
                for texts in (valid_set, test_set):
                    stacks = ({k: v[group] for k, v in carry["params"].items()} for group in groups)
                    found.append(torch.cat([errors(stack, texts) for stack in stacks]))
                carry["total"] = torch.zeros_like(carry["total"])
                carry["history"][step // per_epoch] = torch.stack([f.double() for f in found])
                run.log((step + 1) // per_epoch, **dict(zip(METRICS, found, strict=True)))
    final = carry["history"][-cfg.average_over :].mean(0)
    run.summary(**dict(zip(METRICS, final, strict=True)))
