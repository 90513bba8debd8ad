"""Non-finite rewards: from a reward function, a judge, a world or an agent loop, in training and validation.

One NaN makes the advantages of its whole prompt group NaN, and the loss with them, and verl then silently skips the
update. So the step ends here with an error that counts and locates them; or, with `run.drop_nonfinite=true`, goes on
without their groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from actfocus_verl.checks import finite_number
from actfocus_verl.columns import TURN_REWARDS
from actfocus_verl.config import DROP_NONFINITE, has_world
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.columns import NO_NUMBER, conversation_rows, group_and_session, plain
from actfocus_verl.integration.loop_output import name_no_number

_SHOWN = 3
"""Rows, data sources and values listed in a message."""


class CheckedRewards:
    """A reward worker's handle, as verl's agent loops use it: what is not a number comes back as NaN, and is named.

    verl puts the score into a float tensor where the episode ends. A text is an error there, in a worker's log, and
    None makes a row without a score.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @property
    def compute_score(self) -> CheckedRewards:
        """verl calls `handle.compute_score.remote(data)`."""
        return self

    async def remote(self, data: Any) -> dict[str, Any]:
        """The worker's result for an episode."""
        result: dict[str, Any] = await self._handle.compute_score.remote(data)
        given = result["reward_score"]
        if finite_number(given) is not None:
            return result
        return name_no_number(result, given) | {"reward_score": float("nan")}


def unusable_rewards(data: TensorDict) -> dict[int, str]:
    """Return the rows with a non-finite score or turn reward, each with the value given."""
    scores = [row.sum() for row in data["rm_scores"].unbind()]
    found = {row: f"{float(score)}" for row, score in enumerate(scores) if not bool(torch.isfinite(score))}
    if TURN_REWARDS in data.keys():  # noqa: SIM118  (a TensorDict iterates over rows)
        for row, rewards in enumerate(data[TURN_REWARDS].unbind()):
            wrong = rewards[~torch.isfinite(rewards)]
            if wrong.numel():
                found.setdefault(row, f"{float(wrong[0])} in {TURN_REWARDS}")
    for row in found:
        info = plain(data["extra_fields"][row]).get("reward_extra_info") or {}
        found[row] = info.get(NO_NUMBER) or found[row]
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Validation:
    """The episodes of an evaluation as verl collects them; lists have one entry per episode."""

    data_sources: list[str]
    uids: list[str]
    infos: Mapping[str, list[Any]]
    """`reward`, and the other values that episodes report."""
    turns: list[int]
    expected: dict[tuple[str, str], int] | None
    """(data source, uid) -> episodes; verl counts a missing one as a failure."""

    def only(self, rows: Sequence[int]) -> Validation:
        """These episodes, and the expected counts of their prompts."""
        sources, uids = ([names[row] for row in rows] for names in (self.data_sources, self.uids))
        infos = {key: [values[row] for row in rows] for key, values in self.infos.items() if key != NO_NUMBER}
        expected = self.expected and {key: count for key, count in self.expected.items() if key[1] in set(uids)}
        return Validation(sources, uids, infos, [self.turns[row] for row in rows], expected)


class RewardCheck:
    """Ends a step, or drops prompt groups from it. drops: `run.drop_nonfinite`."""

    def __init__(self, config: Any, *, drops: bool) -> None:
        self.drops = drops
        self._source = _source(config)

    def training(self, batch: KVBatchMeta, data: TensorDict, step: int) -> tuple[KVBatchMeta, dict[str, float]]:
        """Return the batch without the groups with a non-finite reward (removed from the queue), and their count.

        Args:
            data: `rm_scores`, `extra_fields` and, where there are some, `turn_rewards` of the batch's rows.

        Raises:
            ConfigurationError: there is such a reward and groups are not to be dropped; or nothing would be left.
        """
        found = unusable_rewards(data)
        bad = {group_and_session(batch.keys[row])[0] for row in found}
        episodes = {group_and_session(batch.keys[row]): row for row in found}
        metrics = {}
        if self.drops:
            metrics = {"reward/nonfinite_episodes": float(len(episodes)), "reward/dropped_groups": float(len(bad))}
        kept = [key for key in batch.keys if group_and_session(key)[0] not in bad]
        if found and (not self.drops or not kept):
            keys = [batch.keys[row] for row in episodes.values()]
            self._refuse(
                f"{len(episodes)} of {len(conversation_rows(batch.keys))} episodes of step {step}",
                [found[row] for row in episodes.values()],
                keys,
                _data_sources(tq.kv_batch_get(keys, batch.partition_id, ["data_source", "uid"])),
                nothing_left=not kept,
            )
        if found:
            dropped = [key for key in batch.keys if group_and_session(key)[0] in bad]
            tq.kv_clear(keys=dropped, partition_id=batch.partition_id)
            batch = batch.select_keys(kept)
        return batch, metrics

    def validation(self, played: Validation, step: int) -> tuple[Validation, dict[str, float]]:
        """Return the evaluation without the prompts with a non-finite reward, and the number of episodes left out.

        Raises ConfigurationError as `training`.
        """
        named = played.infos.get(NO_NUMBER) or [None] * len(played.uids)
        found = {
            row: str(named[row] or float(reward))
            for row, reward in enumerate(played.infos["reward"])
            if finite_number(reward) is None
        }
        bad = {played.uids[row] for row in found}
        kept = [row for row, uid in enumerate(played.uids) if uid not in bad]
        if found and (not self.drops or not kept):
            self._refuse(
                f"{len(found)} of {len(played.uids)} episodes of the evaluation at step {step}",
                list(found.values()),
                [played.uids[row] for row in found],
                sorted({played.data_sources[row] for row in found}),
                nothing_left=not kept,
            )
        left_out = float(len(played.uids) - len(kept))
        return played.only(kept), {"val-aux/nonfinite_episodes": left_out} if self.drops else {}

    def _refuse(
        self, which: str, given: Sequence[str], keys: Sequence[str], data_sources: Sequence[str], *, nothing_left: bool
    ) -> None:
        values = Counter(given).most_common(_SHOWN)
        problem = (
            f"{which} have a reward that is not a finite number ({', '.join(f'{n} x {text}' for text, n in values)}), "
            f"from {self._source}; data source {_some(data_sources)}; rows {_some(keys)}"
        )
        remedy = "Let it give a finite number for every episode"
        if self.drops:
            problem += "; every prompt group has one, so nothing is left"
        elif not nothing_left:
            remedy += f", or set {DROP_NONFINITE}=true to drop the prompt groups of such episodes"
        raise ConfigurationError(DROP_NONFINITE, self.drops, problem, remedy)


def _source(config: Any) -> str:
    """Where a run's rewards come from, as far as the configuration tells."""
    path = OmegaConf.select(config, "reward.custom_reward_function.path")
    if path:
        name = OmegaConf.select(config, "reward.custom_reward_function.name", default="compute_score")
        return f"the reward function {path}:{name}"
    if OmegaConf.select(config, "reward.reward_model.enable", default=False):
        return f"the reward model {OmegaConf.select(config, 'reward.reward_model.model_path')}"
    if has_world(config):
        return f"the world {config.env.name}"
    return "the agent loop, or verl's reward function for the data source"


def _data_sources(rows: TensorDict) -> list[str]:
    if "data_source" not in rows.keys():  # noqa: SIM118  (a TensorDict iterates over rows)
        return ["unknown"]
    return sorted({str(plain(rows["data_source"][row])) for row in range(len(rows))})


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
