"""The paper's Table 1, Fig. 1 and Fig. 2 before training, with the paper's numbers beside ours.

python scripts/before_training.py table1 --platform gpu
python scripts/before_training.py fig2 --platform gpu --episodes 6400
python scripts/before_training.py fig2 --tiny --episodes 512
python scripts/before_training.py fig2 --cells recipes/real_model.yaml

Inference only: `actfocus evaluate` on the first boards of the split train, several episodes per board, then
`actfocus diagnose`. The same command again continues where it stopped. The table goes to stdout and <out>/<table>.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT / "recipes" / "paper" / "before_training.yaml"

Json = dict[str, Any]


class Cell(NamedTuple):
    """One model in one world, and how it plays there. paper: what the paper reports, of its cell `source`."""

    name: str
    env: str
    model: str
    paper: Json
    source: str
    settings: Json

    @classmethod
    def read(cls, name: str, entry: Json, paper: Json, settings: Json, episodes: int | None) -> Cell:
        """Of an entry of a file of cells. One that is `beside` a row of the paper has no numbers of its own.

        settings: of all cells, where the entry has none. episodes: instead of either.
        """
        source = entry.get("beside", name)
        own = {key: entry.get(key, value) for key, value in settings.items()}
        own["episodes"] = episodes or own["episodes"]
        return cls(name, entry["env"], entry["model"], paper[source], source, own)


def main() -> int:
    arguments = _parse()
    paper, content = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in (PAPER, arguments.cells))
    if missing := {"settings", arguments.table} - content.keys():
        print(f"error: {arguments.cells}: has no {' and no '.join(sorted(missing))}", file=sys.stderr)
        return 2
    settings = {"world": {}, **content["settings"]}
    cells = [
        Cell.read(name, entry, paper[arguments.table], settings, arguments.episodes)
        for name, entry in content[arguments.table].items()
    ]
    if arguments.tiny:
        # one cell per world, beside the paper's larger model
        cells = list({cell.env: cell._replace(name=f"{cell.env}_tiny") for cell in cells}.values())
    chosen = [cell for cell in cells if not arguments.only or cell.name in arguments.only]
    unknown = set(arguments.only or ()) - {cell.name for cell in cells}
    if unknown:
        names = ", ".join(cell.name for cell in cells)
        print(f"error: --only {', '.join(sorted(unknown))}: is not a row. Choose from: {names}", file=sys.stderr)
        return 2
    found = []
    for cell in chosen:
        folder = arguments.out / cell.name
        for command in _commands(arguments, cell, folder):
            print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
            if not arguments.dry_run and (status := subprocess.run(command, check=False).returncode):
                return status
        if not arguments.dry_run:
            result = json.loads((_diagnosis(arguments, folder) / "diagnosis.json").read_text(encoding="utf-8"))
            found.append((cell, result))
    if not arguments.dry_run:
        text = "\n".join(_document(arguments, found)) + "\n"
        (arguments.out / f"{arguments.table}.md").write_text(text, encoding="utf-8")
        print(text, end="")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=sorted(_TABLES))
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "before_training", help="default: %(default)s")
    parser.add_argument("--cells", type=Path, default=PAPER, help="models, worlds, settings; default: %(default)s")
    parser.add_argument("--episodes", type=int, help="per model; default: that of the cells")
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--tiny", action="store_true", help="the tiny policy of each world instead of Qwen2.5")
    parser.add_argument("--server", help="OpenAI-compatible vLLM server of the model, http://host:port/v1")
    parser.add_argument("--only", action="append", metavar="MODEL", help="a row of the table; may be repeated")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    return parser.parse_args()


def _commands(arguments: argparse.Namespace, cell: Cell, folder: Path) -> Iterator[list[str]]:
    """Evaluate, then diagnose. Table 1 needs no energy, and so no second pass."""
    model = _tiny_policy(cell, build=not arguments.dry_run) if arguments.tiny else cell.model
    yield [
        *_module("evaluate"),
        f"model={model}",
        f"env={cell.env}",
        f"preset={cell.settings['preset']}",
        "split=train",
        f"episodes={cell.settings['episodes']}",
        f"repeats={cell.settings['repeats']}",
        "temperature=1.0",
        f"max_context_tokens={cell.settings['max_context_tokens']}",
        *(f"{key}={value}" for key, value in cell.settings["world"].items()),
        f"platform={arguments.platform}",
        *([f"server={arguments.server}"] if arguments.server else []),
        "rollouts=true",
        f"out={folder}",
    ]
    device = "cuda" if arguments.platform == "gpu" else "cpu"
    energy = str(arguments.table != "table1").lower()
    out = f"out={_diagnosis(arguments, folder)}"
    yield [*_module("diagnose"), f"evaluation={folder}", "tokens=0", f"energy={energy}", f"device={device}", out]


def _diagnosis(arguments: argparse.Namespace, folder: Path) -> Path:
    """The figures share one, and so the energies; that of Table 1 has none and must not replace it."""
    return folder / ("shares" if arguments.table == "table1" else "diagnose")


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", f"actfocus_verl.{name}"]


def _tiny_policy(cell: Cell, *, build: bool) -> str:
    """Folder of the policy that was taught the world's preset."""
    if not build:
        return f"<tiny policy of {cell.env}>"
    script = str(ROOT / "scripts" / "build_tiny_policy.py")
    command = [sys.executable, script, "--env", cell.env, "--preset", cell.settings["preset"]]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def _document(arguments: argparse.Namespace, found: list[tuple[Cell, Json]]) -> Iterator[str]:
    """Title, command, table, and what a reader must know."""
    title, header, rows = _TABLES[arguments.table]
    yield f"# {title}, before training"
    yield ""
    yield f"`python {shlex.join(['scripts/before_training.py', *sys.argv[1:]])}`"
    yield ""
    for played, names in _alike(cell for cell, _ in found).items():
        yield f"{', '.join(names)}: {played}."
    yield ""
    yield "95 % intervals are bootstraps over boards. The paper's are single measurements, without intervals, of"
    yield f"{', '.join(dict.fromkeys(cell.source for cell, _ in found))}."
    yield ""
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for cell, result in found:
        for row in rows(cell, result):
            yield f"| {' | '.join(row)} |"
    for cell, result in found:
        for note in result["notes"]:
            if "gradient mass" not in note or (arguments.table == "fig1" and not note.startswith("no ")):
                yield f"\n{cell.name}: {note}."


def _alike(cells: Iterable[Cell]) -> dict[str, list[str]]:
    """The cells by what was played."""
    alike: dict[str, list[str]] = {}
    for cell in cells:
        episodes, repeats, preset = (cell.settings[key] for key in ("episodes", "repeats", "preset"))
        played = (
            f"{episodes} episodes, {repeats} on each of the first {episodes // repeats} training boards of `{preset}`"
        )
        world = ", ".join(f"{key}={value}" for key, value in cell.settings["world"].items())
        alike.setdefault(f"{played} with {world}" if world else played, []).append(cell.name)
    return alike


def _table1(cell: Cell, result: Json) -> Iterator[list[str]]:
    """Think is reasoning and format together: the paper's two shares add up to 100 %."""
    share = result["tokens"]["share"]["action"]
    think = {"share": 1 - share["share"], "low": _minus(share["high"]), "high": _minus(share["low"])}
    paper = [str(cell.paper.get(name, "")) for name in ("tokens", "think", "act")]
    ours = [_interval(result["tokens"]["an_episode"], "mean", 1.0, ".0f")]
    ours += [_interval(part, "share", 100.0, ".1f") for part in (think, share)]
    yield [cell.name, *(text for pair in zip(ours, paper, strict=True) for text in pair)]


def _minus(end: float | None) -> float | None:
    return None if end is None else 1 - end


def _fig1(cell: Cell, result: Json) -> Iterator[list[str]]:
    for name in ("uniform", "actfocus"):
        share = result["gradient_mass"][name]["action"]
        yield [cell.name, name, _interval(share, "share", 100.0, ".1f"), str(cell.paper.get(name, ""))]


def _fig2(cell: Cell, result: Json) -> Iterator[list[str]]:
    from actfocus_verl.diagnosis.display import correlation_rows  # not above: a dry run needs no torch

    for label, figures in correlation_rows(result["correlation"]) if result["correlation"] else ():
        ours = [_interval(figures, "rho", 1.0, ".3f"), _p(figures["p"]), str(figures["groups"])]
        paper = cell.paper.get(label, {})
        yield [cell.name, label, *ours, str(paper.get("rho", "")), _p(paper.get("p"))]


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _interval(figures: Mapping[str, Any], name: str, factor: float, form: str) -> str:
    if figures[name] is None:
        return "undefined"
    value = format(factor * figures[name], form)
    if figures["low"] is None:
        return value
    return f"{value} [{factor * figures['low']:{form}}, {factor * figures['high']:{form}}]"


Rows = Callable[[Cell, Json], Iterator[list[str]]]

_TABLES: Mapping[str, tuple[str, list[str], Rows]] = {
    "table1": (
        "Table 1: tokens per episode and their shares",
        ["model", "tokens", "paper", "think %", "paper", "act %", "paper"],
        _table1,
    ),
    "fig1": (
        "Fig. 1: share of the weights on action tokens",
        ["model", "weighting", "action %", "paper %"],
        _fig1,
    ),
    "fig2": (
        "Fig. 2: mean energy of a group against the spread of its returns",
        ["model", "tokens", "Spearman's rho", "p", "groups", "paper's rho", "paper's p"],
        _fig2,
    ),
}


if __name__ == "__main__":
    sys.exit(main())
