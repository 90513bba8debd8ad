"""The diagnostic while a run trains: what a step logs and keeps, on verl's own engine. No Ray, no vLLM."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from actfocus_verl.errors import ConfigurationError
from tests.helpers.queue import LocalQueue
from tests.helpers.trainer import SECONDS, MakeTrainer, to_advantages
from tests.integration.test_trainer import slow_energies

Rows = dict[str, dict[str, Any]]

DIAGNOSED = ("credit=uniform", "run.diagnose=true", "actor_rollout_ref.actor.use_kl_loss=true")
RETURNS = {"a": (1.0, 0.0), "b": (0.25, 0.5), "c": (0.5, 0.5)}
"""Three groups of two, whose returns differ much, little, and not at all."""
ROLES = {"all": (1, 2, 3), "reasoning": (1,), "action": (2,)}


@pytest.fixture
def pairs(rows: Rows) -> Rows:
    """The six episodes in three groups, with a token of every role in each."""
    columns = iter(rows.values())
    found = {}
    for group, returns in RETURNS.items():
        for session, value in enumerate(returns):
            row = next(columns)
            row["uid"] = group
            row["rm_scores"] = torch.zeros(len(row["responses"]))
            row["rm_scores"][-1] = value
            row["token_roles"][:3] = torch.tensor([1, 2, 3]) * row["response_mask"][:3]
            found[f"{group}_{session}_0"] = row
    return dict(reversed(found.items()))


def slow_correlations(rows: Rows, folder: Path) -> dict[str, float]:
    """Means of each group's energies a token at a time, and scipy's rho of them and the spread of its returns."""
    spreads = [statistics.stdev(returns) for returns in RETURNS.values()]
    found = {}
    for part, wanted in ROLES.items():
        means = []
        for group in RETURNS:
            energies = [
                energy
                for session in (0, 1)
                for row in [rows[f"{group}_{session}_0"]]
                for energy, role in zip(slow_energies(folder, row), row["token_roles"].tolist(), strict=True)
                if role in wanted
            ]
            means.append(statistics.fmean(energies))
        found[f"diagnose/spearman_{part}"] = float(spearmanr(means, spreads).statistic)
    return found


def test_a_step_logs_the_correlations_whatever_the_weighting(
    make_trainer: MakeTrainer, queue: LocalQueue, pairs: Rows, model_folder: Path
) -> None:
    expected = slow_correlations(pairs, model_folder)
    for overrides in (DIAGNOSED, ("credit=actfocus", "run.diagnose=true")):
        batch, metrics = to_advantages(make_trainer(*overrides), queue.fill(pairs))
        assert sum(bool(tag.get("is_padding")) for tag in batch.tags) == 2  # clones of a row: of no group
        found = {name: value for name, value in metrics.items() if name.startswith("diagnose/")}
        assert found == pytest.approx(expected | {"diagnose/groups": 3.0})


def test_it_is_off_by_default_and_changes_no_weight(make_trainer: MakeTrainer, queue: LocalQueue, pairs: Rows) -> None:
    weights, logged = [], []
    for overrides in (("credit=uniform",), DIAGNOSED):
        _, metrics = to_advantages(make_trainer(*overrides), queue.fill(pairs))
        weights.append({key: queue.rows[key]["token_weights"] for key in pairs})
        logged.append(any(name.startswith("diagnose/") for name in metrics))
    assert logged == [False, True]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in pairs)


def test_what_the_command_reads_is_kept(
    make_trainer: MakeTrainer, queue: LocalQueue, pairs: Rows, tmp_path: Path
) -> None:
    trainer = make_trainer(*DIAGNOSED)
    batch, metrics = to_advantages(trainer, queue.fill(pairs))
    trainer._note_played(batch, metrics)
    trainer._compute_metrics(batch, metrics, SECONDS, global_steps=1, epoch=0)
    for line in (tmp_path / "rollouts" / "1.jsonl").read_text().splitlines():
        kept = json.loads(line)
        row = queue.rows[f"{kept['group']}_{kept['session']}_0"]
        for name in ("energy", "entropy", "old_log_probs", "ref_log_prob", "advantages", "token_weights"):
            assert kept[name] == pytest.approx(row[name].tolist(), abs=1e-6), name


def test_it_needs_a_reference(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ConfigurationError, match=r"run.diagnose=True: needs the energy of a frozen reference"):
        make_trainer("credit=uniform", "run.diagnose=true")
