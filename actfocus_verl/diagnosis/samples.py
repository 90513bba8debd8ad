"""The episodes that are diagnosed, as tensors: those that a run kept in `rollouts/<step>.jsonl`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from actfocus_verl.columns import COLUMNS, ENTROPY, RECORDED, RESPONSES, TURN_IDS
from actfocus_verl.credit.influence import AnswerEntropies, answer_entropies
from actfocus_verl.credit.token_weights import response_roles
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reporting.run_folder import Record, RunFolder
from actfocus_verl.run_files import rollouts_file

INFLUENCE_READS: Final = (ENTROPY, TURN_IDS)
"""Columns that a run may lack and by which it is measured how much the reasoning decides."""

_TOKEN_COLUMNS: Final = {RESPONSES: torch.int64} | {name: getattr(torch, COLUMNS[name].dtype) for name in RECORDED}
_REQUIRED: Final = ("responses", "response_mask", "token_roles", "prompt_ids", "group", "return")


@dataclass(frozen=True)
class StepSample:
    """B episodes of one training step, T tokens the longest response."""

    step: int
    columns: dict[str, Tensor]
    """(B, T), int64 or float32 as in training, 0 beyond a row's response: every token column that all episodes have."""
    returns: Tensor
    """(B,), float64."""
    groups: Sequence[str]
    """Per episode: the name of its prompt group."""
    prompts: Sequence[Sequence[int]]
    """Per episode: the token ids of its first prompt."""
    sessions: Sequence[int] | None = None
    """Per row: its episode's number in the group, as an agent loop may give several rows per episode. None: each row is
    one."""
    strata: Sequence[int] | None = None
    """Per row: the difficulty of its board, `World.stratum`, where it was kept."""

    @property
    def group_ids(self) -> Tensor:
        """(B,), int64: numbers of the groups, in the order of their names."""
        numbers = {name: number for number, name in enumerate(sorted(set(self.groups)))}
        return torch.tensor([numbers[name] for name in self.groups])

    @property
    def conversation_ids(self) -> Tensor | None:
        """(B,), int64: equal for the rows of one episode; None as `sessions`."""
        if self.sessions is None:
            return None
        numbers = {place: number for number, place in enumerate(self.episodes)}
        return torch.tensor([numbers[place] for place in zip(self.groups, self.sessions, strict=True)])

    @property
    def episodes(self) -> list[tuple[str, int]]:
        """Group and session of each episode, in the order of its first row."""
        sessions = range(len(self.groups)) if self.sessions is None else self.sessions
        return list(dict.fromkeys(zip(self.groups, sessions, strict=True)))

    @property
    def answers(self) -> AnswerEntropies | None:
        """How far the reasoning decides the first answers; None without these columns, or nothing to compare.

        An episode's first row holds its first turn: a run's rows are in the order of its outputs.
        """
        if not {*INFLUENCE_READS} <= {*self.columns}:
            return None
        sessions = range(len(self.groups)) if self.sessions is None else self.sessions
        places = list(zip(self.groups, sessions, strict=True))
        first = [places.index(place) for place in self.episodes]
        return answer_entropies({name: column[first] for name, column in self.columns.items()}, self.group_ids[first])


@dataclass(frozen=True)
class Source:
    """What is diagnosed, of a run or of an evaluation.

    group_size: episodes of a whole prompt group. temperature: of the sampling. model, checkpoint: what `find_model`
    finds the policy by. remarks: what a reader has to know to read the figures right. energy_remedy: what to do about
    episodes without energy; None where nobody asked for it.
    """

    path: Path
    samples: Sequence[StepSample]
    group_size: int
    temperature: float
    model: str
    checkpoint: int | None
    remarks: Sequence[str]
    energy_remedy: str | None


def run_source(run: RunFolder, step: int | None = None) -> Source:
    """The kept episodes of a run; see `read_samples`, whose errors it raises."""
    samples = read_samples(run, step)
    return Source(
        path=run.path,
        samples=samples,
        group_size=whole_group_size(run, samples),
        temperature=float(setting(run, "actor_rollout_ref.rollout.temperature", 1.0)),
        model=str(run.path),
        checkpoint=None,
        remarks=_remarks(run),
        energy_remedy="train with credit=actfocus or run.diagnose=true",
    )


def _remarks(run: RunFolder) -> list[str]:
    remarks = []
    if setting(run, "filter.name", "none") not in ("none", "soft_reweight"):
        remarks.append(
            f"filter={setting(run, 'filter.name')} dropped groups before they were kept: these are not a "
            "representative sample, and correlations over a selected range differ"
        )
    if setting(run, "credit.name") == "empg":
        remarks.append("this run's advantages include EMPG's additive term; every weighting is applied to these")
    return remarks


def read_samples(run: RunFolder, step: int | None = None) -> list[StepSample]:
    """The kept episodes of one step, or of every step that has some, in order.

    Raises:
        ConfigurationError: the run kept none, or none of that step; or a record lacks a required key, has
            columns of different lengths, or a number that is not finite at a response token.
    """
    steps = run.rollout_steps() if step is None else [step]
    samples = []
    for number in steps:
        records = run.rollouts(number)
        if records:
            samples.append(step_sample(rollouts_file(run.path, number), number, records))
    if not samples:
        raise ConfigurationError(
            "run",
            str(run.path),
            "kept no episodes",
            "Train with run.rollouts_a_step >= 1, and run.rollouts_every at most the number of steps",
        )
    return samples


def step_sample(file: Path, step: int, records: Sequence[Record]) -> StepSample:
    """The records of one step, of which `file` is named in errors.

    Raises ConfigurationError for records that lack a column or whose columns differ in length, and for a number that is
    not finite at a response token.
    """
    for number, record in enumerate(records, start=1):
        _check_record(file, number, record)
    names = [name for name in _TOKEN_COLUMNS if all(name in record for record in records)]
    columns = {name: pad_sequence([_row(name, record) for record in records], batch_first=True) for name in names}
    try:
        columns["token_roles"] = response_roles(columns)
    except ValueError as error:
        raise _damaged(file, str(error)) from error
    response = columns["token_roles"] != TokenRole.ENVIRONMENT
    for name in names:
        wrong = response & ~torch.isfinite(columns[name])
        if bool(wrong.any()):
            row = int(wrong.any(dim=1).nonzero()[0, 0])
            raise _damaged(file, f"episode {row + 1} has a {name} that is not finite at a response token")
    return StepSample(
        step=step,
        columns=columns,
        returns=torch.tensor([float(record["return"]) for record in records], dtype=torch.float64),
        groups=[str(record["group"]) for record in records],
        prompts=[list(record["prompt_ids"]) for record in records],
        sessions=_numbers("session", records),
        strata=_numbers("stratum", records),
    )


def _numbers(name: str, records: Sequence[Record]) -> list[int] | None:
    """One whole number a record; None where some have none."""
    return [int(record[name]) for record in records] if all(name in record for record in records) else None


def _check_record(file: Path, number: int, record: Record) -> None:
    missing = [name for name in _REQUIRED if name not in record]
    if missing:
        raise _damaged(file, f"episode {number} lacks {', '.join(missing)}")
    if not isinstance(record["return"], int | float) or not math.isfinite(record["return"]):
        raise _damaged(file, f"episode {number} has the return {record['return']!r}")
    columns = {name: record[name] for name in (*_TOKEN_COLUMNS, "prompt_ids") if name in record}
    for name, values in columns.items():
        if not isinstance(values, list):
            raise _damaged(file, f"episode {number} has a {type(values).__name__} as {name}, not a list")
        if name != "prompt_ids" and len(values) != len(record["responses"]):
            problem = f"episode {number} has {len(values)} {name} for {len(record['responses'])} tokens"
            raise _damaged(file, problem)


def _row(name: str, record: Record) -> Tensor:
    dtype = _TOKEN_COLUMNS[name]
    if not dtype.is_floating_point:
        return torch.tensor(record[name], dtype=dtype)
    return torch.tensor([math.nan if value is None else value for value in record[name]], dtype=dtype)


def _damaged(file: Path, problem: str) -> ConfigurationError:
    return ConfigurationError("file", str(file), problem, "Remove the file, and report how it came about")


def setting(run: RunFolder, path: str, default: Any = None) -> Any:
    """A dotted key of the run's configuration, or the default if it is missing."""
    value: Any = run.config
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            return default
        value = value[key]
    return value


def whole_group_size(run: RunFolder, samples: Sequence[StepSample]) -> int:
    """Episodes of a complete prompt group: from the run's configuration, else the largest group here."""
    configured = setting(run, "actor_rollout_ref.rollout.n")
    if isinstance(configured, int):
        return configured
    return max(max(Counter(group for group, _ in sample.episodes).values()) for sample in samples)
