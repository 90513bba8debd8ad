"""Where the return is decided, and which method finds it: `actfocus truth` of every cell of recipes/truth.yaml.

python scripts/truth_table.py run                  # measure what is missing; --only frozen_lake_loose
python scripts/truth_table.py table                # results/truth/table.md from results/truth/*.json
python scripts/truth_table.py training             # what the ruler says of trained arms, beside what training found

`run` builds the policies or trains them, measures in outputs/truth, and copies each finished truth.json to
results/truth/<cell>.json. The same command again continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from actfocus_verl.reproduction.folders import Workspace, read_json
from actfocus_verl.reproduction.matrix import read_matrix
from actfocus_verl.reproduction.report.cells import cells_of, final_rate
from actfocus_verl.reproduction.report.numbers import mean_of
from actfocus_verl.reproduction.runner import finished_summaries
from actfocus_verl.run_files import RUN_FILE

ROOT: Final = Path(__file__).resolve().parents[1]
CELLS: Final = ROOT / "recipes" / "truth.yaml"
RESULTS: Final = ROOT / "results" / "truth"
TABLE: Final = "table.md"
KINDS: Final = ("reasoning", "action", "format", "luck", "sum")

Json = dict[str, Any]


def main() -> int:
    arguments = _parse()
    content = yaml.safe_load(CELLS.read_text(encoding="utf-8"))
    if arguments.command == "training":
        print("\n".join(training(content["trained"], _results(content["cells"]))))
        return 0
    if arguments.command == "run":
        unknown = set(arguments.only or ()) - set(content["cells"])
        if unknown:
            known = ", ".join(content["cells"])
            print(f"error: --only {', '.join(sorted(unknown))}: is not a cell. Choose from: {known}", file=sys.stderr)
            return 2
        for name in arguments.only or content["cells"]:
            if status := _measure(name, content["cells"][name], content["settings"], arguments.out, arguments.dry_run):
                return status
    if not arguments.dry_run:
        text = "\n".join(_document(_results(content["cells"]))) + "\n"
        (RESULTS / TABLE).write_text(text, encoding="utf-8")
        print(text, end="")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "table", "training"))
    parser.add_argument("--only", action="append", metavar="CELL", help="a cell to run; may be repeated")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "truth", help="default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    return parser.parse_args()


def _measure(name: str, cell: Json, settings: Json, out: Path, dry_run: bool) -> int:
    """Make the policy, measure, and keep the result. Returns the exit status of the first command that failed."""
    if "train" in cell:
        model = str(out / f"{name}_run")
        train = [sys.executable, "-m", "actfocus_verl.train", *cell["train"], f"run.dir={model}"]
        print(f"$ {shlex.join(train)}", file=sys.stderr, flush=True)
        finished = read_json(Path(model) / RUN_FILE).get("exit_reason") == "finished"
        if not (dry_run or finished) and (status := subprocess.run(train, check=False).returncode):
            return status
    elif "model" in cell:
        model = cell["model"]
    else:
        options = [word for key in ("env", "preset", "coupling") for word in (f"--{key}", cell[key])]
        build = [sys.executable, str(ROOT / "scripts" / "build_tiny_policy.py"), *options]
        print(f"$ {shlex.join(build)}", file=sys.stderr, flush=True)
        model = f"<tiny policy of {name}>"
        if not dry_run:
            model = subprocess.run(build, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    words = [f"{key}={value}" for key, value in {**settings, **cell.get("settings", {})}.items()]
    truth = [sys.executable, "-m", "actfocus_verl.truth", f"model={model}", f"out={out / name}", *words]
    print(f"$ {shlex.join(truth)}", file=sys.stderr, flush=True)
    if dry_run:
        return 0
    if status := subprocess.run(truth, check=False).returncode:
        return status
    found = json.loads((out / name / "truth.json").read_text(encoding="utf-8"))
    for place, key in ((found["settings"], "model"), (found["judged"], "reference_model")):  # no absolute paths
        place[key] = place[key] and Path(place[key]).name
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(_rounded(found), indent=1) + "\n", encoding="utf-8")
    return 0


def _rounded(value: Any) -> Any:
    """Numbers with six digits, which no interval here deserves."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def _results(cells: Json) -> dict[str, Json]:
    files = {name: RESULTS / f"{name}.json" for name in cells}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}


def _document(found: dict[str, Json]) -> Iterator[str]:
    yield "# Where the return is decided, and which method finds it"
    yield ""
    yield "`python scripts/truth_table.py run`, of the policies in recipes/truth.yaml; docs/truth.md explains every"
    yield "figure. Intervals are 95 %, bootstraps over boards."
    yield ""
    yield from summary(found)
    for name, result in found.items():
        settings, judged = result["settings"], result["judged"]
        yield ""
        yield f"## {name}"
        yield ""
        where = f"`{settings['env']}` (`preset={settings['preset']}`, `split={settings['split']}`)"
        yield f"{result['episodes']} episodes on {result['boards']} boards of {where}, {result['continuations']}"
        reference = judged["reference"]
        yield f"continuations per boundary; reference gradient of {reference['episodes']} other episodes, its cosine"
        if _gradient(judged, judged["base"], "alignment") is None:
            yield "with any gradient unknown, since its squared length, without the boards' own noise, is not above 0."
        else:
            yield f"with the expected gradient of the measured changes {_figure(reference['cosine'])}."
        yield ""
        yield from _table(
            [*KINDS, "null"], [[_figure(result["shares"][kind]) for kind in KINDS] + [_figure(result["null"])]]
        )
        yield ""
        yield from _table(_COLUMNS, [_row(method, figures) for method, figures in judged["methods"].items()])
        yield ""
        proxy = {name.removeprefix("spearman_"): rho for name, rho in judged["proxy"].items() if name != "groups"}
        yield "The paper's proxy, Spearman's rho of a board's mean energy and the spread of its returns:"
        yield ", ".join(f"{part} {rho:.2f}" for part, rho in proxy.items()) + f", of {result['boards']} boards."
        yield ""
        for method, reason in judged["left_out"].items():
            yield f"- {method}: {reason}"


def summary(found: dict[str, Json]) -> Iterator[str]:
    """A column per cell: the shares, then each method's alignment minus that of the base. docs/results.md has it."""
    rows = [
        [f"decided by {kind}", *(_figure(result["shares"][kind]) for result in found.values())] for kind in KINDS[:4]
    ]
    rows.append(["check: the shares sum to 1", *(_figure(result["shares"]["sum"]) for result in found.values())])
    rows.append(["check: the null is 0", *(_figure(result["null"]) for result in found.values())])
    judged = [result["judged"] for result in found.values()]
    rows.append(
        [
            "alignment of GRPO with uniform weights",
            *(_figure(_gradient(each, each["base"], "alignment")) for each in judged),
        ]
    )
    rows.append(["correlation of GRPO's credit of turns", *(_figure(_turns(each, each["base"])) for each in judged)])
    rows.append(["the same of GraphGPO", *(_figure(_turns(each, "graphgpo + uniform")) for each in judged)])
    for method in _SUMMARISED:
        rows.append([f"gain in alignment of {method}", *(_figure(_gradient(each, method, "gain")) for each in judged)])
    yield from _table(["", *found], rows)


def training(studies: Sequence[Json], found: dict[str, Json]) -> Iterator[str]:
    """A row per arm of a trained study: gain in alignment over the study's base, and in final success, in points."""
    rows = []
    for study in studies:
        judged, finals = found[study["cell"]]["judged"], _final_rates(study["matrix"])
        (base, base_method), *arms = study["arms"].items()
        for arm, method in arms:
            both = sorted(finals.get(arm, {}).keys() & finals.get(base, {}).keys())
            gained = mean_of([finals[arm][seed] - finals[base][seed] for seed in both], scale=100)
            gains = [_figure(judged["methods"][method][kind]["gain"]) for kind in ("gradient", "adam")]
            rows.append([study["study"], f"{method} over {base_method}", *gains, gained, str(len(both))])
    yield from _table(["study", "arm", "gain in alignment", "through Adam", "gain in training", "seeds"], rows)


def _final_rates(matrix: str) -> dict[str, dict[int, float]]:
    """Of each cell with finished runs: success at the last evaluation, by seed."""
    read = read_matrix(ROOT / "recipes" / "matrices" / f"{matrix}.yaml")
    cells = cells_of(read, finished_summaries(Workspace(read, ROOT / "results", ROOT / "outputs")))
    return {name: {seed: final_rate(run) for seed, run in cell.runs.items()} for name, cell in cells.items()}


def _turns(judged: Json, method: str) -> Json | None:
    return judged["methods"][method]["turns"]["correlation"] if method in judged["methods"] else None


def _gradient(judged: Json, method: str, figure: str) -> Json | None:
    return judged["methods"][method]["gradient"][figure] if method in judged["methods"] else None


_SUMMARISED: Final = (
    "grpo + actfocus",
    "grpo + actfocus placebo",
    "grpo + action_only",
    "grpo + influence",
    "grpo + influence by token",
    "grpo + influence by token placebo",
    "grpo + entropy_quantile",
    "grpo + aem",
    "grpo + empg",
    "gigpo + uniform",
    "gigpo + actfocus",
    "gigpo + influence",
    "graphgpo + uniform",
    "turn_grpo + uniform",
    "turn_grpo + actfocus",
    "truth + uniform",
    "truth + actfocus",
    "truth + influence",
)

_COLUMNS: Final = (
    "method",
    "correlation of turns",
    "right sign",
    "correlation with luck",
    "segments",
    "mass on actions",
    "alignment",
    "minus base",
    "steps of base",
    "Adam: alignment",
    "minus base",
    "steps of base",
)


def _row(name: str, found: Json) -> list[str]:
    turns = found["turns"] or {}
    cells = [_figure(turns.get(key)) for key in ("correlation", "sign", "luck")]
    cells += [_figure(found["segments"]), f"{found['mass']['action']:.2f}"]
    cells += [_figure(found[kind][key]) for kind in ("gradient", "adam") for key in ("alignment", "gain", "worth")]
    return [f"{name} ({found['remark']})" if found["remark"] else name, *cells]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _figure(found: Json | None) -> str:
    if found is None:
        return "–"
    return f"{found['estimate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


if __name__ == "__main__":
    sys.exit(main())
