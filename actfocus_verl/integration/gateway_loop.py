"""verl's agent loop around an agent of the user's, which talks to the policy through the gateway.

Each chain of the conversation is a row (`gateway.chains`), and each has the conversation's reward. Everything that
compares episodes counts the conversation once (`integration.columns`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from verl.experimental.agent_loop import AgentLoopBase, AgentLoopOutput
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, register

from actfocus_verl.config import section
from actfocus_verl.gateway import Chain, Gateway, Limits, Outcome, Sampled, Sampling, Session, build_agent
from actfocus_verl.gateway.agents import FINISHED
from actfocus_verl.gateway.settings import AgentSettings
from actfocus_verl.integration.columns import OUTCOME_PREFIX, TURN_CALLS
from actfocus_verl.integration.dataset import GATEWAY_AGENT_NAME, TASK
from actfocus_verl.integration.episode_notes import note_episode
from actfocus_verl.integration.gateway_tokens import VerlTokens
from actfocus_verl.integration.loop_output import TokenColumnsOutput
from actfocus_verl.integration.sampling import reply_sampling

LOG_FILE: Final = "agents.jsonl"
"""In the run's folder: what went wrong in agents, and what commands printed."""

_LOGGER: Final = logging.getLogger(__name__)
_OF_VERL: Final = ("raw_prompt", "uid", "session_id", "global_steps", "agent_name", "tools_kwargs", "index", "priority")
_gateways: WeakKeyDictionary[asyncio.AbstractEventLoop, Awaitable[Gateway]] = WeakKeyDictionary()
_build_agent = functools.lru_cache(maxsize=8)(build_agent)


class _Engine:
    """Samples for one session through verl's client, and remembers the versions of the weights."""

    def __init__(
        self, server_manager: Any, sampling_params: Mapping[str, Any], stop_token_ids: list[int], config: Any
    ) -> None:
        self._server = server_manager
        self._params, self._ends, self._config = sampling_params, stop_token_ids, config
        self.versions: list[int] = []

    async def generate(self, name: str, prompt_ids: list[int], max_tokens: int, stop: tuple[str, ...]) -> Sampled:
        """See `gateway.session.Generate`."""
        params = {**self._params, "max_tokens": max_tokens}
        if stop:
            params["stop"] = list(stop)
        params = reply_sampling(params, self._ends, self._config)
        output = await self._server.generate(request_id=name, prompt_ids=prompt_ids, sampling_params=params)
        versions = (output.extra_fields.get(key) for key in ("min_global_steps", "max_global_steps"))
        self.versions.extend(version for version in versions if version is not None)
        return Sampled(list(output.token_ids), output.log_probs or None)

    def span(self) -> dict[str, int | None]:
        """The versions in verl's fields."""
        found = self.versions
        return {
            "min_global_steps": min(found) if found else None,
            "max_global_steps": max(found) if found else None,
        }


@register(GATEWAY_AGENT_NAME)
class GatewayAgentLoop(AgentLoopBase):
    """Plays one conversation of `agent.function` or `agent.command` on the task of the dataset's row."""

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> list[AgentLoopOutput]:
        """Play the conversation. Raises what the rollout engine raised; what the agent raised makes it unfinished."""
        settings = AgentSettings.of(section(self.config, "agent"))
        tokens = VerlTokens(self, str(self.rollout_config.multi_turn.format))
        engine = _Engine(self.server_manager, sampling_params, tokens.stop_token_ids, self.config)
        session = Session(
            tokens,
            engine.generate,
            Limits(
                context=int(self.rollout_config.prompt_length + self.rollout_config.response_length),
                response=int(self.rollout_config.response_length),
                max_turns=settings.max_turns,
                max_tokens=settings.max_tokens,
            ),
            _sampling(sampling_params, settings),
            model="policy",
        )
        agent = _build_agent(settings.function, settings.command)
        with (await _running_gateway()).serving(session) as endpoint:
            outcome = await agent.play(task_of(row), endpoint, settings.timeout)
        if session.failure is not None:
            raise session.failure
        self._log(outcome, session, row)
        prompt = [] if session.chains else await tokens.start([{"role": "user", "content": "-"}], [])
        return list(to_outputs(session, outcome, settings, engine.span(), prompt))

    def _log(self, outcome: Outcome, session: Session, row: Mapping[str, Any]) -> None:
        """Note in the run's folder what went wrong, or what was printed."""
        if outcome.how != FINISHED:
            _LOGGER.warning("an agent did not finish (%s): %s", outcome.how, outcome.details)
        if outcome.details:
            fields = {"how": outcome.how, "turns": session.turns, "details": outcome.details}
            note_episode(self.config, LOG_FILE, row, **fields)


def task_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the agent is given: the dataset's row, or with another dataset than ours the columns that are not verl's."""
    task = row.get(TASK)
    if isinstance(task, Mapping):
        return dict(task)
    rest = {key: value for key, value in row.items() if key not in _OF_VERL}
    return {"prompt": list(row.get("raw_prompt", [])), **rest}


def to_outputs(
    session: Session,
    outcome: Outcome,
    settings: AgentSettings,
    versions: Mapping[str, int | None],
    prompt_ids: list[int],
) -> list[TokenColumnsOutput]:
    """Return a row per chain. prompt_ids: of the single row, without a token, of a conversation without a reply."""
    finished = outcome.how == FINISHED or session.reward is not None
    reward = settings.reward(outcome.reward, session.reward, finished=finished)
    chains = session.chains or [Chain("", "", prompt_ids=prompt_ids)]
    stop = FINISHED if finished else outcome.how
    info = {
        "turns": float(session.turns),
        "stop_reason": session.stopped or stop,
        f"{OUTCOME_PREFIX}chains": float(len(session.chains)),
        f"{OUTCOME_PREFIX}tool_calls": float(sum(len(turn) for chain in session.chains for turn in chain.calls)),
        f"{OUTCOME_PREFIX}unfinished": float(not finished),
    }
    masked = not finished and settings.unfinished == "mask"
    return [
        TokenColumnsOutput(
            prompt_ids=chain.prompt_ids,
            response_ids=chain.response_ids,
            response_mask=[0] * len(chain.response_ids) if masked else chain.response_mask,
            response_logprobs=chain.log_probs,
            reward_score=reward,
            num_turns=session.turns,
            metrics=AgentLoopMetrics(generate_sequences=session.seconds),
            extra_fields={**versions, "reward_extra_info": dict(info), TURN_CALLS: chain.calls},
            turn_ids=[-1] * len(chain.response_ids) if masked else chain.turn_ids,
        )
        for chain in chains
    ]


def _sampling(params: Mapping[str, Any], settings: AgentSettings) -> Sampling:
    return Sampling(
        temperature=float(params.get("temperature", 1.0)),
        top_p=float(params.get("top_p", 1.0)),
        top_k=int(params.get("top_k", -1)),
        strict=settings.sampling == "strict",
    )


async def _running_gateway() -> Gateway:
    """The one of this event loop, started by whoever asks first."""
    loop = asyncio.get_running_loop()
    if loop not in _gateways:
        _gateways[loop] = asyncio.ensure_future(_started())
    return await _gateways[loop]


async def _started() -> Gateway:
    gateway = Gateway()
    await gateway.start()
    return gateway
