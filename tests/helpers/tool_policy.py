"""A policy of sixty thousand weights that calls a tool, its dataset, its tool and its reward: a run without a world.

And one that has seen the oracle of a tool world, whose functions are a token each for it: their schemas are thousands
of tokens for any other tokenizer, and on a CPU the length of a prompt is the price of a step.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from actfocus_verl.environments import ToolCall, ToolWorld, make_world
from actfocus_verl.environments.tools import PlayedCalls
from actfocus_verl.policies.config import TinyPolicyConfig
from actfocus_verl.policies.reproducible import reproducible
from actfocus_verl.policies.tokenizer import train_tokenizer
from actfocus_verl.policies.training import new_model, train
from actfocus_verl.rollout import ChatCodec, Trajectory
from actfocus_verl.worlds import play_oracle
from tests.helpers.tokenizer import TOOL_TEMPLATE

ADDED = (
    "hydra.searchpath=[pkg://actfocus_verl_configs]",
    "+credit=actfocus",
    "+credit.action_span=tool_call",
)
"""The lines of docs/use_with_your_verl_run.md."""

SYSTEM = "Add the numbers with the tool."
TOOL = '''
from verl.tools.function_tool import function_tool


@function_tool
def add(a: int, b: int) -> str:
    """Add two numbers.

    Args:
        a: The first one.
        b: The second one.
    """
    return str(a + b)
'''
REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    # whoever asks the tool gets half of it: about every other episode, so that the episodes of a group differ
    return ("The sum is" in solution_str) / 2 + (f"The sum is {ground_truth}." in solution_str) / 2
"""

_SIZE = TinyPolicyConfig(
    layers=1, hidden_size=64, heads=2, intermediate_size=128, batch_size=4, learning_rate=3e-3, evaluation_episodes=0
)


def write_tool_run(folder: Path, *, rows: int = 16, examples: int = 400) -> None:
    """Write `model/`, `rows.jsonl`, `tools.py` and `reward.py` into `folder`."""
    (folder / "tools.py").write_text(TOOL)
    (folder / "reward.py").write_text(REWARD)
    rng = random.Random(0)
    questions = [_question(rng) for _ in range(rows)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(_row(a, b)) + "\n" for a, b in questions))
    with reproducible(0):
        _write_model(folder / "model", [_question(rng) for _ in range(examples)], folder)


def write_world_policy(folder: Path, env: str, *, boards: int = 64, **settings: Any) -> None:
    """Write the model of a policy that was shown the oracle of a tool world on its first training boards."""
    worlds: list[Any] = [make_world(env, index=index, **settings) for index in range(boards)]
    schemas = sorted({json.dumps(schema, ensure_ascii=False) for world in worlds for schema in world.tools()})
    texts = [text for world in worlds for text in [world.system_prompt(), *_conversation(world)]]
    # ten times: what is rare gets no token of its own
    tokenizer = train_tokenizer([*texts, *schemas * 10], 1500, copied="|".join(map(re.escape, schemas)))
    tokenizer.chat_template = TOOL_TEMPLATE
    codec, size = ChatCodec(tokenizer), replace(_SIZE, epochs=12)
    with reproducible(0):
        model = new_model(size, tokenizer)
        played = [play_oracle(make_world(env, index=index, **settings), codec) for index in range(boards)]
        train(model, tokenizer, list(map(_played_example, played)), size, folder, _unshown)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def _conversation(world: ToolWorld) -> list[str]:
    """What is said in the oracle's episode."""
    played = PlayedCalls(world)
    texts = [message["content"] for message in played.messages()]
    while not played.over:
        calls = [json.loads(call) for call in world.oracle()]
        texts.append(world.oracle_reply())
        played.act([ToolCall(call["name"], call["arguments"]) for call in calls])
        texts += [message["content"] for message in played.messages()]
    return texts


def _played_example(played: Trajectory) -> dict[str, list[int]]:
    """The ids of an episode, and labels on what the policy says."""
    said = [i if mask else -100 for i, mask in zip(played.response_ids, played.response_mask, strict=True)]
    return {
        "input_ids": [*played.prompt_ids, *played.response_ids],
        "labels": [-100] * len(played.prompt_ids) + said,
    }


def _question(rng: random.Random) -> tuple[int, int]:
    return rng.randint(1, 4), rng.randint(1, 4)


def _row(a: int, b: int) -> dict[str, Any]:
    return {
        "prompt": _prompt(a, b),
        "data_source": "sums",
        "reward_model": {"style": "rule", "ground_truth": str(a + b)},
        "extra_info": {"index": a * 10 + b},
    }


def _prompt(a: int, b: int) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"{a} + {b}"}]


def _replies(a: int, b: int) -> tuple[str, str, str]:
    """The call, what the tool says, and the answer."""
    call = json.dumps({"name": "add", "arguments": {"a": a, "b": b}})
    return f"I ask the tool.\n<tool_call>\n{call}\n</tool_call>", str(a + b), f"The sum is {a + b}."


def _write_model(folder: Path, questions: list[tuple[int, int]], scratch: Path) -> None:
    texts = [SYSTEM, *(text for question in questions for text in _replies(*question))]
    tokenizer = train_tokenizer(texts + ["system\n", "user\n", "assistant\n", "tool\n"] * 10, 400)
    codec = ChatCodec(tokenizer)
    model = new_model(_SIZE, tokenizer)
    train(model, tokenizer, [_example(codec, tokenizer, *question) for question in questions], _SIZE, scratch, _unshown)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _unshown(done: int, of: int) -> None:
    """Progress that a test has no use for."""


def _example(codec: ChatCodec, tokenizer: Any, a: int, b: int) -> dict[str, list[int]]:
    """The ids of the conversation as verl's tool loop builds it, and labels on what the policy says."""
    call, told, answer = _replies(a, b)
    between = f"\n<|im_start|>tool\n{told}<|im_end|>\n<|im_start|>assistant\n"
    pieces = [
        (codec.initial_ids(_prompt(a, b)), False),
        ([*tokenizer.encode(call), codec.end_of_turn_id], True),
        (tokenizer.encode(between), False),
        ([*tokenizer.encode(answer), codec.end_of_turn_id], True),
    ]
    return {
        "input_ids": [i for ids, _ in pieces for i in ids],
        "labels": [i if said else -100 for ids, said in pieces for i in ids],
    }
