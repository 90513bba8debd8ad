"""verl's agent loop around an episode: a policy that asks verl's LLM server, and the trajectory in verl's columns."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property, lru_cache
from typing import Any
from uuid import uuid4

import numpy as np
from verl.experimental.agent_loop import AgentLoopBase, AgentLoopOutput
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, register

from actfocus_verl.config import needs_answers, needs_feedback, template_options, world_overrides
from actfocus_verl.environments import is_slow, make_world, world_config
from actfocus_verl.environments.protocol import RewardError
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.files import json_text
from actfocus_verl.integration.columns import NO_NUMBER, OUTCOME_PREFIX
from actfocus_verl.integration.dataset import AGENT_NAME
from actfocus_verl.integration.loop_output import TokenColumnsOutput
from actfocus_verl.integration.sampling import reply_sampling
from actfocus_verl.rollout import ChatCodec, Episode, Reply, Trajectory, beside_loop, feedback_columns, probe_columns


class ServerPolicy:
    """The rollout room's policy on verl's LLM server client: token ids in, sampled ids out."""

    def __init__(self, server_manager: Any, sampling_params: dict[str, Any]) -> None:
        self._server = server_manager
        self._sampling_params = sampling_params
        # One id an episode keeps its turns on one server, whose prefix cache then holds the context.
        self._request_id = uuid4().hex
        self.seconds = 0.0
        self.weight_versions: list[int] = []

    async def generate(self, prompt_ids: list[int], *, max_new_tokens: int) -> Reply:
        started = time.perf_counter()
        output = await self._server.generate(
            request_id=self._request_id,
            prompt_ids=prompt_ids,
            sampling_params={**self._sampling_params, "max_tokens": max_new_tokens},
        )
        self.seconds += time.perf_counter() - started
        self.weight_versions.extend(
            version
            for version in (output.extra_fields.get("min_global_steps"), output.extra_fields.get("max_global_steps"))
            if version is not None
        )
        return Reply(list(output.token_ids), output.log_probs, "abort" if output.stop_reason == "aborted" else "stop")


@register(AGENT_NAME)
class EpisodeAgentLoop(AgentLoopBase):
    """Plays one episode of `config.env` on the board that the dataset row names."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        """Play the episode of row (`split`, `index`), rollout `session_id` of its group."""
        policy = self.policy(sampling_params)
        episode = await beside_loop(self.slow, self.episode, kwargs, self.episode_seed(kwargs))
        try:
            trajectory = await episode.play(policy)
        except RewardError as error:
            return self.without_reward(error, kwargs, policy)
        probes = self._probes(trajectory, episode.world.limits.max_turn_tokens) if self.asks_answers else {}
        return to_output(trajectory, policy, episode.world.stratum(), probes | self.feedback(trajectory))

    @cached_property
    def asks_answers(self) -> bool:
        """Whether the run's methods need probes for known answers; cached, since finding out builds their specs."""
        return needs_answers(self.config)

    @cached_property
    def gives_feedback(self) -> bool:
        """Whether the run's methods score replies with feedback in their prompt; cached likewise."""
        return needs_feedback(self.config)

    @property
    def slow(self) -> bool:
        """Whether the world is made and played in a thread beside the event loop."""
        return is_slow(self.config.env.name)

    @cached_property
    def codec(self) -> ChatCodec:
        """The tokenizer's chat format, read off its template with verl's `data.apply_chat_template_kwargs`."""
        options = json_text(template_options(self.data_config))
        env = self.config.env
        opening = world_config(env.name, preset=env.preset, **world_overrides(env)).limits().opening
        return _codec(self.tokenizer, opening, str(self.tokenizer.chat_template), options)

    def policy(self, sampling_params: dict[str, Any]) -> ServerPolicy:
        """A policy whose replies end where the chat template ends a turn, whatever other end tokens the model has."""
        params = reply_sampling(sampling_params, [self.codec.end_of_turn_id], self.config)
        return ServerPolicy(self.server_manager, params)

    def _probes(self, trajectory: Trajectory, max_turn_tokens: int) -> dict[str, list[int]]:
        """Columns of the probes before each turn, where an estimator needs them."""
        probes = probe_columns(self.codec, trajectory.known_answers, trajectory.turn_starts)
        require_room(max(probes["probe_lengths"]), max_turn_tokens)
        return probes

    def feedback(self, trajectory: Trajectory) -> dict[str, list[int]]:
        """Columns of the contexts with feedback, where a method needs them."""
        if not self.gives_feedback:
            return {}
        lengths = [len(reply.token_ids) for reply in trajectory.replies]
        return feedback_columns(trajectory.informed, lengths, max_tokens=self._context)

    @property
    def _context(self) -> int:
        return int(self.rollout_config.prompt_length + self.rollout_config.response_length)

    def without_reward(self, error: RewardError, row: Mapping[str, Any], policy: ServerPolicy) -> TokenColumnsOutput:
        """A row without tokens whose return is NaN, for the trainer to refuse or drop with its group."""
        versions = policy.weight_versions
        return TokenColumnsOutput(
            prompt_ids=self.episode(row, self.episode_seed(row)).start(),
            response_ids=[],
            response_mask=[],
            response_logprobs=[],
            reward_score=float("nan"),
            num_turns=0,
            metrics=AgentLoopMetrics(generate_sequences=policy.seconds),
            extra_fields={
                "min_global_steps": min(versions) if versions else None,
                "max_global_steps": max(versions) if versions else None,
                "reward_extra_info": {NO_NUMBER: error.given},
            },
            token_roles=[],
            turn_ids=[],
            turn_rewards=[],
            anchors=[],
            next_anchors=[],
            states=[],
            replayed=[],
        )

    def episode_seed(self, row: Mapping[str, Any]) -> int:
        """The random seed of the row's episode."""
        session, step = int(row.get("session_id", 0)), int(row.get("global_steps", 0))
        return episode_seed(int(self.config.env.seed), row["split"], step, session)

    def episode(self, row: Mapping[str, Any], seed: int) -> Episode:
        """A fresh episode on the row's board, its randomness drawn from `seed`."""
        env = self.config.env
        world = make_world(
            env.name,
            preset=env.preset,
            split=row["split"],
            index=int(row["index"]),
            episode_seed=seed,
            **world_overrides(env),
        )
        return Episode(
            world,
            self.codec,
            max_context_tokens=self._context,
            max_response_tokens=self.rollout_config.response_length,
            ask_answers=self.asks_answers,
            give_feedback=self.gives_feedback,
        )


@lru_cache(maxsize=1)
def _codec(tokenizer: Any, opening: str, template: str, options: str) -> ChatCodec:
    """One for all episodes of a worker: with a vocabulary of 150,000 tokens it takes a third of a second to build.

    template: the tokenizer's, which may be replaced. options: a JSON object.
    """
    return ChatCodec(tokenizer, opening, **json.loads(options))


def episode_seed(seed: int, split: str, step: int, session: int) -> int:
    """Random seed of an episode: different for each group member and training step, the same in every evaluation."""
    step_part = step if split == "train" else 0
    return int(np.random.SeedSequence([seed, step_part, session]).generate_state(1, np.uint64)[0] >> 1)


def require_room(longest: int, max_turn_tokens: int) -> None:
    """Raise ConfigurationError if a forced answer is longer than a reply, for which the context has room."""
    if longest > max_turn_tokens:
        raise ConfigurationError(
            "env.max_turn_tokens",
            max_turn_tokens,
            f"the known answer takes {longest} tokens with its opening, more than a reply may have",
            f"Raise it to at least {longest}",
        )


def to_output(
    trajectory: Trajectory, policy: ServerPolicy, stratum: int, probes: dict[str, list[int]] | None = None
) -> TokenColumnsOutput:
    """Return the trajectory as verl's output. The scalar reward is the episode return, on the last token.

    stratum: `World.stratum` of its board, for the record of the run.
    """
    versions = policy.weight_versions
    return TokenColumnsOutput(
        prompt_ids=trajectory.prompt_ids,
        response_ids=trajectory.response_ids,
        response_mask=trajectory.response_mask,
        response_logprobs=trajectory.log_probs,
        reward_score=trajectory.episode_return,
        num_turns=trajectory.turns,
        metrics=AgentLoopMetrics(generate_sequences=policy.seconds),
        extra_fields={
            "min_global_steps": min(versions) if versions else None,
            "max_global_steps": max(versions) if versions else None,
            "texts": [asdict(text) for text in trajectory.texts],
            "final_state": trajectory.final_state,
            "stratum": stratum,
            "reward_extra_info": {
                "success": float(trajectory.success),
                "turns": float(trajectory.turns),
                "valid_action_rate": trajectory.valid_turns / max(trajectory.turns, 1),
                "stop_reason": trajectory.stop_reason.value,
                **{f"{OUTCOME_PREFIX}{name}": value for name, value in trajectory.outcome.items()},
            },
        },
        token_roles=[int(role) for role in trajectory.token_roles],
        turn_ids=trajectory.turn_ids,
        turn_rewards=trajectory.turn_rewards,
        anchors=trajectory.anchors,
        next_anchors=trajectory.next_anchors,
        probes=probes or None,
        states=trajectory.states,
        replayed=[int(turn < trajectory.replayed) for turn in range(trajectory.turns)],
    )
