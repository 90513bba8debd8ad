"""``python -m actfocus_verl.reproduction plan|show|run|status|table|report <matrix>``."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from actfocus_verl.command import EXIT_INTERRUPTED, EXIT_LOST_NODE, EXIT_MISTAKE
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reproduction import cost
from actfocus_verl.reproduction.composition import compose_experiment
from actfocus_verl.reproduction.folders import State, Workspace, read_json
from actfocus_verl.reproduction.matrix import Run, read_matrix
from actfocus_verl.reproduction.runner import TRAINING, Options, finished_summaries, run_missing
from actfocus_verl.reproduction.submission import submit

_FILE_WIDTH = 140
"""Width of a table that is redirected to a file."""


def main(arguments: Sequence[str]) -> int:
    """Return the exit status: 0, 1 a run failed, 2 a mistake, 75 a node was lost, 130 after Ctrl-C or SIGTERM."""
    given = _parser().parse_args(arguments)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    try:
        return int(given.action(given, console))
    except ConfigurationError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        return EXIT_MISTAKE
    except KeyboardInterrupt:
        console.print("interrupted; run the same command again to resume")
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="actfocus reproduce", description="Run a matrix of experiments, and report.")
    commands = parser.add_subparsers(required=True, metavar="plan|show|run|status|table|report")
    for name, action, text in (
        ("plan", _plan, "list cells, steps and estimated cost"),
        ("show", _show, "print the settings of each cell, one per line"),
        ("run", _run, "run what is missing; repeat the command to resume"),
        ("status", _status, "show what is done, running and missing"),
        ("table", _table, "print final success and differences, one row per section, in Markdown"),
        ("report", _report, "write tables and figures from the committed summaries"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(action=action)
        command.add_argument("--results", type=Path, default=Path("results"), help="where summaries are kept")
        command.add_argument("--outputs", type=Path, default=Path("outputs"), help="where run folders are")
        if name in ("table", "report"):
            command.add_argument("matrices", type=Path, nargs="+", metavar="matrix", help="files of recipes/matrices")
        else:
            command.add_argument("matrix", type=Path, help="a file of recipes/matrices")
            command.add_argument(
                "--only",
                action="append",
                default=[],
                metavar="PATTERN",
                help="run only these: pattern for <cell>/seed<k>",
            )
        if name == "report":
            command.add_argument("--out", type=Path, help="default: <results>/<matrix>/report")
            command.add_argument("--html", action="store_true", help="also write report.html, one self-contained page")
        if name == "show":
            command.add_argument("--config", action="store_true", help="also print the whole configuration")
        if name == "run":
            _add_run_options(command)
    return parser


def _add_run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--minutes", type=float, help="start no run that is expected to end after this many minutes")
    command.add_argument("--mix-versions", action="store_true", help="allow runs of other code, settings or weights")
    command.add_argument(
        "--training", default=shlex.join(TRAINING), help="training command, to which a run's settings are appended"
    )
    command.add_argument(
        "--submit", type=Path, metavar="RECIPE", help="submit the runs to a cluster: recipes/cluster/*.sh"
    )
    command.add_argument("--dry-run", action="store_true", help="with --submit: only write the scripts")


def _workspace(matrix: Path, given: argparse.Namespace) -> Workspace:
    return Workspace(read_matrix(matrix), given.results, given.outputs)


def _plan(given: argparse.Namespace, console: Console) -> int:
    workspace = _workspace(given.matrix, given)
    matrix, summaries = workspace.matrix, finished_summaries(workspace)
    runs = matrix.runs(given.only)
    table = Table("experiment", "runs", "done", "steps", "episodes per step", "evaluations", "min per run", "from")
    left: list[cost.Estimate | None] = []
    for experiment in dict.fromkeys(run.experiment for run in runs):
        composition = compose_experiment(experiment)
        own = [run for run in runs if run.experiment == experiment]
        missing = [run for run in own if workspace.state(run) is not State.DONE]
        estimate = cost.estimate(experiment, composition, summaries, matrix.cost_guess)
        left += [estimate] * len(missing)
        table.add_row(
            experiment.name,
            str(len(own)),
            _done(workspace, own, composition.digest),
            str(composition.steps),
            str(composition.episodes_a_step),
            f"{composition.evaluations} x {composition.evaluation_episodes}",
            f"{estimate.seconds / 60:.1f}" if estimate else "unknown",
            estimate.basis if estimate else "",
        )
    console.print(table)
    seconds = cost.total(left)
    console.print(f"{len(left)} of {len(runs)} runs are left; time in sequence: {_hours(seconds)}")
    return 0


def _done(workspace: Workspace, runs: Sequence[Run], digest: str) -> str:
    """The number of finished runs, and how many of them have other settings than the experiment now."""
    summaries = [summary for run in runs if (summary := read_json(workspace.places(run).summary))]
    other = sum(summary["settings_digest"] != digest for summary in summaries)
    return f"{len(summaries)} ({other} with other settings)" if other else str(len(summaries))


def _hours(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"about {seconds / 3600:.1f} hours"


def _show(given: argparse.Namespace, console: Console) -> int:
    """A comment with the cell's name, then its settings; recipes/paper/run.sh reads them."""
    runs = _workspace(given.matrix, given).matrix.runs(given.only)
    for experiment in dict.fromkeys(run.experiment for run in runs):
        console.print(f"# {experiment.name}", *experiment.settings, sep="\n")
        if given.config:
            console.print(yaml.safe_dump(dict(compose_experiment(experiment).config), sort_keys=False))
    return 0


def _require_its_options(given: argparse.Namespace) -> None:
    """Refuse options of the other way of running, which would be passed over."""
    if given.dry_run and not given.submit:
        remedy = "Add --submit=recipes/cluster/slurm.sh, or use `plan` to see the runs"
        raise ConfigurationError("--dry-run", True, "nothing is submitted, so the runs would start here", remedy)
    if given.submit and given.minutes is not None:
        remedy = "Leave it out, and set the time of a job in the recipe"
        raise ConfigurationError(
            "--minutes", given.minutes, "submitted runs start when the cluster starts them", remedy
        )
    if given.submit and given.training != shlex.join(TRAINING):
        remedy = "Leave it out, and set the command in the recipe"
        raise ConfigurationError("--training", given.training, "submitted runs use the recipe's command", remedy)


def _run(given: argparse.Namespace, console: Console) -> int:
    _require_its_options(given)
    workspace = _workspace(given.matrix, given)
    runs = workspace.matrix.runs(given.only)
    if given.submit:
        options = ["--mix-versions"] if given.mix_versions else []
        submit(workspace, runs, given.submit, given.matrix, console.print, options=options, dry_run=given.dry_run)
        return 0
    training = shlex.split(given.training)
    options_here = Options(training, minutes=given.minutes, mix_versions=given.mix_versions)
    outcome = run_missing(workspace, runs, options_here, console.print)
    console.print(
        f"{len(outcome.done)} done, {len(outcome.failed)} failed, {len(outcome.left)} left to others or for later"
    )
    if outcome.lost_node:
        return EXIT_LOST_NODE
    return 1 if outcome.failed else 0


def _status(given: argparse.Namespace, console: Console) -> int:
    workspace = _workspace(given.matrix, given)
    runs = workspace.matrix.runs(given.only)
    states = {run: workspace.state(run) for run in runs}
    seeds = sorted({run.seed for run in runs})
    table = Table("experiment", *(f"seed {seed}" for seed in seeds))
    for experiment in dict.fromkeys(run.experiment for run in runs):
        cells = [_cell(workspace, Run(experiment, seed), states) for seed in seeds]
        table.add_row(experiment.name, *cells)
    console.print(table)
    counts = Counter(states.values())
    console.print(", ".join(f"{counts[state]} {state.value}" for state in State if counts[state]))
    return 0


def _cell(workspace: Workspace, run: Run, states: dict[Run, State]) -> str:
    state = states.get(run)
    if state is not State.DONE:
        return state.value if state else ""
    last = read_json(workspace.places(run).summary)["evaluations"][-1]
    return f"done {last['rate']:.3f}"


def _table(given: argparse.Namespace, console: Console) -> int:
    from actfocus_verl.reproduction.report.cells import cells_of
    from actfocus_verl.reproduction.report.document import to_markdown
    from actfocus_verl.reproduction.report.overview import overview_table

    workspaces = [_workspace(matrix, given) for matrix in given.matrices]
    parts = [(each.matrix, cells_of(each.matrix, finished_summaries(each))) for each in workspaces]
    console.print(to_markdown([overview_table(parts)]), end="")
    return 0


def _report(given: argparse.Namespace, console: Console) -> int:
    from actfocus_verl.reproduction.report import write_report  # matplotlib, which the other commands do without

    if given.out and len(given.matrices) > 1:
        problem = "is a single folder, but several matrices are given"
        raise ConfigurationError("--out", str(given.out), problem, "Remove it, or name one matrix")
    for matrix in given.matrices:
        workspace = _workspace(matrix, given)
        out = given.out or workspace.results / workspace.matrix.name / "report"
        for path in write_report(workspace.matrix, finished_summaries(workspace), out, html=given.html):
            console.print(str(path))
    return 0
