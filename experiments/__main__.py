"""Run tasks: ``python -m experiments task=... optimizer.nu=...``, with ``-m`` a sweep (README)."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.common import CONFIGS
from experiments.common.terminal import guarded, lasting_streams, say

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from experiments.common.settings import Settings

SWEEP = {"-m", "--multirun"}
# Flags of Hydra that print something and run nothing.
PRINT = {
    *("-h", "--help", "--hydra-help", "--version", "-i", "--info", "-c", "--cfg", "--resolve"),
    *("-p", "--package", "-sc", "--shell-completion"),
}
SHOW = {"-i", "--info", "-c", "--cfg"}  # those that compose the settings of one run
FULL = 100_000  # a disk with fewer bytes left has no room for what a run says at its end
MANY = 200  # checking the settings of so many runs takes long enough to print a line about it


def main() -> int:
    """Check every setting of the command line, then start its runs.

    Returns:
        exit status: 0, 1 if a run failed, 2 for bad input, 128 + n after signal n.
    """
    arguments, show = list(sys.argv[1:]), False
    for flag in ("-c", "--cfg"):
        if f"{flag}=job" in arguments:
            arguments.remove(f"{flag}=job")
            show = True
        if flag in arguments and arguments[(at := arguments.index(flag)) + 1 :][:1] == ["job"]:
            del arguments[at : at + 2]
            show = True
    if show:  # what it prints is resolved in any case
        arguments = [argument for argument in arguments if argument != "--resolve"]
    flags = {argument.split("=")[0] for argument in arguments if argument.startswith("-")}
    if show and flags & {"-p", "--package"}:
        say("error: --package: --cfg job prints all settings; --cfg all takes it", sys.stderr)
        return 2
    if unknown := sorted(flags - SWEEP - PRINT):
        say(
            f"error: {unknown[0]}: unknown flag; -m starts a sweep; see --help and --hydra-help",
            sys.stderr,
        )
        return 2
    if not flags <= SWEEP:
        if flags & SHOW and (problem := not_shown(arguments, flags)):
            say(f"error: {problem}", sys.stderr)
            return 2
        import hydra

        try:
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(id)()
        finally:  # Hydra's help ends in SystemExit
            if flags & {"-h", "--help"}:
                show_times()
        return 0
    overrides = [argument for argument in arguments if argument not in SWEEP]
    from experiments.common.messages import ConfigError

    try:
        every, hydra_settings, plan = requested(overrides, bool(flags))
        if show:
            show_settings(every)
            return 0
        if plan:
            from experiments.common.launch import processes
            from experiments.common.plan import plan as planned

            say(planned(every, processes(hydra_settings.hydra.launcher, len(every))))
            return 0
        command = shlex.join(["python", "-m", "experiments", *sys.argv[1:]])
        return run(every, hydra_settings, command)
    except ConfigError as error:
        say(f"error: {error}", sys.stderr)
        return 2


def requested(overrides: list[str], multirun: bool) -> tuple[list[Settings], DictConfig, bool]:
    """The runs of a command line, Hydra's own settings, and whether only a plan is wanted."""
    from experiments.common import config

    plans = [text for text in overrides if text.startswith("plan=")]
    if not set(plans) <= {"plan=true", "plan=false"}:
        raise config.ConfigError(f"{plans[-1]}: must be true or false")
    overrides = [text for text in overrides if text not in plans]
    hydra_settings = config.hydra_settings(overrides)
    if multirun or any(text.startswith("figure=") for text in overrides):
        if (count := config.count(overrides)) >= MANY:
            say(f"checking the settings of {count} runs")
        every = config.expand(overrides)
    else:
        every = [config.compose_settings(overrides)]
    return every, hydra_settings, plans[-1:] == ["plan=true"]


def not_shown(arguments: Sequence[str], flags: set[str]) -> str | None:
    """The line that says why Hydra cannot show the settings of a command line, or None."""
    from experiments.common import config

    overrides = [text for text in arguments if "=" in text and not text.startswith("-")]
    try:
        if flags & SWEEP or any(config.parsed(text).is_sweep_override() for text in overrides):
            return (
                "-m: --cfg all, --cfg hydra and --info show one run; --cfg job also takes a sweep"
            )
        config.composed(*overrides, with_hydra=True)
    except config.ConfigError as error:
        return str(error)
    return None


def show_times() -> None:
    """Print the end of ``--help``: how long each figure takes at each scale."""
    from experiments.common.messages import ConfigError
    from experiments.common.timings import grids, times

    say(
        "Time that all runs of a figure took on two threads, by the manifests in results/. * marks "
        "a scale\nwithout a grid now; results/FIGURE/SCALE/manifest.json names a commit that has "
        "it:\n"
    )
    for file in sorted((CONFIGS / "figure").glob("*.yaml")):
        try:
            known = grids(file.stem)
            scales = "; ".join(
                f"{scale}{'' if scale in known else '*'} {time}"
                for scale, time in times(file.stem).items()
            )
        except ConfigError as error:  # a damaged manifest
            scales = str(error)
        say(f"  {file.stem:20} {scales}")


def show_settings(every: Sequence[Settings]) -> None:
    """Print what ``--cfg job`` asks for: the settings of a run, with the values of its scale."""
    import yaml

    from experiments.common.settings import plain_settings

    if len(every) > 1:
        say(f"# the first of {len(every)} runs")
    say(yaml.safe_dump(plain_settings(every[0]), sort_keys=False).rstrip())


def run(every: Sequence[Settings], hydra_settings: DictConfig, command: str) -> int:
    """Start every run that is not finished, print the outcomes, and return the exit status.

    Args:
        every: the settings of the runs, with one output folder.
        hydra_settings: Hydra's settings, with the launcher.
        command: the command line, for the record that ``scripts.status`` reads.
    """
    from experiments.common import execution, launch, status
    from experiments.common.messages import ConfigError, named, one_line
    from experiments.common.run import Interrupted, signals_to
    from experiments.common.watch import Watch

    launcher = hydra_settings.hydra.launcher
    kind, processes = launch.kind(launcher), launch.processes(launcher, len(every))
    for settings in every:
        try:
            execution.check(settings, here=kind in ("basic", "joblib"))
        except ConfigError:
            raise
        except Exception as error:  # of the task's own check
            why = one_line(error) if isinstance(error, ValueError) else execution.failure(error)
            raise ConfigError(f"task={settings.task_name}: {why}") from None
    try:
        sweep = launch.begin(every, command, processes)
    except OSError as error:
        raise ConfigError(
            f"output={every[0].output}: {error.strerror}; must be a folder that can be written to"
        ) from None
    todo, counted = execution.unfinished(every)
    say(counted)

    ending = launch.Ending(sweep, kind)
    broken = killed = False
    try:
        with signals_to(ending.on_signal), Watch(sweep, ending.follow) as watch:
            for _ in every:  # start again after a killed worker, at most as often as there are runs
                try:
                    launch.launch(todo, hydra_settings, sweep)
                    break
                except Exception as error:
                    if ending.number is not None:
                        break
                    # joblib ends all its workers when one of them was killed.
                    killed = type(error).__name__ == "TerminatedWorkerError"
                    if broken := not killed:
                        say(f"failed: {named(error)}", sys.stderr)
                        break
                    ended = (*status.FINAL, "failed")
                    pairs = zip(every, watch.look(), strict=True)
                    todo = [s for s, state in pairs if state.status not in ended]
    except (Interrupted, SystemExit, KeyboardInterrupt) as stop:
        ending.number = ending.number or (int(getattr(stop, "code", 0) or 130)) - 128
    states = [each.look() for each in sweep.runs]
    if ending.number is not None:
        say(f"ended: {status.overview(states, processes)}; {ending.advice}", sys.stderr)
        return 128 + ending.number
    for each, state in zip(sweep.runs, states, strict=True):
        if state.status == "stopped":
            full = shutil.disk_usage(each.folder).free < FULL
            why = "its process was killed" if state.process else "its end could not be written"
            why = "no space is left on the disk" if full else why
            say(f"failed: {each.label}: {why}, {each.folder}", sys.stderr)
        elif state.status == "damaged":
            say(f"damaged: {each.label}: {state.says}", sys.stderr)
            broken = True
    if killed and (waiting := sum(state.status == "waiting" for state in states)):
        say(f"failed: {waiting} of {len(every)} runs were not begun", sys.stderr)
    outcomes = Counter(execution.outcome(settings) for settings in every)
    if len(every) == 1:
        say(f"{next(iter(outcomes))}: {every[0].folder}")
    names = ("finished", "diverged", "busy", "failed")
    say(", ".join(f"{name}: {outcomes[name]}" for name in names))
    return 1 if broken or outcomes["failed"] else 0


if __name__ == "__main__":
    lasting_streams()
    try:
        code = guarded(main)
    except KeyboardInterrupt:
        say("ended before anything began", sys.stderr)
        code = 130
    sys.exit(code)
