"""verl's agent loop on the gateway, with a server that answers from a list and the tiny policies' chat format."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import DictConfigWrap
from verl.workers.rollout.replica import TokenOutput

from actfocus_verl.gateway import ApiError
from actfocus_verl.integration import gateway_loop
from actfocus_verl.integration.dataset import TaskDataset
from actfocus_verl.integration.gateway_loop import GatewayAgentLoop, task_of
from actfocus_verl.integration.gateway_tokens import VerlTokens
from actfocus_verl.policies.tokenizer import train_tokenizer
from tests.helpers.gateway_agent import TOOLS

CALL = 'I ask.\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call><|im_end|>'
ANSWER = "The sum is 3.<|im_end|>"
ROW = {"task": {"question": "1 + 2"}, "raw_prompt": [], "uid": "a", "session_id": 1, "global_steps": 4}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["I ask. The sum is 3.", "system\n", "user\n", "assistant\n", "tool\n"] * 8, 400)


class ListServer:
    """verl's LLM server client; each answer is one weight version newer."""

    def __init__(self, *replies: list[int]) -> None:
        self.replies, self.calls = list(replies), []  # type: ignore[var-annotated]

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        self.calls.append((list(prompt_ids), dict(sampling_params)))
        ids = self.replies[len(self.calls) - 1][: sampling_params["max_tokens"]]
        version = {"min_global_steps": len(self.calls), "max_global_steps": len(self.calls) + 1}
        return TokenOutput(token_ids=ids, log_probs=[-0.5] * len(ids), stop_reason="completed", extra_fields=version)


def make_loop(server: Any, tokenizer: Any, **agent: Any) -> GatewayAgentLoop:
    rollout = {"prompt_length": 200, "response_length": 300, "multi_turn": {"format": "hermes"}}
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}, "agent": agent})
    return GatewayAgentLoop(
        trainer_config=DictConfigWrap(config),
        server_manager=server,
        tokenizer=tokenizer,
        processor=None,
        dataset_cls=None,
        data_config=DictConfigWrap(OmegaConf.create({})),
        hf_model_type="qwen2",
    )


def play(
    monkeypatch: pytest.MonkeyPatch, agent: Callable[..., Any], server: Any, tokenizer: Any, **settings: Any
) -> list[Any]:
    """The rows of a conversation of this agent."""
    from actfocus_verl.gateway.agents import FunctionAgent

    monkeypatch.setattr(gateway_loop, "_build_agent", lambda function, command: FunctionAgent(agent))

    async def run() -> list[Any]:
        loop = make_loop(server, tokenizer, function="mine:play", **settings)
        return await loop.run({"temperature": 0.7, "logprobs": True}, **ROW)

    return asyncio.run(run())


async def asks_twice(task: Any, *, base_url: str, api_key: str, model: str) -> float:
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0) as api:
        messages: list[Any] = [{"role": "user", "content": task["question"]}]
        first = (await api.chat.completions.create(model=model, messages=messages, tools=TOOLS)).choices[0].message  # type: ignore[list-item]
        (call,) = first.tool_calls or []
        messages += [first.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "3"}]
        last = (await api.chat.completions.create(model=model, messages=messages, tools=TOOLS)).choices[0].message  # type: ignore[list-item]
        messages = [{"role": "system", "content": "Check."}, {"role": "user", "content": last.content}]
        await api.chat.completions.create(model=model, messages=messages)
    return float(last.content == "The sum is 3.")


async def raises_later(task: Any, **endpoint: str) -> float:
    await asks_twice(task, **endpoint)
    raise RuntimeError("the tool's server is down")


def test_rows_of_a_conversation(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    call, answer = tokenizer.encode(CALL), tokenizer.encode(ANSWER)
    server = ListServer(call, answer, answer)
    first, second = play(monkeypatch, asks_twice, server, tokenizer)

    between = tokenizer.encode("\n<|im_start|>tool\n3<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(first.prompt_ids) == "<|im_start|>user\n1 + 2<|im_end|>\n<|im_start|>assistant\n"
    assert first.response_ids == [*call, *between, *answer]  # by hand: sampled ids as they came, the rest in between
    assert first.response_mask == [1] * len(call) + [0] * len(between) + [1] * len(answer)
    assert first.turn_ids == [0] * len(call) + [-1] * len(between) + [1] * len(answer)
    assert first.response_logprobs == [-0.5] * len(call) + [0.0] * len(between) + [-0.5] * len(answer)
    assert server.calls[1][0] == [*first.prompt_ids, *call, *between]
    assert first.extra_fields["turn_calls"] == [[("add", '{"a": 1, "b": 2}')], []]
    assert second.extra_fields["turn_calls"] == [[]]
    assert (second.response_ids, second.response_mask) == (answer, [1] * len(answer))
    for row in (first, second):
        assert row.reward_score == 1.0
        assert row.num_turns == 3
        assert (row.extra_fields["min_global_steps"], row.extra_fields["max_global_steps"]) == (1, 4)
        assert row.extra_fields["reward_extra_info"] == {
            "turns": 3.0,
            "stop_reason": "finished",
            "outcome/chains": 2.0,
            "outcome/tool_calls": 1.0,
            "outcome/unfinished": 0.0,
        }
        row.as_dict()
    ends = tokenizer.encode("<|im_end|>")
    assert all(params["stop_token_ids"] == ends and params["temperature"] == 0.7 for _, params in server.calls)


@pytest.mark.parametrize(
    ("unfinished", "reward", "trains"), [("count", 0, True), ("mask", 0, False), ("punish", -1, True)]
)
def test_unfinished_conversations(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Any, tmp_path: Path, unfinished: str, reward: float, trains: bool
) -> None:
    call, answer = tokenizer.encode(CALL), tokenizer.encode(ANSWER)
    rows = play(monkeypatch, raises_later, ListServer(call, answer, answer), tokenizer, unfinished=unfinished)
    for row in rows:
        assert row.reward_score == reward
        assert any(row.response_mask) == trains
        info = row.extra_fields["reward_extra_info"]
        assert (info["stop_reason"], info["outcome/unfinished"]) == ("raised", 1.0)
        row.as_dict()


def test_an_agent_that_asks_nothing_keeps_its_reward(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    (row,) = play(monkeypatch, lambda task, **_: 0.25, ListServer(), tokenizer)
    columns = row.as_dict()
    assert columns["response_mask"].tolist() == [0]
    assert columns["rm_scores"].tolist() == [0.25]
    assert columns["turn_ids"].tolist() == [-1]


def test_an_engine_that_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    class Dead:
        async def generate(self, **_: Any) -> Any:
            raise ConnectionError("the rollout server is gone")

    with pytest.raises(ConnectionError, match="the rollout server is gone"):
        play(monkeypatch, asks_twice, Dead(), tokenizer)


def test_a_template_that_refuses(tokenizer: Any) -> None:
    tokens = VerlTokens(make_loop(None, tokenizer), "hermes")
    tokenizer_template, refusing = tokenizer.chat_template, "{{ raise_exception('no system message') }}"

    async def run() -> None:
        tokens._loop.loop = asyncio.get_running_loop()
        await tokens.start([{"role": "system", "content": "a"}], [])

    tokenizer.chat_template = refusing
    try:
        with pytest.raises(ApiError, match="the model's chat template refuses these messages: no system message"):
            asyncio.run(run())
    finally:
        tokenizer.chat_template = tokenizer_template


def test_tasks(tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_text("\n".join(json.dumps({"question": str(i)}) for i in range(3)))
    (tmp_path / "more.json").write_text(json.dumps([{"question": "x", "data_source": "hard"}]))
    files = [str(tmp_path / "sums.jsonl"), str(tmp_path / "more.json")]
    rows = TaskDataset(OmegaConf.create(files), SimpleNamespace())  # type: ignore[arg-type]
    assert [(row["task"]["question"], row["data_source"]) for row in (rows[i] for i in range(len(rows)))] == [
        ("0", "sums"),
        ("1", "sums"),
        ("2", "sums"),
        ("x", "hard"),
    ]
    assert len(TaskDataset(files, SimpleNamespace(), max_samples=2)) == 2  # type: ignore[arg-type]
    assert task_of(rows[0]) == {"question": "0"}
    assert task_of({"raw_prompt": ["m"], "uid": "a", "extra_info": 1}) == {"prompt": ["m"], "extra_info": 1}
