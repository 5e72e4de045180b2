"""The index of figures, ``results/FIGURES.md``: what each shows, where it was run, and how."""

from pathlib import Path

from experiments.common import RESULTS, data
from experiments.common.config import expand
from experiments.common.plan import needed
from experiments.common.records import Results
from experiments.common.timings import grids, times
from scripts.grid import replaced
from scripts.paper import drawable, figures, label, results_of


def files() -> dict[Path, bytes]:
    """The index with its present text."""
    return {RESULTS / "FIGURES.md": text().encode()}


def text() -> str:
    """The table of all figures: what each shows, and at which scale it was run."""
    lines = [
        "# Figures",
        "",
        "Written by `make figures`. Scale `paper` is what the paper ran or, where the paper has",
        "a statement and no experiment, the setting of ours that the row names. `short` is the",
        "paper's setting cut short, `small` a smaller model. The brackets say how they differ",
        'from the paper: "3 seeds instead of 5" means that the paper, or our grid for its',
        "setting, has 5 seeds. Time is what all runs of a scale took on two threads; each run's",
        "own time is in the manifest.json of results/FIGURE/SCALE. Some pictures show runs whose",
        "grid we have since replaced. To run such a grid again, check out the commit that its row",
        "names. A command that needs files without a public source says so; the README says under",
        '"Reproduce it" which files they are. All other data is fetched by the command itself.',
        "",
        "| figure | what it shows | paper | task | status | time | run it |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    said: dict[str, str] = {}  # what a scale reduces, and the figure whose row says it
    for name, entry in figures().items():
        results = results_of(name)
        sources = [entry.get("results", name)]
        if "beside" in entry:
            sources.append(entry["beside"])
        time = _times(sources)
        if results is None:
            scales = [*grids(sources[0])]
            status, command = "not run", _run(sources[0], scales[0]) if scales else ""
            if drawable(name):
                status += f"; [{entry['authors']}](figures/{name}.png)"
            if "removed" in entry:
                status += "; [a small model was run and removed](CLAIMS.md)"
        elif "tables" in entry:
            status, command = f"[measured](figures/{name}.png)", f"`{entry['command']}`"
        else:
            reduced = str(results.manifest["reduced"])
            first = said.setdefault(reduced, name)
            runs = label(results)
            if first != name and results.manifest["reduced"]:
                runs = runs.replace(reduced, f"as {first}")
            status = f"[{runs}](figures/{name}.png)"
            if "beside" in entry and (other := results_of(entry["beside"])) is not None:
                status += (
                    f"; a part of the picture: the runs of {entry['beside']}, scale: "
                    f"{other.scale}, {other.seeds}"
                )
            shown = [results, *map(results_of, sources[1:])]
            command = ", ".join(_command(of) for of in shown if of is not None)
        lines.append(
            f"| {name} | {entry['shows']} | {entry['section']} | {entry['task']} | {status} "
            f"| {time} | {command} |"
        )
    return "\n".join(lines) + "\n"


def _times(sources: list[str]) -> str:
    """The times of a figure's runs; where it shows the runs of several figures, of each by name."""
    of = {
        source: "; ".join(f"{scale}: {took}" for scale, took in times(source).items())
        for source in sources
        if grids(source)
    }
    if len(sources) == 1:
        return "".join(of.values())
    return ", ".join(f"{source} ({took})" for source, took in of.items())


def _run(figure: str, scale: str) -> str:
    """The command that runs a figure, and what it needs that nobody can fetch."""
    command = f"`python -m experiments figure={figure} scale={scale}`"
    first, *_ = expand([f"figure={figure}", f"scale={scale}"])
    if getattr(first.task, "archive", None) is not None:
        return f"{command} (needs the official archive of IWSLT14, which is fetched by hand)"
    without = {name for name in needed(first.task_name) if not data.ARTEFACTS[name].sources}
    if without and not hasattr(first.task, "weights"):  # style transfer can take torchvision's
        return f"{command} (needs {', '.join(sorted(without))}, which has no public source)"
    return command


def _command(results: Results) -> str:
    """The command that runs a figure.

    If the grid of the results no longer exists, it is the command at scale short. Then, and if the
    grid has other settings than the results, the commit that has the old grid follows.
    """
    scale = results.scale if results.scale in grids(results.figure) else "short"
    command = _run(results.figure, scale)
    if scale != results.scale or replaced(results):
        commit = results.manifest["environments"][-1]["commit"]
        command += f" ({results.scale}: as of commit {commit[:7]})"
    return command
