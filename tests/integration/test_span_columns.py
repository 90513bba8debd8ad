"""Rows of agent loops that are not ours: verl's tool loop and parsers, our trainer on what they give. No Ray."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap, _agent_loop_registry
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.experimental.agent_loop.tool_parser import ToolParser
from verl.tools.function_tool import FUNCTION_TOOL_REGISTRY, FunctionTool, function_tool
from verl.workers.rollout.replica import TokenOutput

from actfocus_verl.credit.registry import known_weightings
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.span_columns import turn_ids
from actfocus_verl.integration.trainer import episode_metrics
from actfocus_verl.rollout import TokenDecoder, span_roles
from actfocus_verl.rollout.spans import TOOL_CALLS
from tests.config.conftest import compose_config
from tests.helpers.queue import LocalQueue
from tests.helpers.tokenizer import build_tokenizer
from tests.helpers.trainer import SECONDS, MakeTrainer, Trainer, to_advantages

CALL = '<tool_call>{"name": "spans_weather", "arguments": {"city": "Bern"}}</tool_call>'
OWN_DATA = ("env=none", "data.train_files=a.parquet", "data.val_files=b.parquet")
OTHER_LOOP = ("env=none", "critic.enable=false")
IN_GROUPS = ("actor_rollout_ref.rollout.n=3", "data.train_batch_size=2")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def text_of(tokenizer: Any, ids: Any, roles: Any, role: TokenRole) -> str:
    """What the tokens of a role say, one beside the other."""
    return str(tokenizer.decode([int(i) for i, r in zip(ids, roles, strict=True) if r == role]))


# ---------------------------------------------------------------- verl's own loop


class Server:
    """verl's LLM server client, answering from a list."""

    def __init__(self, replies: list[list[int]]) -> None:
        self.replies = iter(replies)

    async def generate(self, **call: Any) -> TokenOutput:
        reply = next(self.replies)
        steps = {"min_global_steps": 0, "max_global_steps": 0}
        return TokenOutput(token_ids=reply, log_probs=[-0.5] * len(reply), stop_reason="stop", extra_fields=steps)


@pytest.fixture
def weather() -> Iterator[FunctionTool]:
    @function_tool
    def spans_weather(city: str) -> str:
        """Say the weather.

        Args:
            city: Where.
        """
        return f"sunny in {city} </tool_call>"  # what a tool says closes nothing

    yield FUNCTION_TOOL_REGISTRY["spans_weather"]
    del FUNCTION_TOOL_REGISTRY["spans_weather"]


def play(tokenizer: Any, tool: FunctionTool, replies: list[str], **lengths: int) -> Any:
    """One episode of verl's `tool_agent`, with our composed configuration."""
    config = compose_config(*OWN_DATA, *(f"data.{name}={value}" for name, value in lengths.items()))

    async def run() -> Any:
        loop = ToolAgentLoop(
            trainer_config=DictConfigWrap(config),
            server_manager=Server([tokenizer.encode(reply) for reply in replies]),
            tokenizer=tokenizer,
            processor=None,
            dataset_cls=None,
            data_config=DictConfigWrap(config.data),
            tools=ToolListWrap([tool]),
        )
        return await loop.run({}, raw_prompt=[{"role": "user", "content": "Weather?"}])

    return asyncio.run(run())


def test_a_real_tool_episode_acts_in_its_calls(tokenizer: PreTrainedTokenizerFast, weather: FunctionTool) -> None:
    replies = [f"I ask.{CALL}<|im_end|>", "It is sunny.<|im_end|>"]
    output = play(tokenizer, weather, replies)
    mask = torch.tensor(output.response_mask).bool()
    assert mask.tolist().count(False) > 5  # the tool was called and its answer is there
    assert "sunny in Bern" in tokenizer.decode(output.response_ids)

    roles = span_roles(TOOL_CALLS["hermes"], TokenDecoder(tokenizer), output.response_ids, mask.numpy())
    ids = output.response_ids
    acted = text_of(tokenizer, ids, roles, TokenRole.ACTION)
    assert json.loads(acted[acted.index("{") : acted.rindex("}") + 1]) == {
        "name": "spans_weather",
        "arguments": {"city": "Bern"},
    }
    assert "ask" in text_of(tokenizer, ids, roles, TokenRole.REASONING)
    assert "It is sunny." in text_of(tokenizer, ids, roles, TokenRole.REASONING)
    assert text_of(tokenizer, ids, roles, TokenRole.FORMAT).count("<|im_end|>") == 2
    assert "sunny in Bern </tool_call>" in text_of(tokenizer, ids, roles, TokenRole.ENVIRONMENT)
    assert ((roles == TokenRole.ENVIRONMENT) == ~mask.numpy()).all()
    turns = turn_ids(mask)
    first = tokenizer.encode(replies[0])
    assert turns.tolist()[: len(first)] == [0] * len(first)
    assert sorted(set(turns.tolist())) == [-1, 0, 1]


def test_a_call_that_the_response_limit_cuts_is_none(tokenizer: PreTrainedTokenizerFast, weather: FunctionTool) -> None:
    """verl ends such an episode without the call."""
    reply = f"I ask.{CALL}<|im_end|>"
    room = len(tokenizer.encode(reply)) - 5
    output = play(tokenizer, weather, [reply], max_response_length=room)
    assert len(output.response_ids) == room
    roles = span_roles(
        TOOL_CALLS["hermes"], TokenDecoder(tokenizer), output.response_ids, np.array(output.response_mask, dtype=bool)
    )
    assert TokenRole.ACTION not in roles


QWEN_XML = "<function=go>\n<parameter=to>\nup\n</parameter>\n</function>"
EXAMPLES = {
    "hermes": (f"so {CALL} and {CALL}", ['{"name": "spans_weather", "arguments": {"city": "Bern"}}'] * 2),
    "qwen3_coder": (f"so <tool_call>{QWEN_XML}</tool_call>", [QWEN_XML]),
    "glm": (
        "so <tool_call>go<arg_key>to</arg_key><arg_value>up</arg_value></tool_call>",
        ["go<arg_key>to</arg_key><arg_value>up</arg_value>"],
    ),
    "seed": (
        "so <seed:tool_call><function=go><parameter=to>up</parameter></function></seed:tool_call>",
        ["<function=go><parameter=to>up</parameter></function>"],
    ),
    "minimax": (
        'so <minimax:tool_call><invoke name="go"><parameter name="to">up</parameter></invoke></minimax:tool_call>',
        ['<invoke name="go"><parameter name="to">up</parameter></invoke>'],
    ),
    "kimi": (
        '<|tool_calls_section_begin|><|tool_call_begin|>go<|tool_call_argument_begin|>{"to": "up"}<|tool_call_end|>'
        "<|tool_calls_section_end|>",
        ['go<|tool_call_argument_begin|>{"to": "up"}'],
    ),
    "deepseek_v4": (
        '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="go">\n<｜DSML｜parameter name="to" string="true">up'
        "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
        [
            '\n<｜DSML｜invoke name="go">\n<｜DSML｜parameter name="to" string="true">up</｜DSML｜parameter>\n'
            "</｜DSML｜invoke>\n"
        ],
    ),
    "gemma4": ('so <|tool_call>call:go{to:<|"|>up<|"|>}<tool_call|>', ['call:go{to:<|"|>up<|"|>}']),
    "gpt-oss": (
        "<|channel|>analysis<|message|>call to=functions.x<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.go <|constrain|>json<|message|>{"to": "up"}<|call|>',
        ["go", '{"to": "up"}'],
    ),
}
"""A reply with a call in each format, and what acts in it."""


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_format_of_verl_is_read_as_its_own_parser_reads_it(name: str) -> None:
    text, contents = EXAMPLES[name]
    found = TOOL_CALLS[name].find(text).contents
    assert [text[start:end] for start, end in found] == contents

    calls = calls_of(name, text)
    assert [call["name"] for call in calls] == (["spans_weather"] * 2 if name == "hermes" else ["go"])
    for content in contents:
        assert calls_of(name, text.replace(content, "")) != calls


@pytest.mark.parametrize("name", sorted(EXAMPLES))
@pytest.mark.parametrize(
    "thoughts",
    [
        "<think>I might {} or not</think> so ",
        "<think>I might {}",
        "<|channel|>analysis<|message|>I might {} or not<|end|>",
        "<|start|>assistant<|channel|>analysis<|message|>I might {} or not<|end|>",
        "<|channel|>analysis<|message|>I might {}",
    ],
)
def test_a_call_inside_the_reasoning_counts_where_verls_parser_counts_it(name: str, thoughts: str) -> None:
    reply = EXAMPLES[name][0]
    for text in (thoughts.format(reply), thoughts.format(reply) + reply, reply + thoughts.format(reply)):
        parts = 2 if name == "gpt-oss" else 1  # name and arguments of a call are two contents
        assert len(TOOL_CALLS[name].find(text).contents) == parts * len(calls_of(name, text)), text


def test_kimis_calls_need_their_section() -> None:
    text = EXAMPLES["kimi"][0].replace("<|tool_calls_section_begin|>", "")
    assert calls_of("kimi", text) == []
    assert TOOL_CALLS["kimi"].find(text).contents == ()


def calls_of(name: str, text: str) -> list[dict[str, Any]]:
    """What verl's parser reads in a text."""
    tokenizer = SimpleNamespace(decode=lambda *_, **__: text, pad_token="", convert_tokens_to_ids=lambda _: 0)
    _, calls = asyncio.run(ToolParser.get_tool_parser(name, tokenizer).extract_tool_calls([1], []))
    return [call.model_dump() for call in calls]


def test_no_format_of_verl_is_missing() -> None:
    assert set(ToolParser._registry) == set(TOOL_CALLS) == set(EXAMPLES)


def test_the_pages_own_loop_gives_the_column_it_has(tokenizer: PreTrainedTokenizerFast) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "use_with_your_verl_run.md").read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "my_loop"}
    exec(page.partition("```python\n")[2].partition("```")[0], namespace)
    del _agent_loop_registry["last_token"]
    config = compose_config(*OWN_DATA)

    async def run() -> Any:
        loop = namespace["LastTokenLoop"](
            trainer_config=DictConfigWrap(config),
            server_manager=Server([tokenizer.encode("Up!")]),
            tokenizer=tokenizer,
            processor=None,
            dataset_cls=None,
            data_config=DictConfigWrap(config.data),
        )
        return await loop.run({}, raw_prompt=[{"role": "user", "content": "Where?"}])

    columns = asyncio.run(run()).as_dict()
    assert columns["token_roles"].tolist() == [1] * (len(columns["responses"]) - 1) + [2]
    assert "turn_ids" not in columns


# ---------------------------------------------------------------- our trainer on such rows


@pytest.fixture
def foreign_rows(rows: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> dict[str, dict[str, Any]]:
    """The rows as a loop without our columns leaves them: two runs of sampled tokens, the second one a call."""
    for row in rows.values():
        for name in ("token_roles", "turn_ids", "turn_rewards", "anchors"):
            del row[name]
        row["extra_fields"] = {"turn_scores": [], "tool_rewards": [], "reward_extra_info": {"acc": 0.5}}
    return rows


def ready(trainer: Trainer, tokenizer: Any) -> Trainer:
    trainer.tokenizer = tokenizer
    return trainer


def test_rows_without_columns_are_weighted_by_the_span(
    make_trainer: MakeTrainer, queue: LocalQueue, foreign_rows: dict[str, Any]
) -> None:
    """Token 5 opens and token 6 closes, in a vocabulary made for this: what is between them acts."""
    masks = {key: row["response_mask"].bool() for key, row in foreign_rows.items()}
    for row in foreign_rows.values():
        row["responses"] = torch.full_like(row["responses"], 9)
        row["responses"][[0, 2]] = torch.tensor([5, 6])
    trainer = make_trainer(*OTHER_LOOP, "credit=action_only", "credit.action_span=['<','>']")
    ready(trainer, _alphabet({5: "<", 6: ">"}))
    batch, metrics = to_advantages(trainer, queue.fill(foreign_rows))

    for key in foreign_rows:
        mask = masks[key].tolist()
        act = mask[0] and mask[1] and mask[2]
        expected = [
            0 if not sampled else 3 if position in (0, 2) else 2 if position == 1 and act else 1
            for position, sampled in enumerate(mask)
        ]
        assert queue.rows[key]["token_roles"].tolist() == expected
        weights = queue.rows[key]["token_weights"]
        assert ((weights > 0) == torch.tensor([role == 2 for role in expected])).all()
        runs = [run for run, sampled in enumerate(mask) if sampled and (run == 0 or not mask[run - 1])]
        assert queue.rows[key]["turn_ids"].max() == len(runs) - 1
        assert (queue.rows[key]["turn_ids"] >= 0).tolist() == mask
    assert "episode/success_rate" not in metrics
    assert metrics["response_tokens/action"] > 0
    assert "token_weights" in batch.fields


def _alphabet(special: dict[int, str]) -> Any:
    """A tokenizer of single characters."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast as Fast

    vocabulary = {special.get(i, chr(0x4E00 + i)): i for i in range(300)}
    return Fast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<")), eos_token=chr(0x4E02))


@pytest.mark.parametrize("credit", sorted({*known_weightings()} - {"hindsight"}))  # its feedback is our loop's
def test_every_weighting_works_on_another_loops_rows(
    make_trainer: MakeTrainer,
    queue: LocalQueue,
    foreign_rows: dict[str, Any],
    tokenizer: Any,
    credit: str,
    tmp_path: Path,
) -> None:
    settings = (*OTHER_LOOP, *IN_GROUPS, f"credit={credit}", "credit.action_span={regex: .}")
    trainer = ready(make_trainer(*settings), tokenizer)
    batch, metrics = to_advantages(trainer, queue.fill(foreign_rows))
    assert all(torch.isfinite(queue.rows[key]["token_weights"]).all() for key in batch.keys)
    trainer._note_played(batch, metrics)
    trainer._compute_metrics(batch, metrics, SECONDS, global_steps=1, epoch=0)
    rollout = json.loads((tmp_path / "rollouts" / "1.jsonl").read_text().splitlines()[0])
    assert len(rollout["token_roles"]) == len(rollout["responses"])
    assert not {"success", "texts", "turn_rewards"} & set(rollout)


def test_a_span_replaces_the_loops_own_roles_and_keeps_its_turns(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, Any], tokenizer: Any
) -> None:
    kept = {key: row["turn_ids"].clone() for key, row in rows.items()}
    trainer = ready(make_trainer("credit=uniform", "credit.action_span={regex: '(?s).+'}"), tokenizer)
    to_advantages(trainer, queue.fill(rows))
    for key, turns in kept.items():
        assert queue.rows[key]["turn_ids"].tolist() == turns.tolist()
        assert set(queue.rows[key]["token_roles"].tolist()) <= {0, 2, 3}


def test_a_loop_without_roles_needs_a_span(
    make_trainer: MakeTrainer, queue: LocalQueue, foreign_rows: dict[str, Any]
) -> None:
    trainer = make_trainer(*OTHER_LOOP, "credit.action_span=column")
    with pytest.raises(ConfigurationError, match=r"credit.action_span='column': the agent loop .* no column token_rol"):
        to_advantages(trainer, queue.fill(foreign_rows))


@pytest.mark.parametrize(
    ("algorithm", "missing"),
    [
        ("gigpo", "turn_rewards, anchors"),
        ("turn_ppo critic.enable=true", "turn_rewards, values"),
        ("bilevel_gae critic.enable=true", "turn_rewards, values"),
    ],
)
def test_an_estimator_over_turns_names_the_columns_that_are_missing(
    make_trainer: MakeTrainer,
    queue: LocalQueue,
    foreign_rows: dict[str, Any],
    tokenizer: Any,
    algorithm: str,
    missing: str,
) -> None:
    """values are no fault of the loop's: this trainer runs no critic."""
    trainer = ready(make_trainer(*f"env=none algorithm={algorithm}".split()), tokenizer)
    trainer.use_critic = False
    with pytest.raises(ConfigurationError, match=rf"needs the column {missing}, which the agent loop of this run"):
        to_advantages(trainer, queue.fill(foreign_rows))


@pytest.mark.parametrize(
    ("sampled", "expected"),
    [
        ([1, 1, 0, 0, 1, 0, 1], [0, 0, -1, -1, 1, -1, 2]),
        ([0, 1], [-1, 0]),
        ([0, 0], [-1, -1]),
        ([1], [0]),
        ([], []),
    ],
)
def test_turns_are_runs_of_sampled_tokens(sampled: list[int], expected: list[int]) -> None:
    found = turn_ids(torch.tensor(sampled, dtype=torch.bool))
    assert found.tolist() == expected
    assert found.dtype == torch.int64


def test_what_only_some_episodes_report_is_no_metric() -> None:
    roles = torch.nested.as_nested_tensor([torch.tensor([1, 2]), torch.tensor([1])], layout=torch.jagged)
    extra = [{"reward_extra_info": {"success": 1.0}}, {"tool_rewards": []}]
    assert episode_metrics(extra, roles) == {
        "response_tokens/environment": 0.0,
        "response_tokens/reasoning": 1.0,
        "response_tokens/action": 0.5,
        "response_tokens/format": 0.0,
    }
