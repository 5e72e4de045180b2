"""fairseq as a subprocess: its tools, and a training whose log is turned into our records.

Only this file and :mod:`laprop.fairseq_plugin` know fairseq. Our own process never imports it, and
everything else works without it (``make fairseq`` installs it).

fairseq appends to ``fairseq.log`` in the run's folder, and saves its own checkpoints in
``fairseq/``. Our records come from the log alone: a resumed run reads it again from the start. Only
if updates are missing does fairseq start, from its newest complete checkpoint. It then repeats the
updates between this checkpoint and the kill, with the same numbers, and logs them again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import pandas as pd
import torch
from filelock import FileLock

import laprop
from experiments.common import ROOT
from experiments.common.messages import ConfigError, shown
from experiments.common.run import Run
from experiments.common.settings import Settings
from experiments.common.terminal import end_with_parent
from experiments.common.versions import versions

PLUGIN = Path(str(laprop.__file__)).parent / "fairseq_plugin"
POLL = 0.02  # seconds between two readings of the log
RECORD = re.compile(r"\| train_inner \| (\{[^{}]*\})$")
COLUMNS = ("update", "train_loss", "gradient_norm", "scheduled_lr", "tokens")  # of records
SAVED = re.compile(r"\| Saved checkpoint \S+ \(epoch \d+ @ (\d+) updates")


def check(settings: Settings) -> None:
    """Check that fairseq is installed and has the optimizer of the settings.

    Raises:
        ConfigError: it is not so; the message says what is allowed, or how to install fairseq.
    """
    if importlib.util.find_spec("fairseq") is None:
        raise ConfigError(
            f"task={settings.task_name}: fairseq is not installed here; `make fairseq` builds it "
            "(three minutes, a C++ compiler)"
        )
    optimizer(settings)


def check_lengths(cfg: Any) -> None:
    """Check settings that both of fairseq's tasks have.

    Raises:
        ValueError: a setting is not allowed; the message names it and what is allowed.
    """
    if cfg.width % cfg.heads:
        raise ValueError(f"task.heads={cfg.heads}: must divide width={cfg.width}")
    if cfg.warmup >= cfg.decay_until:
        raise ValueError(
            f"task.warmup={cfg.warmup}: must be less than decay_until={cfg.decay_until}"
        )
    if cfg.average_over > cfg.updates:
        raise ValueError(
            f"task.average_over={cfg.average_over}: must be at most updates={cfg.updates}"
        )


def prepared(settings: Settings, text: dict[str, Any], make: Callable[[Path], None]) -> Path:
    """A folder of prepared text in the output folder, which the runs of a sweep share.

    Args:
        settings: settings of the run.
        text: all that determines the content of the folder, apart from the task's version.
        make: a function that fills an empty folder. It is called once, even if several runs ask for
            the folder at the same time.
    """
    task = settings.task_name
    content = json.dumps({"version": versions(task)["task"], **text}, sort_keys=True)
    home = settings.output.absolute() / "prepared"
    folder = home / f"{task}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            partial = folder.with_suffix(".new")
            shutil.rmtree(partial, ignore_errors=True)  # a process that was killed may have left it
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder


def tool(name: str, *arguments: object, log: Path, device: torch.device | None = None) -> None:
    """Run one of fairseq's programs to its end.

    Args:
        name: a module, such as ``fairseq_cli.preprocess``.
        arguments: arguments of its command line.
        log: the file that its output is written to.
        device: the device to compute on; by default the CPU.

    Raises:
        RuntimeError: it failed; the message has the last line that it printed.
    """
    with log.open("wb") as stream:
        process = _start(name, list(map(str, arguments)), stream, device or torch.device("cpu"))
        try:
            process.wait()
        finally:
            _stop(process)
    if process.returncode:
        raise RuntimeError(f"{name}: {_last_words(log)} ({log})")


# For each option of laprop.LaProp the flag of our plugin, and the value that the flag stands for.
FLAGS = {
    "amsgrad": ("--laprop-amsgrad", True),
    "centered": ("--laprop-centered", True),
    "cautious": ("--laprop-cautious", True),
    "eps_in_sqrt": ("--laprop-eps-in-sqrt", True),
    "lr_in_momentum": ("--laprop-lr-outside-momentum", False),
    "lr_weighted_correction": ("--laprop-printed-correction", False),
}
VALUES = {
    "agc": "--laprop-agc",
    "centered_warmup": "--laprop-centered-warmup",
    "low_precision": "--laprop-low-precision",
    "state_dtype": "--laprop-state-dtype",
}
OPTIMIZERS = ("adam", "amsprop", "laprop")
OPTIONS = (*FLAGS, *VALUES)


def optimizer(settings: Settings) -> list[str]:
    """fairseq's command line arguments for the optimizer of the settings.

    Raises:
        ConfigError: an option is set for adam, but fairseq's adam has no options.
    """
    h = settings.optimizer
    options = {"amsgrad": h.name == "amsprop"} | (h.options or {})
    betas = f"({h.mu}, {h.nu})"
    shared = ["--lr", str(h.lr), "--weight-decay", str(h.weight_decay)]
    if h.name == "adam":
        for name, value in (h.options or {}).items():
            raise ConfigError(f"optimizer.{name}={shown(value)}: fairseq's adam has no such option")
        own = ["--optimizer", "adam", "--adam-betas", betas, "--adam-eps", str(h.epsilon)]
        return [*own, *shared]
    own = ["--optimizer", "laprop", "--laprop-betas", betas, "--laprop-eps", str(h.epsilon)]
    decay = ["--laprop-decay", "by_lr" if h.decay_by_lr else "paper"]
    flags = [flag for name, (flag, on) in FLAGS.items() if options.get(name, not on) == on]
    values = [
        str(word) for name in VALUES if name in options for word in (VALUES[name], options[name])
    ]
    return [*own, *decay, *flags, *values, *shared]


def train(run: Run, arguments: Sequence[object], updates: int, save_every: int) -> pd.DataFrame:
    """Train with fairseq-train; each update is recorded in ``run`` when it is made.

    If fairseq stops because a loss or gradient is not finite, the run is recorded as diverged.

    Args:
        run: the run; see :func:`seed`.
        arguments: arguments of fairseq-train, without those for the optimizer, the seed, the log
            and the checkpoints.
        updates: number of updates.
        save_every: number of updates between two checkpoints of fairseq.

    Returns:
        a row per update, with the columns :data:`COLUMNS`; the loss is in bits per token.

    Raises:
        RuntimeError: fairseq failed or was killed; the same command resumes from its checkpoint.
    """
    assert isinstance(run.config.seed, int)  # tasks of fairseq are not vectorised
    command = [
        *map(str, arguments),
        *optimizer(run.config),
        *("--max-update", str(updates), "--seed", str(seed(run.config.seed))),
        *("--log-format", "json", "--log-interval", "1"),
        *("--save-dir", str(checkpoints(run)), "--save-interval-updates", str(save_every)),
        *("--keep-interval-updates", "1", "--no-epoch-checkpoints", "--save-interval", "1000000"),
        *("--disable-validation", "--num-workers", "0", "--distributed-world-size", "1"),
    ]
    with _Training(run, command) as training:
        for step in run.steps(updates):
            record = training.record(step + 1)
            if record is None:
                run.diverged(math.nan, step + 1)
                break
            run.log(step + 1, **{k: v for k, v in record.items() if k != "update"})
        else:
            if run.diverged_at is None:
                training.finish(updates)
    rows = [training.records[n] for n in sorted(training.records)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def seed(ours: int) -> int:
    """fairseq's seed for one of our seeds; for 0 it is fairseq's default, 1.

    fairseq seeds every update with the sum of the seed and the update's number, and epochs in the
    same way. Seeds therefore have to be further apart than the number of updates, so that no two
    runs draw the same random numbers.
    """
    return (1 + 1_000_003 * ours) % 2**31


def checkpoints(run: Run) -> Path:
    """The folder of fairseq's checkpoints, in the run's folder."""
    return run.folder.absolute() / "fairseq"


class _Training:
    """A process of fairseq-train, and its log."""

    def __init__(self, run: Run, command: list[str]) -> None:
        self.records: dict[int, dict[str, float]] = {}
        self._run = run
        self._command = command
        self._log = run.folder / "fairseq.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._files = ExitStack()
        self._saved = 0  # number of updates at fairseq's last checkpoint

    def __enter__(self) -> _Training:
        self._reader = self._files.enter_context(self._log.open("a+", encoding="utf-8"))
        self._reader.seek(0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            _stop(self._process)
        self._files.close()

    def record(self, update: int) -> dict[str, float] | None:
        """Wait for the record of an update; None if fairseq stopped at NaN or infinity."""
        self._read()
        while update not in self.records:
            if max(self.records, default=0) > update:
                raise RuntimeError(
                    f"{self._log}: update {update} is missing; delete {self._log.parent} to train "
                    "it again"
                )
            process = self._process or self._start()
            ended = process.poll() is not None  # before the last reading of the log
            if not self._read() and ended:
                if "FloatingPointError" in _tail(self._log):
                    return None
                raise RuntimeError(self._failure())
            time.sleep(POLL)
        return self.records[update]

    def finish(self, updates: int) -> None:
        """Wait until fairseq has saved the last checkpoint and ended."""
        self._read()
        if self._process is None and self._saved == updates:
            return
        # Without a process, fairseq was killed between its last record and its last checkpoint.
        process = self._process or self._start()
        if process.wait() != 0:
            raise RuntimeError(self._failure())

    def _start(self) -> subprocess.Popen[bytes]:
        """Start fairseq from its last whole checkpoint, if there is one."""
        whole = _whole(checkpoints(self._run), self._saved)
        resumed = ["--restore-file", str(whole[-1])] if whole else []
        stream = self._files.enter_context(self._log.open("ab"))
        stream.write(b"\n")  # end the line that a killed process may have left unfinished
        stream.flush()
        command = [*self._command, "--user-dir", str(PLUGIN), *resumed]
        self._process = _start("fairseq_cli.train", command, stream, self._run.device)
        return self._process

    def _read(self) -> int:
        """Read the new complete lines of the log, and return their number."""
        count = 0
        while True:
            position = self._reader.tell()
            line = self._reader.readline()
            if not line.endswith("\n"):  # the end of the file, or half a line: read it again later
                self._reader.seek(position)
                return count
            count += 1
            if found := RECORD.search(line):
                told = json.loads(found[1])
                update = int(told["num_updates"])
                numbers = (float(told[name]) for name in ("loss", "gnorm", "lr", "wpb"))
                self.records[update] = dict(zip(COLUMNS, (update, *numbers), strict=True))
            elif found := SAVED.search(line):
                self._saved = int(found[1])

    def _failure(self) -> str:
        assert self._process is not None
        code = self._process.returncode
        what = f"was ended by signal {-code}" if code < 0 else _last_words(self._log)
        return f"fairseq-train: {what} ({self._log}); the same command resumes from its checkpoint"


def _whole(folder: Path, saved: int) -> list[Path]:
    """fairseq's complete checkpoints, oldest first; incomplete ones are deleted.

    fairseq writes ``checkpoint_<epoch>_<update>.pt`` under another name and renames it. It then
    copies it to ``checkpoint_last.pt`` in place, and a kill can leave that copy incomplete. At the
    end of an epoch it writes only ``checkpoint_last.pt``. The times of files are not used, since
    clocks can jump.

    Args:
        folder: folder of the checkpoints.
        saved: update of the last checkpoint that the log mentions.
    """

    def age(path: Path) -> tuple[int, str]:
        end = path.stem.rpartition("_")[2]
        return saved if end == "last" else int(end), path.name

    found = sorted(folder.glob("checkpoint*.pt"), key=age)
    for path in found:
        if not zipfile.is_zipfile(path):  # a torch file is a zip archive, with its index at the end
            path.unlink()
    return [path for path in found if path.exists()]


def _start(
    module: str, arguments: list[str], stream: IO[bytes], device: torch.device
) -> subprocess.Popen[bytes]:
    """Start a program of fairseq in its own session: Ctrl-C reaches only us, and we end it."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONWARNINGS": "ignore",
    }
    if device.type == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        index = device.index or 0
        environment["CUDA_VISIBLE_DEVICES"] = visible[index] if visible != [""] else str(index)
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        preexec_fn=_in_the_child,
    )


def _in_the_child() -> None:
    """Let the child die with its parent, even by SIGKILL, and keep the parent's priority.

    Both are possible on Linux only. Linux shares the cores between sessions first, and a new
    session begins at the normal priority, even if its processes have a lower one.
    """
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(os.nice(0)))
    end_with_parent(signal.SIGKILL)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tail(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(log.stat().st_size - 20_000, 0))
        return stream.read().decode(errors="replace")


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in _tail(log).splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else "printed nothing"
