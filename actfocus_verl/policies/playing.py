"""Playing episodes with a Hugging Face model in batches, and statistics of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from scipy.stats import binomtest

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.environments import World, make_world, split_size
from actfocus_verl.rollout import ChatCodec, Episode, Reply, Trajectory

Observer = Callable[[World, str], None]
"""Called with the world before a reply is executed, and the reply's text."""


def play_batch(
    model: Any,
    tokenizer: Any,
    worlds: Sequence[World],
    *,
    temperature: float = 1.0,
    seed: int = 0,
    max_context_tokens: int | None = None,
    observe: Observer | None = None,
    ended: Callable[[int, int], None] | None = None,
) -> list[Trajectory]:
    """Play fresh `worlds` of one configuration in lock step: each turn of all of them is generated in batches.

    temperature: 0 is greedy. ended: called before every turn with the number of episodes that have
    ended, and of all. The random state of torch is left as it was.
    """
    codec = ChatCodec(tokenizer, worlds[0].limits.opening)
    limit = max_context_tokens or model.config.max_position_embeddings
    episodes = [Episode(world, codec, max_context_tokens=limit) for world in worlds]
    waiting = [(episode, episode.start()) for episode in episodes]
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode():
        torch.manual_seed(seed)
        while waiting:
            if ended is not None:
                ended(len(episodes) - len(waiting), len(episodes))
            longest = max(episode.world.limits.max_turn_tokens for episode, _ in waiting)
            replies = _generate_all(model, tokenizer, codec, [ids for _, ids in waiting], temperature, longest)
            following = []
            for (episode, _), reply in zip(waiting, replies, strict=True):
                if observe is not None:
                    observe(episode.world, codec.offsets(reply.token_ids)[0])
                context = episode.receive(reply)
                if context is not None:
                    following.append((episode, context))
            waiting = following
    return [episode.trajectory() for episode in episodes]


_ROWS: Final = 32
"""Episodes generated for at once: a row waits for the longest reply of its batch, and every token copies the batch's
whole key-value cache."""


def _generate_all(
    model: Any, tokenizer: Any, codec: ChatCodec, contexts: list[list[int]], temperature: float, max_new_tokens: int
) -> list[Reply]:
    """Replies in the order of `contexts`, generated for contexts of similar length together."""
    order = sorted(range(len(contexts)), key=lambda row: len(contexts[row]))
    replies: dict[int, Reply] = {}
    for start in range(0, len(order), _ROWS):
        rows = order[start : start + _ROWS]
        batch = [contexts[row] for row in rows]
        replies.update(zip(rows, _generate(model, tokenizer, codec, batch, temperature, max_new_tokens), strict=True))
    return [replies[row] for row in range(len(contexts))]


def _generate(
    model: Any, tokenizer: Any, codec: ChatCodec, contexts: list[list[int]], temperature: float, max_new_tokens: int
) -> list[Reply]:
    batch = tokenizer.pad({"input_ids": contexts}, padding_side="left", return_tensors="pt").to(model.device)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    output = model.generate(
        **batch,
        max_new_tokens=max_new_tokens,
        eos_token_id=codec.end_of_turn_id,
        pad_token_id=tokenizer.pad_token_id,
        **(sampling or {"do_sample": False}),
    )
    return [Reply.cut(row, codec.end_of_turn_id) for row in output[:, batch["input_ids"].shape[1] :].tolist()]


def evaluation_worlds(env: str, preset: str, count: int, *, max_turn_tokens: int) -> list[World]:
    """Fresh worlds on the first evaluation boards, in a small split several times with randomness of their own.

    max_turn_tokens: of a reply; a batch waits for its longest.
    """
    boards = split_size(env, preset=preset, split="evaluation") or count
    return [
        make_world(
            env,
            preset=preset,
            split="evaluation",
            index=episode % boards,
            episode_seed=episode // boards,
            max_turn_tokens=max_turn_tokens,
        )
        for episode in range(count)
    ]


@dataclass(frozen=True)
class PlayStatistics:
    """Means over episodes, turns or sampled tokens. interval: Wilson's, 95 %."""

    episodes: int
    successes: int
    success_rate: float
    interval: tuple[float, float]
    well_formed_rate: float
    reasoning_share: float
    mean_return: float
    turns: float
    actions: float
    prompt_tokens: float
    response_tokens: float
    sampled_tokens: float
    longest_episode: int
    longest_reply: int
    stop_reasons: dict[str, int]


def play_statistics(trajectories: Sequence[Trajectory]) -> PlayStatistics:
    """Summarise at least one episode. A turn is well-formed when it parses and holds valid actions only."""
    count = len(trajectories)
    successes = sum(trajectory.success for trajectory in trajectories)
    interval = binomtest(successes, count).proportion_ci(method="wilson")
    sampled = sum(sum(trajectory.response_mask) for trajectory in trajectories)
    reasoning = sum(trajectory.token_roles.count(int(TokenRole.REASONING)) for trajectory in trajectories)
    turns = sum(trajectory.turns for trajectory in trajectories)
    reasons = [trajectory.stop_reason.value for trajectory in trajectories]
    return PlayStatistics(
        episodes=count,
        successes=successes,
        success_rate=successes / count,
        interval=(float(interval.low), float(interval.high)),
        well_formed_rate=sum(trajectory.valid_turns for trajectory in trajectories) / turns,
        reasoning_share=reasoning / sampled,
        mean_return=sum(trajectory.episode_return for trajectory in trajectories) / count,
        turns=turns / count,
        actions=sum(trajectory.actions for trajectory in trajectories) / count,
        prompt_tokens=sum(len(trajectory.prompt_ids) for trajectory in trajectories) / count,
        response_tokens=sum(len(trajectory.response_ids) for trajectory in trajectories) / count,
        sampled_tokens=sampled / count,
        longest_episode=max(len(t.prompt_ids) + len(t.response_ids) for t in trajectories),
        longest_reply=max(t.turn_ids.count(turn) for t in trajectories for turn in range(t.turns)),
        stop_reasons={reason: reasons.count(reason) for reason in sorted(set(reasons))},
    )
