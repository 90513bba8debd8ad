"""The folder of one run (``actfocus_verl.run_files`` lists its files), read into plain objects.

A run that is still going, or was killed, is readable: files that do not exist yet are empty, and a line cut short at
the end of a file is left out. A run that was resumed from a checkpoint repeats steps: the last record of a step counts.
``RunFolder.notes`` lists what was left out, so that no report hides it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import yaml

from actfocus_verl.errors import ConfigurationError, one_line
from actfocus_verl.run_files import CONFIG_FILE, EVALUATIONS_FILE, METRICS_FILE, RUN_FILE, rollout_files

Record = dict[str, Any]

_MARKERS: Final[tuple[str, ...]] = (CONFIG_FILE, RUN_FILE, METRICS_FILE, EVALUATIONS_FILE)
"""A folder that holds one of these is a run folder."""


@dataclass(frozen=True)
class Evaluation:
    """One line of ``evaluations.jsonl``: the policy of one step on the boards of one split."""

    step: int
    """Training steps done; 0 is before training."""
    env: str
    preset: str
    split: str
    episodes: int
    """Boards played, one episode each."""
    successes: int
    rate: float
    """successes / episodes."""
    ci_low: float
    """Lower end of the 95 % interval of the rate."""
    ci_high: float
    """Upper end."""
    mean_return: float
    seed: int
    temperature: float
    """Sampling temperature."""
    more: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The line's other values: valid actions, the world's own metrics."""

    @property
    def world(self) -> str:
        """``env/preset/split``."""
        return f"{self.env}/{self.preset}/{self.split}"

    @property
    def series(self) -> tuple[str, float, int]:
        """Key of a curve: evaluations with the same key differ in the policy only."""
        return self.world, self.temperature, self.seed


@dataclass(frozen=True)
class RunFolder:
    """The contents of a run folder at the time it was opened."""

    path: Path
    config: Mapping[str, Any]
    """Empty when the run stopped before writing it."""
    info: Mapping[str, Any]
    """``run.json``; empty when the run stopped before writing it."""
    metrics: Sequence[Record]
    """One flat object per step, in the order of steps."""
    evaluations: Sequence[Evaluation]
    """In the order of steps."""
    notes: Sequence[str] = field(default=())
    """What was left out of the above, one line each; empty for a run that was never killed or resumed."""

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Read a run folder.

        Raises:
            ConfigurationError: no such folder, not the folder of a run, or a file in it that is damaged elsewhere than
                in its last line; names the file and the line.
        """
        folder = Path(path)
        _check_is_run(folder)
        notes: list[str] = []
        metrics = _read_jsonl(folder / METRICS_FILE, notes)
        evaluations = _read_jsonl(folder / EVALUATIONS_FILE, notes)
        return cls(
            path=folder,
            config=_read_config(folder / CONFIG_FILE),
            info=_read_info(folder / RUN_FILE, notes),
            metrics=_last_of_each([(line, record) for line, record in _with_step(metrics)], METRICS_FILE, notes),
            evaluations=_last_of_each(
                [((e.step, e.series), e) for e in map(_evaluation, evaluations)], EVALUATIONS_FILE, notes
            ),
            notes=tuple(notes),
        )

    @property
    def figures(self) -> Path:
        """Where figures go; it need not exist yet."""
        return self.path / "figures"

    def curves(self) -> dict[str, list[Evaluation]]:
        """The evaluations of each series, in the order of steps, under a name for the reader.

        The name is ``env/preset/split``, followed by temperature and seed if only these distinguish two series.
        """
        by_series: dict[tuple[str, float, int], list[Evaluation]] = {}
        for evaluation in self.evaluations:
            by_series.setdefault(evaluation.series, []).append(evaluation)
        worlds = [world for world, _, _ in by_series]
        return {
            world if worlds.count(world) == 1 else f"{world}, temperature {temperature:g}, seed {seed}": curve
            for (world, temperature, seed), curve in by_series.items()
        }

    def rollout_steps(self) -> list[int]:
        """The steps of which a sample of episodes was kept, in order."""
        return list(rollout_files(self.path))

    def rollouts(self, step: int) -> list[Record]:
        """The sampled episodes of a step; a line cut short at the end is left out.

        Raises:
            ConfigurationError: the step has no sample (lists the steps that have one), or the file is damaged.
        """
        files = rollout_files(self.path)
        if step not in files:
            known = ", ".join(map(str, files)) or "none"
            raise ConfigurationError("step", step, f"{self.path} keeps no episodes of it", f"Choose one of: {known}")
        return [line.record for line in _read_jsonl(files[step], [])]


@dataclass(frozen=True)
class _Line:
    """A record and where it was read, for error messages."""

    file: Path
    number: int
    record: Record

    def error(self, problem: str) -> ConfigurationError:
        return _damaged(self.file, f"line {self.number} {problem}")


def _check_is_run(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigurationError(
            "run", str(folder), "is not a folder", "Name a run's folder: outputs/<experiment>/<run>"
        )
    if any((folder / name).exists() for name in _MARKERS):
        return
    inside = sorted({file.parent.name for name in _MARKERS for file in folder.glob(f"*/{name}")})
    remedy = f"Give one of the runs inside it: {', '.join(inside[:5])}" if inside else "Give outputs/<experiment>/<run>"
    raise ConfigurationError(
        "run", str(folder), f"is not a run's folder, it holds none of {', '.join(_MARKERS)}", remedy
    )


def _read_config(file: Path) -> Mapping[str, Any]:
    if not file.exists():
        return {}
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _damaged(file, f"is not valid YAML ({one_line(error)})") from error
    if not isinstance(config, dict):
        raise _damaged(file, f"holds a {type(config).__name__}, not a mapping")
    return config


def _read_info(file: Path, notes: list[str]) -> Mapping[str, Any]:
    """A killed run can leave half of run.json: no result depends on it, so it is noted and left out."""
    if not file.exists():
        return {}
    try:
        info = json.loads(file.read_bytes())
    except ValueError:
        info = None
    if not isinstance(info, dict):
        notes.append(f"{file.name} is damaged and was left out")
        return {}
    return info


def _read_jsonl(file: Path, notes: list[str]) -> list[_Line]:
    """The records of a file, one JSON object a line; blank lines are skipped, and a broken last line is noted."""
    if not file.exists():
        return []
    texts = file.read_bytes().splitlines()
    lines = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except ValueError as error:  # not JSON, or cut inside a UTF-8 character
            if number == len(texts):
                notes.append(f"{file.name}: line {number}, the last one, is cut short and was left out")
                break
            raise _damaged(file, f"line {number} is not valid JSON ({error})") from error
        if not isinstance(record, dict):
            raise _damaged(file, f"line {number} holds a {type(record).__name__}, not an object")
        lines.append(_Line(file, number, record))
    return lines


def _with_step(lines: Iterable[_Line]) -> Iterable[tuple[tuple[int], Record]]:
    for line in lines:
        if not isinstance(line.record.get("step"), int):
            raise line.error("has no integer 'step'")
        yield (line.record["step"],), line.record


def _evaluation(line: _Line) -> Evaluation:
    names = [f.name for f in fields(Evaluation) if f.name != "more"]
    missing = [name for name in names if name not in line.record]
    if missing:
        raise line.error(f"lacks {', '.join(missing)}")
    more = {name: value for name, value in line.record.items() if name not in names}
    return Evaluation(**{name: line.record[name] for name in names}, more=more)


def _last_of_each(keyed: Sequence[tuple[tuple[Any, ...], Any]], name: str, notes: list[str]) -> tuple[Any, ...]:
    """The last value of each key, ordered by the step, which comes first in the key; repetitions are noted."""
    last = dict(keyed)
    repeated = len(keyed) - len(last)
    if repeated:
        notes.append(f"{name}: {repeated} earlier records of repeated steps (a resumed run) were left out")
    return tuple(last[key] for key in sorted(last, key=lambda key: key[0]))


def _damaged(file: Path, problem: str) -> ConfigurationError:
    return ConfigurationError("file", str(file), problem, "Repair or remove it, and report how it came about")
