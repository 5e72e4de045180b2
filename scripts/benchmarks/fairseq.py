"""Target tokens per second of fairseq-train with LaProp and with fairseq's own Adam.

``python -m scripts.benchmarks.fairseq`` trains the paper's transformer on IWSLT14 (the text of the
scale ``short``, prepared once in ``outputs/``) for a few updates of small batches on the CPU, with
each optimizer in turn, and writes ``results/benchmarks/fairseq.csv``. ``ratio`` is the quotient to
Adam's median.
"""

import json
import tempfile
from functools import partial
from pathlib import Path

import torch

from experiments import translation
from experiments.common import fairseq
from experiments.common.config import compose_settings
from experiments.common.settings import Settings
from scripts.benchmarks import measure

UPDATES = 6  # updates of one measurement; the start of fairseq is not measured


def settings(optimizer: str) -> Settings:
    """The settings of a training: the paper's transformer, with batches of 500 tokens."""
    overrides = ["task=translation", "scale=short", f"optimizer={optimizer}"]
    return compose_settings([*overrides, "task.max_tokens=500"])


def tokens_per_second(run: Settings, text: Path) -> float:
    """Target tokens per second of a short training, as fairseq's own log counts them."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        fairseq.tool(
            "fairseq_cli.train",
            *translation.training(run.task, text),
            *fairseq.optimizer(run),
            *("--user-dir", fairseq.PLUGIN, "--max-update", UPDATES, "--no-save"),
            *("--log-format", "json", "--disable-validation", "--num-workers", 0),
            log=log,
        )
        lines = [line for line in log.read_text().splitlines() if " | train | " in line]
        return float(json.loads(lines[-1].split(" | ")[-1])["train_wps"])


def main() -> None:
    """Measure, print and write."""
    arguments = measure.parser(__doc__, rounds=3).parse_args()
    torch.set_num_threads(1)
    ways = {}
    for optimizer in ("adam", "laprop"):
        run = settings(optimizer)
        ways[optimizer] = partial(tokens_per_second, run, translation.prepared(run.task, run))
    rows = measure.table(measure.interleaved(ways, arguments.rounds), "tokens_per_second")
    adam = rows.tokens_per_second[rows.way == "adam"].item()
    measure.write(arguments.to / "fairseq.csv", rows.assign(ratio=rows.tokens_per_second / adam))


if __name__ == "__main__":
    main()
