"""BFCL's and tau2's own scoring of a conversation, and scripts of calls for a server to say.

Everything comes from the packages: tasks and solutions from their data, verdicts from their checkers. Our worlds only
say which task a board is. A script is a list of replies in the format of Hermes; a conversation the messages that a
server was sent and sent itself.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from actfocus_verl.environments.bfcl_multi_turn.tasks import tasks_of
from actfocus_verl.environments.tau2_telecom.tasks import names_of

Call = tuple[str, dict[str, Any]]
Message = Mapping[str, str]

DONE = "done"
KINDS = ("gold", "damaged", "empty", "nonsense")


@dataclass(frozen=True)
class Benchmark:
    """env, split: of the boards. task: the package's id of one. solution: its calls, by turn of the user. score: the
    package's reward of a conversation about it. closing: what is said after the last call."""

    env: str
    package: str
    split: str
    task: Callable[[int], str]
    solution: Callable[[str], list[list[Call]]]
    score: Callable[[str, Sequence[Message]], float]
    closing: str


def written(*calls: Call) -> str:
    """The calls as Hermes and Qwen write them."""
    objects = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
    return "\n".join(f"<tool_call>\n{each}\n</tool_call>" for each in objects)


def read(reply: str) -> list[Call]:
    """The calls in a reply; what is no JSON is none."""
    found = []
    for text in re.findall(r"(?s)<tool_call>(.*?)</tool_call>", reply):
        with contextlib.suppress(ValueError):
            each = json.loads(text)
            found.append((each["name"], each["arguments"]))
    return found


def script(benchmark: Benchmark, kind: str, board: int) -> list[str]:
    """What the model says in the episode on that board."""
    rng = random.Random(f"{benchmark.env}/{kind}/{board}")
    turns = benchmark.solution(benchmark.task(board))
    if kind == "empty":
        turns = [[] for _ in turns]
        if rng.random() < 0.5:
            return ["I have nothing to call."] * len(turns)
    if kind == "nonsense":
        choices = PERFORMED if rng.random() < 0.5 else (*PERFORMED, *UNREADABLE)
        most = rng.choice([6, 30])  # as many as the packages bear, or more
        return [rng.choice(choices) for _ in range(rng.randint(1, most))] + [benchmark.closing] * len(turns)
    if kind == "damaged":
        turns = damaged(turns, rng)
    replies = []
    for calls in turns:
        # a call a reply, or all of a turn in one: the packages take both
        at_once = benchmark.closing != written((DONE, {})) and rng.random() < 0.5
        replies += [written(*calls)] * bool(calls) if at_once else [written(call) for call in calls]
        replies.append(benchmark.closing)
    return replies


PERFORMED = (
    written(("no_such_function", {"x": 1})),
    written(("cd", {"folder": 7})),
    written(("pwd", {"x": []})),
    written(("toggle_airplane_mode", {"x": 1})),
    written(("get_details_by_id", {"id": "?"})),
    written(("pwd", {}), ("no_such_function", {})),
)
UNREADABLE = ("<tool_call>\n{'name': \n</tool_call>", "<tool_call>", "Certainly! " * 5, "")


def damaged(turns: list[list[Call]], rng: random.Random) -> list[list[Call]]:
    """One call left out or repeated, an argument of one changed, or two neighbours swapped."""
    turns = [list(calls) for calls in turns]
    calls = rng.choice([calls for calls in turns if calls])
    place = rng.randrange(len(calls))
    name, arguments = calls[place]
    way = rng.choice(["drop", "change", "swap", "repeat"])
    if way == "swap" and len(calls) > 1:
        place = min(place, len(calls) - 2)
        calls[place : place + 2] = calls[place + 1], calls[place]
    elif way == "repeat":
        calls.insert(place, calls[place])
    elif way == "change" and arguments:
        key = rng.choice(sorted(arguments))
        calls[place] = name, {**arguments, key: _other(arguments[key])}
    else:
        del calls[place]
    return turns


def _other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case list():
            return value[:-1]
    return None


def _bfcl_lines(name: str, folder: str = "") -> dict[str, dict[str, Any]]:
    data = Path(importlib.import_module("bfcl_eval").__file__).parent / "data" / folder
    lines = (data / f"BFCL_v4_{name.rpartition('_')[0]}.json").read_text().splitlines()
    return {each["id"]: each for each in map(json.loads, lines)}


_bfcl_data = cache(_bfcl_lines)
_runs = count()


def bfcl_solution(name: str) -> list[list[Call]]:
    """The possible answer: the package has it as lines of Python."""
    return [[_call(name, line) for line in turn] for turn in _bfcl_data(name, "possible_answer")[name]["ground_truth"]]


def _call(task: str, line: str) -> Call:
    call = ast.parse(line, mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Name)
    paths = importlib.import_module("bfcl_eval.constants.executable_backend_config").CLASS_FILE_PATH_MAPPING
    apis = [getattr(importlib.import_module(paths[each]), each) for each in _bfcl_data(task)[task]["involved_classes"]]
    (function,) = {getattr(api, call.func.id) for api in apis if hasattr(api, call.func.id)}
    _, *names = inspect.signature(function).parameters
    placed = dict(zip(names, map(ast.literal_eval, call.args), strict=False))
    return call.func.id, placed | {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}


def bfcl_score(name: str, conversation: Sequence[Message]) -> float:
    """`multi_turn_checker`'s verdict; as in `eval_runner`, a conversation without all turns of the user is wrong.

    It evaluates the calls as text, which a test may do with calls of its own.
    """
    checker = importlib.import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker")
    turns: list[list[list[str]]] = [[]]
    for reply in (message["content"] for message in conversation if message["role"] == "assistant"):
        # as the package's `convert_to_function_call` writes them, which cannot be imported without its parsers of Java
        lines = [f"{name}({','.join(f'{k}={v!r}' for k, v in arguments.items())})" for name, arguments in read(reply)]
        if lines:
            turns[-1].append(lines)
        else:
            turns.append([])
    gold = _bfcl_data(name, "possible_answer")[name]["ground_truth"]
    if len(turns) - 1 != len(gold):
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        found = checker.multi_turn_checker(turns[:-1], gold, _bfcl_data(name)[name], "", f"model{next(_runs)}")
    return float(found["valid"])


@cache
def _tau2_task(name: str) -> Any:
    path = importlib.import_module("tau2.domains.telecom.utils").TELECOM_TASK_SET_PATH
    (entry,) = (each for each in json.loads(Path(path).read_text()) if each["id"] == name)
    return importlib.import_module("tau2.data_model.tasks").Task.model_validate(entry)


def tau2_solution(name: str) -> list[list[Call]]:
    """The gold actions."""
    return [[(action.name, action.arguments) for action in _tau2_task(name).evaluation_criteria.actions]]


def tau2_score(name: str, conversation: Sequence[Message]) -> float:
    """What the package's evaluators of environment and actions make of the messages.

    Both are multiplied as in `evaluate_simulation`, which needs the package's client of language models; and as there,
    only a conversation that the agent stopped is looked at. The evaluator of the environment replays the calls and
    raises ValueError where it gets another answer than the conversation holds.
    """
    from tau2.data_model import message as messages
    from tau2.domains.telecom.environment import get_environment
    from tau2.evaluator.evaluator_action import ActionEvaluator
    from tau2.evaluator.evaluator_env import EnvironmentEvaluator

    task, said, waiting = _tau2_task(name), [], []
    for number, message in enumerate(conversation):
        if message["role"] == "assistant":
            calls = read(message["content"])
            if DONE in [function for function, _ in calls]:
                break
            waiting = [messages.ToolCall(id=f"{number}-{i}", name=n, arguments=a) for i, (n, a) in enumerate(calls)]
            said.append(messages.AssistantMessage(role="assistant", tool_calls=waiting, content=message["content"]))
        elif message["role"] == "tool":
            said.append(messages.ToolMessage(id=waiting.pop(0).id, role="tool", content=message["content"]))
    else:
        return 0.0
    reward = EnvironmentEvaluator.calculate_reward(get_environment, task, said, solo_mode=True).reward
    if any(basis.value == "ACTION" for basis in task.evaluation_criteria.reward_basis):
        reward *= ActionEvaluator.calculate_reward(task, said).reward
    return float(reward)


BFCL = Benchmark(
    env="bfcl_multi_turn",
    package="bfcl_eval",
    split="evaluation",
    task=lambda board: tasks_of("all", "evaluation")[board].name,
    solution=bfcl_solution,
    score=bfcl_score,
    closing="Done.",
)
TAU2 = Benchmark(
    env="tau2_telecom",
    package="tau2",
    split="train",  # the package's own, of all three issues
    task=lambda board: names_of("official", "train")[board],
    solution=tau2_solution,
    score=tau2_score,
    closing=written((DONE, {})),
)
