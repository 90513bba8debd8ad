"""A run's estimated time: from finished runs of its cell, else of its world, else from the matrix's guess."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from actfocus_verl.reproduction.composition import Composition
from actfocus_verl.reproduction.matrix import CostGuess, Experiment
from actfocus_verl.reproduction.summary import Summary


@dataclass(frozen=True)
class Estimate:
    """Estimated seconds of a run, and their source."""

    seconds: float
    basis: str


def estimate(
    experiment: Experiment, composition: Composition, finished: Sequence[Summary], guess: CostGuess
) -> Estimate | None:
    """Estimate a run's seconds from start to end; None if nothing is known about its world.

    The mean of the cell's finished runs; else that of the runs of the same world, algorithm and platform, in proportion
    to the episodes played; else the matrix's guess. Interrupted runs are ignored: they repeated work.
    """
    whole = [each for each in finished if each["cost"]["starts"] == 1 and each["cost"]["starts_without_end"] == 0]
    own = [each["cost"]["seconds"] for each in whole if each["experiment"] == experiment.name]
    if own:
        return Estimate(mean(own), f"{len(own)} finished")
    alike = [each for each in whole if _kind(each["settings"]) == _kind_of(composition)]
    if alike:
        rate = mean(each["cost"]["seconds"] / _episodes(each) for each in alike)
        return Estimate(rate * _planned_episodes(composition), f"{len(alike)} alike")
    world = composition.world
    if world not in guess.episode or world not in guess.board:
        return None
    played = composition.steps * composition.episodes_a_step
    evaluated = composition.evaluations * composition.evaluation_episodes
    seconds = guess.start + played * guess.episode[world] + evaluated * guess.board[world]
    return Estimate(seconds, "guess")


def total(estimates: Iterable[Estimate | None]) -> float | None:
    """Total seconds; None if one is unknown."""
    known = list(estimates)
    seconds = [each.seconds for each in known if each is not None]
    return sum(seconds) if len(seconds) == len(known) else None


def _kind(settings: dict[str, Any]) -> tuple[Any, ...]:
    return settings["env"]["name"], settings["algorithm_name"], settings["platform.name"], "tiny_policy" in settings


def _kind_of(composition: Composition) -> tuple[Any, ...]:
    config = composition.config
    return composition.world, composition.algorithm, config["platform"]["name"], "tiny_policy" in config


def _episodes(summary: Summary) -> float:
    """Episodes played, in training and in all evaluations."""
    settings = summary["settings"]
    a_step = settings["data.train_batch_size"] * settings["actor_rollout_ref.rollout.n"]
    return float(len(summary["metrics"]["step"]) * a_step + sum(each["episodes"] for each in summary["evaluations"]))


def _planned_episodes(composition: Composition) -> float:
    trained = composition.steps * composition.episodes_a_step
    return float(trained + composition.evaluations * composition.evaluation_episodes)
