"""The tables of a report. Every function takes cells and returns a table; none knows a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

from actfocus_verl.reporting.statistics import sign_test
from actfocus_verl.reproduction.matrix import Comparison, Sweep
from actfocus_verl.reproduction.report import cells as of
from actfocus_verl.reproduction.report.cells import Cell
from actfocus_verl.reproduction.report.document import Table
from actfocus_verl.reproduction.report.numbers import NONE, mean_of, percent, rate_of
from actfocus_verl.reproduction.summary import Summary

ROLES = ("reasoning", "action", "format", "environment")
_CREDIT_PHASES = ("timing_s/ref", "timing_s/adv", "timing_s/update_actor")


@cache
def paper() -> Mapping[str, Any]:
    """The paper's numbers: `source`, `unit`, and `cells` by the name of the paper's experiment."""
    found: Mapping[str, Any] = json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))
    return found


def success_table(cells: Sequence[Cell]) -> Table:
    """Success of each cell, beside the paper's."""
    rows = [
        [
            cell.label,
            str(len(cell.runs)),
            mean_of(cell.values(of.first_rate), 100),
            mean_of(cell.values(of.final_rate), 100),
            mean_of(cell.values(of.peak_rate), 100),
            mean_of(cell.values(of.drop), 100),
            mean_of(cell.values(of.last_gain), 100),
            f"{mean_of(cell.values(of.first_return), 1, 2)} to {mean_of(cell.values(of.final_return), 1, 2)}",
            mean_of(cell.values(of.final_valid_rate), 100),
            _paper_numbers(cell),
        ]
        for cell in cells
    ]
    columns = ("weighting", "seeds", "before", "final", "peak", "peak to final", "last gain", "return", "valid turns")
    table = Table([*columns, "the paper's final (peak): another model and scale"], rows)
    return _beside(table, "final elsewhere", [mean_of(cell.values(of.elsewhere_rate), 100) for cell in cells], cells)


def _beside(table: Table, column: str, values: Sequence[str], cells: Sequence[Cell]) -> Table:
    """The table, with the column after its final success where any run had a final evaluation."""
    if not any(cell.values(of.elsewhere_rate) for cell in cells):
        return table
    place = next(number for number, name in enumerate(table.columns, start=1) if name.startswith("final"))
    rows = [[*row[:place], value, *row[place:]] for row, value in zip(table.rows, values, strict=True)]
    return Table([*table.columns[:place], column, *table.columns[place:]], rows)


def _paper_numbers(cell: Cell) -> str:
    """`3B 12.5 (26.2), 0.5B – (23.8)`; the scale is the second part of the name of the paper's experiment."""
    found = []
    for name in cell.experiment.paper:
        numbers = paper()["cells"][name]
        scale = next(part for part in name.split("_") if part.endswith("b") and part[0].isdigit())
        final, peak = (str(numbers.get(key, NONE)) for key in ("final", "peak"))
        found.append(f"{scale.upper()} {final} ({peak})")
    return ", ".join(found) or NONE


def runs_table(cells: Sequence[Cell]) -> Table:
    """Each run's last evaluation with its own interval."""
    rows, elsewhere = [], []
    for cell in cells:
        for seed, run in cell.runs.items():
            elsewhere.append(_elsewhere(run))
            last = run["evaluations"][-1]
            final = rate_of(last["successes"], last["episodes"])
            stable = "yes" if of.is_stable(run) else "no"
            rows.append([cell.label, str(seed), final, _episodes(last), percent(of.peak_rate(run)), stable])
    table = Table(["weighting", "seed", "final [95 % Wilson]", "episodes", "peak", "stable"], rows)
    return _beside(table, "final elsewhere [95 %]", elsewhere, cells)


def _elsewhere(run: Summary) -> str:
    """`27.1 [23.4, 31.1], clean, 512`: success, its interval, preset, and episodes."""
    if "final_evaluation" not in run:
        return NONE
    found = run["final_evaluation"]
    success, interval = found["success"], ""
    if success["low"] is not None:
        interval = f" [{percent(success['low'])}, {percent(success['high'])}]"
    return f"{percent(success['rate'])}{interval}, {found['preset']}, {_episodes(found)}"


def _episodes(evaluation: Mapping[str, Any]) -> str:
    """`512`, or `512 on 32 boards`, where Wilson's interval is too narrow."""
    episodes, boards = evaluation["episodes"], evaluation.get("boards", evaluation["episodes"])
    return str(episodes) if boards == episodes else f"{episodes} on {boards} boards"


def comparison_table(comparisons: Sequence[Comparison], cells: Mapping[str, Cell], titles: Mapping[str, str]) -> Table:
    """Differences of final success, paired by seed. titles: experiment -> section."""
    rows = []
    for each in comparisons:
        arm, base = cells[each.arm], cells[each.base]
        differences = paired(arm, base)
        title = f"{titles[each.arm]}: {arm.label} minus {base.label}"
        rows.append([f"{title} ({each.question})" if each.question else title, *_difference_cells(differences)])
    return Table(["comparison", "pairs", "differences by seed", "mean", "sign test p"], rows)


def pooled_table(comparisons: Sequence[Comparison], cells: Mapping[str, Cell]) -> Table | None:
    """The pairs of all comparisons that ask the same question, together; None where none is asked twice."""
    by_question: dict[str, list[list[float]]] = {}
    for each in comparisons:
        if differences := paired(cells[each.arm], cells[each.base]):
            by_question.setdefault(each.question, []).append(differences)
    rows = []
    for question, settings in by_question.items():
        if question and len(settings) > 1:
            differences = [difference for setting in settings for difference in setting]
            pairs, above = str(len(differences)), str(sum(each > 0 for each in differences))
            mean, test = mean_of(differences, 100), f"{sign_test(differences):.3f}"
            rows.append([question, str(len(settings)), pairs, above, mean, test])
    return Table(["question", "settings", "pairs", "above 0", "mean", "sign test p"], rows) if rows else None


def paired(arm: Cell, base: Cell) -> list[float]:
    """Differences of final success over the seeds that both have."""
    return [of.final_rate(arm.runs[seed]) - of.final_rate(base.runs[seed]) for seed in arm.runs if seed in base.runs]


def _difference_cells(differences: Sequence[float]) -> list[str]:
    if not differences:
        return ["0", NONE, NONE, NONE]
    listed = ", ".join(f"{100 * each:+.1f}" for each in differences)
    return [str(len(differences)), listed, mean_of(differences, 100), f"{sign_test(differences):.2f}"]


def sweep_table(sweep: Sweep, cells: Mapping[str, Cell]) -> Table:
    """The arms of a sweep at every value, and how many of the runs stayed stable."""
    rows = []
    for arm, names in sweep.arms.items():
        for name in names:
            cell = cells[name]
            runs = list(cell.runs.values())
            value = of.setting(runs[0], sweep.key) if runs else None
            rows.append(
                [
                    arm,
                    NONE if value is None else f"{value:g}",
                    str(len(runs)),
                    mean_of(cell.values(of.final_rate), 100),
                    mean_of(cell.values(of.peak_rate), 100),
                    mean_of(cell.values(of.drop), 100),
                    mean_of(cell.values(of.final_valid_rate), 100),
                    f"{sum(map(of.is_stable, runs))} of {len(runs)}" if runs else NONE,
                ]
            )
    key = sweep.key.rpartition(".")[2]
    return Table(["arm", key, "seeds", "final", "peak", "peak to final", "valid turns", "stable"], rows)


def best_table(sweep: Sweep, cells: Mapping[str, Cell]) -> Table:
    """Each arm at its best value, and the difference of the later arms to the first, paired by seed."""
    best = {arm: _chosen([cells[name] for name in names], sweep.choose_seeds) for arm, names in sweep.arms.items()}
    rows = []
    base = next(iter(best.values()), None)
    for arm, cell in best.items():
        if cell is None:
            rows.append([arm, *[NONE] * 6])
            continue
        value = f"{of.setting(next(iter(cell.runs.values())), sweep.key):g}"
        final = mean_of(cell.values(of.final_rate), 100)
        first = cell is base or base is None
        rows.append([arm, value, final, *(["", "", "", ""] if first or base is None else _against(cell, base))])
    return Table(["arm", "best at", "final", "pairs", "differences by seed", "mean", "sign test p"], rows)


def _against(cell: Cell, base: Cell) -> list[str]:
    return _difference_cells(paired(cell, base))


def _chosen(cells: Sequence[Cell], seeds: Sequence[int]) -> Cell | None:
    """The best cell by the runs of `seeds`, with its other runs alone; without seeds by all runs, and with all."""
    if not seeds:
        return best_cell(cells)
    by = {cell.experiment.name: _of_seeds(cell, [seed for seed in cell.runs if seed in seeds]) for cell in cells}
    best = best_cell(list(by.values()))
    rest = [_of_seeds(cell, [seed for seed in cell.runs if seed not in seeds]) for cell in cells]
    found = next((cell for cell in rest if best is not None and cell.experiment is best.experiment), None)
    return found if found is not None and found.runs else None


def _of_seeds(cell: Cell, seeds: Sequence[int]) -> Cell:
    return Cell(cell.experiment, {seed: cell.runs[seed] for seed in seeds})


def best_cell(cells: Sequence[Cell]) -> Cell | None:
    """The cell with the highest mean final success; the first of equals; None where no run is finished."""
    finished = [cell for cell in cells if cell.runs]
    return max(finished, key=lambda cell: fmean(cell.values(of.final_rate)), default=None)


def length_table(cells: Sequence[Cell]) -> Table:
    """Tokens an episode by role, over the first and the last quarter of the steps."""
    rows = []
    for cell in cells:
        row = [cell.label]
        for role in ROLES:
            pairs = [of.early_and_late(run, f"response_tokens/{role}") for run in cell.runs.values()]
            row.append(_from_to([pair for pair in pairs if pair is not None]))
        runs = list(cell.runs.values())
        row.append(_spread(runs))
        rows.append(row)
    return Table(["weighting", *ROLES, "shortest, mean, longest trained, last quarter"], rows)


def _from_to(pairs: Sequence[tuple[float, float]]) -> str:
    if not pairs:
        return NONE
    early, late = (fmean(pair[place] for pair in pairs) for place in (0, 1))
    return f"{early:.0f} to {late:.0f}"


def _spread(runs: Sequence[Summary]) -> str:
    found = []
    for name in ("min", "mean", "max"):
        pairs = [of.early_and_late(run, f"response_length/{name}") for run in runs]
        late = [pair[1] for pair in pairs if pair is not None]
        found.append(f"{fmean(late):.0f}" if late else NONE)
    return ", ".join(found)


def cost_table(cells: Sequence[Cell]) -> Table:
    """What the runs took on the machine they ran on."""
    rows = []
    for cell in cells:
        runs = list(cell.runs.values())
        steps = [median(seconds) for run in runs if (seconds := _numbers(run, "timing_s/step"))]
        tokens = [sum(_numbers(run, "perf/total_num_tokens")) for run in runs]
        memory = [max(values) for run in runs if (values := _numbers(run, "actor/perf/cpu_memory_used_gb"))]
        rows.append(
            [
                cell.label,
                str(len(runs)),
                mean_of(cell.values(of.minutes)),
                f"{sum(map(accelerator_hours, runs)):.1f}" if runs else NONE,
                f"{sum(map(core_hours, runs)):.1f}" if runs else NONE,
                f"{fmean(steps):.1f}" if steps else NONE,
                f"{fmean(tokens) / 1e6:.2f}" if tokens else NONE,
                f"{fmean(memory):.1f}" if memory else NONE,
            ]
        )
    columns = ("weighting", "runs", "minutes a run", "GPU-hours", "core-hours", "seconds a step (median)")
    return Table([*columns, "million tokens trained", "memory, GiB"], rows)


def _numbers(run: Summary, name: str) -> list[float]:
    return [value for value in of.metric(run, name) if value is not None]


def accelerator_hours(run: Summary) -> float:
    """GPUs times hours; none on a CPU."""
    if run["settings"]["platform.name"] == "cpu":
        return 0.0
    settings = run["settings"]
    return float(settings["trainer.nnodes"] * settings["trainer.n_gpus_per_node"] * run["cost"]["seconds"] / 3600)


def core_hours(run: Summary) -> float:
    """Cores of the machine times hours."""
    return float(((run.get("machine") or {}).get("cores") or 0) * run["cost"]["seconds"] / 3600)


def overhead_table(comparisons: Sequence[Comparison], cells: Mapping[str, Cell], titles: Mapping[str, str]) -> Table:
    """Seconds a trained token, arm over base: of the phases a weighting can change, and of the whole step."""
    rows = []
    for each in comparisons:
        arm, base = cells[each.arm], cells[each.base]
        pairs = [(arm.runs[seed], base.runs[seed]) for seed in arm.runs if seed in base.runs]
        row = [f"{titles[each.arm]}: {arm.label} over {base.label}"]
        for phases in (_CREDIT_PHASES, ("timing_s/step",)):
            ratios = [
                ours / theirs
                for one, other in pairs
                if (ours := _a_token(one, phases)) and (theirs := _a_token(other, phases))
            ]
            row.append(mean_of(ratios, 1, 2))
        rows.append(row)
    return Table(["comparison", "reference, advantages and update", "whole step"], rows)


def _a_token(run: Summary, phases: Sequence[str]) -> float | None:
    """Median over the steps of seconds a trained token."""
    tokens = of.metric(run, "perf/total_num_tokens")
    columns = [values for name in phases if (values := of.metric(run, name))]
    if not columns or not tokens:
        return None
    seconds = [sum(value or 0.0 for value in step) for step in zip(*columns, strict=True)]
    return median(second / count for second, count in zip(seconds, tokens, strict=True) if count)
