"""verl's agent loop around an episode, with a server that answers from a list."""

from __future__ import annotations

import asyncio
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import PreTrainedTokenizerFast
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, _agent_loop_registry
from verl.workers.rollout.replica import TokenOutput

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.environments import make_world
from actfocus_verl.environments.base import StepResult
from actfocus_verl.environments.frozen_lake import FrozenLake
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.agent_loop import EpisodeAgentLoop, ServerPolicy, _codec, episode_seed
from actfocus_verl.integration.columns import NO_NUMBER
from actfocus_verl.integration.forked_loop import ForkedAgentLoop
from actfocus_verl.integration.loop_output import TokenColumnsOutput
from tests.helpers.tokenizer import QWEN_TEMPLATE, build_tokenizer

REPLY = "<think>the goal is right of me</think><answer>Right</answer><|im_end|>"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


class ListServer:
    """verl's LLM server client as an agent loop sees it; each answer is one weight version newer."""

    def __init__(self, reply: list[int], stop_reason: str = "completed") -> None:
        self.reply, self.stop_reason = reply, stop_reason
        self.calls: list[dict[str, Any]] = []

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        self.calls.append({"request_id": request_id, "prompt_ids": list(prompt_ids), **sampling_params})
        version = len(self.calls)
        return TokenOutput(
            token_ids=self.reply[: sampling_params["max_tokens"]],
            log_probs=[-0.25] * len(self.reply[: sampling_params["max_tokens"]]),
            stop_reason=self.stop_reason,
            extra_fields={"min_global_steps": version, "max_global_steps": version + 1},
        )


def play(
    server: ListServer,
    tokenizer: PreTrainedTokenizerFast,
    *,
    estimator: str = "grpo",
    credit: str = "uniform",
    data: dict[str, Any] | None = None,
    kind: type[EpisodeAgentLoop] = EpisodeAgentLoop,
    preset: str = "clean",
    **row: Any,
) -> TokenColumnsOutput:
    """One episode through verl's own constructor and `run`."""
    config = OmegaConf.create(
        {
            "env": {"name": "frozen_lake", "preset": preset, "seed": 1, "train_size": 8, "evaluation_size": 8},
            "algorithm": {"adv_estimator": estimator},
            "credit": {"name": credit},
            "actor_rollout_ref": {"rollout": {"prompt_length": 1500, "response_length": 1500, "n": 1}},
            "rollout": {"roots": 1, "wave": 1},
        }
    )

    async def run() -> Any:
        loop = kind(
            trainer_config=DictConfigWrap(config),
            server_manager=server,
            tokenizer=tokenizer,
            processor=None,
            dataset_cls=None,
            data_config=DictConfigWrap(OmegaConf.create(data or {})),
        )
        return await loop.run({"temperature": 0.7}, **row)

    return asyncio.run(run())


@pytest.mark.parametrize("kind", [EpisodeAgentLoop, ForkedAgentLoop])
def test_verls_template_options_reach_the_template(kind: type[EpisodeAgentLoop]) -> None:
    tokenizer = build_tokenizer(template=QWEN_TEMPLATE + "{% if effort is defined %}{{ effort }}{% endif %}")
    row = {"split": "train", "index": 0, "session_id": 0, "uid": "a"}
    prompts = []
    for options in ({}, {"effort": "LOW"}, {"effort": "HIGH"}):
        server = ListServer(tokenizer.encode(REPLY))
        play(server, tokenizer, data={"apply_chat_template_kwargs": options}, kind=kind, **row)
        assert len(server.calls) > 1
        prompts.append([tokenizer.decode(call["prompt_ids"]) for call in server.calls])
    plain, low, high = prompts
    assert not any(prompt.endswith(("LOW", "HIGH")) for prompt in plain)
    assert all(prompt.endswith("LOW") for prompt in low)
    assert all(prompt.endswith("HIGH") for prompt in high)


@pytest.mark.parametrize("kind", [EpisodeAgentLoop, ForkedAgentLoop])
def test_a_prompt_that_opens_the_reply_is_the_servers_and_not_trained(
    kind: type[EpisodeAgentLoop], tokenizer: PreTrainedTokenizerFast
) -> None:
    reply = tokenizer.encode(REPLY.removeprefix("<think>"))
    server = ListServer(reply)
    output = play(server, tokenizer, kind=kind, preset="ragen", split="train", index=0, session_id=0, uid="a")
    assert all(tokenizer.decode(call["prompt_ids"]).endswith("assistant\n<think>") for call in server.calls)
    sampled = [i for i, mask in zip(output.response_ids, output.response_mask, strict=True) if mask]
    assert sampled == reply * len(server.calls)
    assert output.extra_fields["reward_extra_info"]["valid_action_rate"] == 1.0


def test_a_reply_ends_where_the_template_ends_a_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    """Another template may end it with another token than the model's own end of a text."""
    server = ListServer(tokenizer.encode(REPLY))
    play(server, tokenizer, split="train", index=0)
    assert all(call["stop_token_ids"] == tokenizer.encode("<|im_end|>") for call in server.calls)


def test_a_worker_reads_a_template_once(tokenizer: PreTrainedTokenizerFast) -> None:
    made = _codec.cache_info().misses
    for index in range(3):
        play(ListServer(tokenizer.encode(REPLY)), tokenizer, split="train", index=index)
    assert _codec.cache_info().misses <= made + 1


def test_it_is_registered_by_name() -> None:
    target = f"{EpisodeAgentLoop.__module__}.{EpisodeAgentLoop.__qualname__}"
    assert _agent_loop_registry["actfocus"] == {"_target_": target}


def test_an_episode_comes_out_in_aligned_columns(tokenizer: PreTrainedTokenizerFast) -> None:
    reply = tokenizer.encode(REPLY)
    server = ListServer(reply)
    output = play(server, tokenizer, split="train", index=3, session_id=2, global_steps=1)

    assert isinstance(output, TokenColumnsOutput)
    assert output.num_turns == len(server.calls) == len(output.turn_rewards) == len(output.anchors) > 0
    assert output.response_ids[: len(reply)] == reply  # sampled ids, never encoded again
    sampled = [id_ for id_, mask in zip(output.response_ids, output.response_mask, strict=True) if mask]
    assert sampled == reply * output.num_turns
    for mask, role, turn, log_prob in zip(
        output.response_mask, output.token_roles, output.turn_ids, output.response_logprobs, strict=True
    ):
        assert (mask == 0) == (role == TokenRole.ENVIRONMENT) == (turn == -1) == (log_prob == 0.0)
    assert output.reward_score == pytest.approx(sum(output.turn_rewards))
    info = output.extra_fields["reward_extra_info"]
    assert info["turns"] == output.num_turns
    assert info["valid_action_rate"] == 1.0
    assert output.extra_fields["min_global_steps"] == 1
    assert output.extra_fields["max_global_steps"] == output.num_turns + 1


def test_the_context_of_a_turn_is_what_was_sampled_before(tokenizer: PreTrainedTokenizerFast) -> None:
    server = ListServer(tokenizer.encode(REPLY))
    output = play(server, tokenizer, split="train", index=3, session_id=0, global_steps=1)

    whole = output.prompt_ids + output.response_ids
    for call in server.calls:
        assert whole[: len(call["prompt_ids"])] == call["prompt_ids"]
        assert call["temperature"] == 0.7
    assert len({call["request_id"] for call in server.calls}) == 1  # one server keeps the prefix


def test_a_broken_off_reply_aborts_the_episode(tokenizer: PreTrainedTokenizerFast) -> None:
    server = ListServer(tokenizer.encode(REPLY), stop_reason="aborted")
    output = play(server, tokenizer, split="train", index=0)
    assert output.extra_fields["reward_extra_info"]["stop_reason"] == "aborted"
    assert output.num_turns == 1


def test_the_world_s_further_figures_travel_with_the_reward(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrozenLake, "outcome", lambda world: {"tile": float(world.player)})
    output = play(ListServer(tokenizer.encode(REPLY)), tokenizer, split="train", index=3)
    info = output.extra_fields["reward_extra_info"]
    assert info["outcome/tile"] in range(16)


def test_the_state_after_the_last_turn_travels_with_the_texts(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = count()
    monkeypatch.setattr(FrozenLake, "render", lambda world: str(next(numbers)))
    output = play(ListServer(tokenizer.encode(REPLY)), tokenizer, split="train", index=3)
    seen = [int(text["state"]) for text in output.extra_fields["texts"]]
    assert seen == sorted(seen)
    assert int(output.extra_fields["final_state"]) > seen[-1]


def test_the_difficulty_of_the_board_travels_with_the_episode(tokenizer: PreTrainedTokenizerFast) -> None:
    output = play(ListServer(tokenizer.encode(REPLY)), tokenizer, split="train", index=3)
    board = make_world("frozen_lake", preset="clean", split="train", index=3, episode_seed=0)
    assert output.extra_fields["stratum"] == board.stratum() > 0


def test_a_server_without_weight_versions_is_fine() -> None:
    class Plain(ListServer):
        async def generate(self, **call: Any) -> Any:
            return SimpleNamespace(token_ids=[1], log_probs=None, stop_reason=None, extra_fields={})

    policy = ServerPolicy(Plain([1]), {})
    reply = asyncio.run(policy.generate([5], max_new_tokens=3))
    assert (reply.token_ids, reply.log_probs, policy.weight_versions) == ([1], None, [])


def test_episode_seeds() -> None:
    training = {episode_seed(0, "train", step, session) for step in range(4) for session in range(4)}
    assert len(training) == 16  # members of a group differ, and steps differ
    assert all(0 <= seed < 2**63 for seed in training)
    assert episode_seed(0, "evaluation", 1, 0) == episode_seed(0, "evaluation", 9, 0)  # evaluations repeat
    assert episode_seed(0, "train", 1, 0) != episode_seed(1, "train", 1, 0)


PROBES = ("probe_starts", "probe_lengths", "answer_lengths", "probe_ids")


def test_probes_are_written_for_the_estimators_that_need_them(tokenizer: PreTrainedTokenizerFast) -> None:
    row = {"split": "train", "index": 3, "session_id": 0, "global_steps": 1}
    for estimator in ("grpo", "gigpo"):
        columns = play(ListServer(tokenizer.encode(REPLY)), tokenizer, estimator=estimator, **row).as_dict()
        assert not {"probes", *PROBES} & set(columns)
    for estimator in ("igpo", "a2tgpo"):
        server = ListServer(tokenizer.encode(REPLY))
        columns = play(server, tokenizer, estimator=estimator, **row).as_dict()
        assert "probes" not in columns
        assert {columns[name].dtype for name in PROBES} == {torch.int64}
        starts, lengths = columns["probe_starts"].tolist(), columns["probe_lengths"].tolist()
        assert [len(columns["prompts"]) + start for start in starts] == [
            len(call["prompt_ids"]) for call in server.calls
        ]
        assert sum(lengths) == len(columns["probe_ids"])
        assert all(0 < answer < length for answer, length in zip(columns["answer_lengths"], lengths, strict=True))
        assert tokenizer.decode(columns["probe_ids"][: lengths[0]]).startswith("<think> </think> <answer>")


FEEDBACK = ("feedback_starts", "feedback_lengths", "feedback_ids")


@pytest.mark.parametrize("kind", [EpisodeAgentLoop, ForkedAgentLoop])
def test_feedback_is_written_for_the_weightings_that_need_it(
    kind: type[EpisodeAgentLoop], tokenizer: PreTrainedTokenizerFast
) -> None:
    row = {"split": "train", "index": 3, "session_id": 0, "uid": "a", "kind": kind}
    assert not {*FEEDBACK} & set(play(ListServer(tokenizer.encode(REPLY)), tokenizer, **row).as_dict())
    columns = play(ListServer(tokenizer.encode(REPLY)), tokenizer, credit="hindsight", **row).as_dict()
    assert {columns[name].dtype for name in FEEDBACK} == {torch.int64}
    sequence = torch.cat([columns["prompts"], columns["responses"]])
    parts = columns["feedback_ids"].split(columns["feedback_lengths"].tolist())
    assert len(parts) == len(columns["turn_rewards"]) > 1
    for turn, (start, ids) in enumerate(zip(columns["feedback_starts"].tolist(), parts, strict=True)):
        text = tokenizer.decode(torch.cat([sequence[:start], ids]))
        assert text.count("What your reply to this message leads to") == 1
        assert text.count(REPLY.removesuffix("<|im_end|>")) == turn


def test_an_answer_longer_than_a_reply_is_refused(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrozenLake, "known_answer", lambda world: "Right || " * 200 + "Right")
    with pytest.raises(ConfigurationError, match=r"env.max_turn_tokens=400: the known answer takes \d+ tokens"):
        play(ListServer(tokenizer.encode(REPLY)), tokenizer, estimator="igpo", split="train", index=3)


def test_an_episode_broken_off_before_its_first_token_is_a_row(tokenizer: PreTrainedTokenizerFast) -> None:
    output = play(ListServer([], stop_reason="aborted"), tokenizer, split="train", index=0)
    columns = output.as_dict()
    penalty = output.turn_rewards[0]
    assert penalty < 0
    assert len(columns["responses"]) == 1
    assert 0 <= int(columns["responses"][0]) < len(tokenizer)
    assert columns["response_mask"].tolist() == [0]  # nothing of it trains
    assert columns["token_roles"].tolist() == [TokenRole.ENVIRONMENT]
    assert (columns["turn_ids"].tolist(), columns["rollout_log_probs"].tolist()) == ([-1], [0.0])
    assert columns["rm_scores"].tolist() == columns["turn_rewards"].tolist() == pytest.approx([penalty])
    info = columns["extra_fields"]["reward_extra_info"]
    assert (info["stop_reason"], info["turns"]) == ("aborted", 1.0)


def test_a_world_without_a_number_for_a_reward_gives_a_row_that_says_so(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrozenLake, "step", lambda self, action: StepResult(None, done=False, success=False))
    columns = play(ListServer(tokenizer.encode(REPLY)), tokenizer, split="train", index=3).as_dict()
    assert columns["rm_scores"].isnan().tolist() == [True]
    assert columns["response_mask"].tolist() == [0]
    assert columns["extra_fields"]["reward_extra_info"] == {NO_NUMBER: "None"}
    whole = play(ListServer([], stop_reason="aborted"), tokenizer, split="train", index=3)
    assert set(columns) == set(whole.as_dict())  # verl reads a column of all rows or of none
    assert columns["prompts"].tolist() == whole.prompt_ids
