"""verl's agent loop for forked rollouts: a prompt's episodes wait for each other, and start where one was uncertain.

verl hands all rows of a prompt to one agent-loop worker, which runs them side by side in one event loop. So they can
meet in that process, and each stays an ordinary row with its own session number.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from verl.experimental.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.agent_loop import register

from actfocus_verl.environments.protocol import RewardError
from actfocus_verl.integration.agent_loop import EpisodeAgentLoop, ServerPolicy, to_output
from actfocus_verl.integration.columns import FORK, MISMATCH
from actfocus_verl.integration.dataset import FORKED_AGENT_NAME
from actfocus_verl.rollout import (
    ForkedGroup,
    ForkPoint,
    PlayedEpisode,
    ReplayMismatchError,
    beside_loop,
    waiting_elsewhere,
)

logger = logging.getLogger(__name__)

_groups: dict[str, ForkedGroup] = {}
"""The prompts this worker is playing, by uid."""


@register(FORKED_AGENT_NAME)
class ForkedAgentLoop(EpisodeAgentLoop):
    """Plays one episode of a prompt group: one of `rollout.roots` from the beginning, or a fork."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        """Play the episode of row (`split`, `index`), session `session_id` of the group `uid`."""
        uid, session = str(kwargs["uid"]), int(kwargs["session_id"])
        settings = self.config.rollout
        group = _groups.setdefault(uid, ForkedGroup(roots=settings.roots, wave=settings.wave))
        policy = self.policy(sampling_params)
        played = None
        try:
            with waiting_elsewhere():
                point = await group.fork_point(session)
            played, fork, stratum = await self._play(policy, point, kwargs)
        except RewardError as error:
            return self.without_reward(error, kwargs, policy)
        finally:
            if group.settle(session, played) == self.rollout_config.n:
                del _groups[uid]
        output = to_output(played.trajectory, policy, stratum, self.feedback(played.trajectory))
        output.extra_fields["reward_extra_info"][FORK] = float(fork)
        return output

    async def _play(
        self, policy: ServerPolicy, point: ForkPoint | None, row: Mapping[str, Any]
    ) -> tuple[PlayedEpisode, int, int]:
        """The episode, its entry FORK, and the stratum of its board.

        If the replay fails, it is played from the beginning: the row is needed.
        """
        seed, mismatch = self.episode_seed(row), False
        if point is not None:
            try:
                episode, context = await beside_loop(
                    self.slow, point.replay, lambda first_seed: self.episode(row, first_seed), seed
                )
                trajectory = await episode.play_on(policy, context)
                return PlayedEpisode(trajectory, point.seeds(seed), forked=True), point.turn, episode.world.stratum()
            except ReplayMismatchError as error:
                mismatch = True
                logger.warning("a fork of %s/%s is played from the beginning: %s", row["split"], row["index"], error)
        episode = await beside_loop(self.slow, self.episode, row, seed)
        trajectory = await episode.play(policy)
        fork = MISMATCH if mismatch else 0
        return PlayedEpisode(trajectory, ((0, seed),)), fork, episode.world.stratum()


def fork_metrics(infos: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Metrics of a step's forks, from `reward_extra_info`: their share, turns replayed, failed replays."""
    turns = np.array([info[FORK] for info in infos if FORK in info])
    if not len(turns):
        return {}
    return {
        "rollout/forked": float((turns > 0).mean()),
        "rollout/replayed_turns": float(turns.clip(min=0).mean()),
        "rollout/replay_mismatches": float((turns == MISMATCH).sum()),
    }
