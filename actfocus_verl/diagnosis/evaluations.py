"""The episodes of an evaluation, and the energy that a frozen reference gives their tokens: inference only.

Before training the reference is the policy itself (App. B: the model that training starts from), so an evaluation on
training boards at the training temperature, several episodes a board, is the paper's diagnostic before training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from actfocus_verl.credit.signals import ENERGY, energy
from actfocus_verl.diagnosis.samples import Source, step_sample
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.episodes import EpisodeKey, EpisodeRecord
from actfocus_verl.evaluation.folder import EPISODES_FILE, read_finished
from actfocus_verl.files import append_json
from actfocus_verl.reporting.run_folder import Record
from actfocus_verl.run_files import kept_lines

ENERGY_FILE: Final = "energy.jsonl"
"""The model on the first line, then the energies of an episode a line, in the folder of the diagnosis."""

Energies = dict[EpisodeKey, list[float]]


class EvaluationEpisodes:
    """The episodes of a finished evaluation that kept its rollouts; equal boards form a prompt group.

    Raises ConfigurationError for a folder that is not such an evaluation.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.settings, self.records = read_finished(folder)
        if any(record.rollout is None for record in self.records):
            remedy = "Evaluate again with rollouts=true, into another folder"
            raise ConfigurationError("evaluation", str(folder), "kept no token ids", remedy)

    def source(self, energies: Energies | None) -> Source:
        """What is diagnosed: one step, 0, with the energies where they were computed.

        An evaluation has no advantages. They are 1, so that gradient mass is the share of the weights alone, which is
        what the paper's Fig. 1 shows.
        """
        records = [_as_rollout(record, energies) for record in sorted(self.records, key=lambda record: record.key)]
        return Source(
            path=self.path,
            samples=[step_sample(self.path / EPISODES_FILE, 0, records)],
            group_size=int(self.settings["repeats"]),
            temperature=float(self.settings["temperature"]) or 1.0,
            model=str(self.settings["model"]),
            checkpoint=self.settings["step"],
            remarks=["an evaluation has no advantages: |A| is 1, and gradient mass is the share of the weights alone"],
            energy_remedy=None,
        )


def _as_rollout(record: EpisodeRecord, energies: Energies | None) -> Record:
    """The record with the keys of a run's rollouts."""
    columns: dict[str, Any] = dict(record.rollout or {})
    columns["advantages"] = [1.0] * len(columns["responses"])
    if energies is not None:
        columns[ENERGY] = energies[record.key]
    return columns | {
        "group": f"board {record.board:06d}",  # sorted as text in the order of boards
        "session": record.repeat,
        "return": record.episode_return,
        "stratum": record.stratum,
    }


class EnergyFile:
    """The energies that were computed so far, an episode a line, so that an interrupted pass goes on where it ended.

    model: what tells one reference from another; mixing two would mix two scales.
    Raises ConfigurationError when the file holds the energies of another model.
    """

    def __init__(self, folder: Path, model: Mapping[str, Any]) -> None:
        self._path = folder / ENERGY_FILE
        self.energies: Energies = {}
        lines = [dict(json.loads(line)) for line in kept_lines(self._path)]
        if not lines:
            append_json(self._path, {"model": dict(model)})
        elif lines[0].get("model") != dict(model):
            problem = f"{self._path} holds the energies of {lines[0].get('model')}"
            raise ConfigurationError("model", dict(model), problem, "Name another folder with out=")
        for line in lines[1:]:
            self.energies[EpisodeKey(line["board"], line["repeat"])] = line[ENERGY]

    def append(self, key: EpisodeKey, energies: list[float]) -> None:
        """Keep those of one episode."""
        self.energies[key] = energies
        append_json(self._path, {"board": key.board, "repeat": key.repeat, ENERGY: energies})


@torch.no_grad()
def response_energy(model: torch.nn.Module, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> list[float]:
    """E_t = -logsumexp(f_t) (Eq. 4) at each response token, f_t being the raw logits that predict it.

    One forward pass over the episode.

    Args:
        prompt_ids: P of them, at least one.
        response_ids: T of them.

    Returns:
        T numbers, rounded to six digits after the point.
    """
    if not response_ids:
        return []
    device = next(model.parameters()).device
    ids = torch.tensor([[*prompt_ids, *response_ids]], device=device)
    logits_TV = model(input_ids=ids[:, :-1], use_cache=False, logits_to_keep=len(response_ids)).logits[0]
    return [round(value, 6) for value in energy(logits_TV).tolist()]
