"""reasoning-gym's questions: scores, and that no answer is ever run as code."""

from __future__ import annotations

import re

import pytest

from actfocus_verl.environments.adapters.reasoning_gym_question import MAX_ANSWER_CHARACTERS, TASKS
from actfocus_verl.errors import ConfigurationError
from tests.environments.adapters.cases import REASONING_GYM, run_python

pytest.importorskip("reasoning_gym")


def sum_of(question: str) -> int:
    """By hand: the signed numbers of a chain like `4 - 3 + 2`."""
    chain = re.search(r"[0-9][0-9 +-]*(?= =)", question)[0].replace(" ", "")
    return sum(int(term) for term in re.findall(r"[+-]?[0-9]+", chain))


def test_the_right_answer_scores_one_and_ends_the_episode():
    for index in range(10):
        world = REASONING_GYM.world(task="chain_sum", index=index)
        result = world.step(world.parse_action(f"  {sum_of(world.render())}\n"))
        assert (result.reward, result.done, result.success) == (1.0, True, True)


def test_a_wrong_answer_scores_what_the_dataset_says():
    world = REASONING_GYM.world(task="chain_sum")
    answer = f"x{sum_of(world.render())}"
    result = world.step(world.parse_action(answer))
    # chain_sum's rule: the share of the text that is the number
    assert result.reward == pytest.approx((len(answer) - 1) / len(answer))
    assert (result.done, result.success) == (True, False)


def test_a_scorer_that_fails_scores_nothing():
    world = REASONING_GYM.world(task="chain_sum")

    def score_answer(answer, entry):
        raise OverflowError("int too large to convert to float")

    world._dataset = type("Broken", (), {"score_answer": staticmethod(score_answer)})
    assert world.step("9" * 400).reward == 0.0
    assert world.done


def test_answers_are_bounded():
    world = REASONING_GYM.world()
    assert world.parse_action(" a b ") == "a b"
    assert world.parse_action("7" * MAX_ANSWER_CHARACTERS) is not None
    assert world.parse_action("7" * (MAX_ANSWER_CHARACTERS + 1)) is None
    assert world.parse_action(" \n\t") is None


@pytest.mark.parametrize("task", ["spiral_matrix", "countdown", "puzzle24", "n_queens", "composite"])
def test_datasets_that_run_answers_as_code_are_refused(task):
    with pytest.raises(ConfigurationError, match=f"env.task='{task}': no offered dataset"):
        REASONING_GYM.world(task=task)


_EVERY_DATASET = """
import random, sys
import numpy
import reasoning_gym
from actfocus_verl.environments.adapters.reasoning_gym_question import TASKS
from actfocus_verl.environments.splits import hex_digest
from tests.environments.adapters.cases import REASONING_GYM

HOSTILE = ["__import__('os').system('true')", "[1, 2]", "1+1", "{", "[[[[", "1e999999999", "9" * 1900, "1/0",
           "nan", "((((", "'", '{"a": 1}', "null", "A=1", "a, b", "Move disk 1 from Peg 1 to Peg 3",
           "1:2:3", "\\x00", "\\ud800"]
RUNS = {"compile", "exec", "open", "os.system", "os.exec", "subprocess.Popen", "socket.connect"}
events = []
sys.addaudithook(lambda event, arguments: events.append(event) if event in RUNS else None)
shared = random.getstate(), numpy.random.get_state()[1].tolist()
for task in TASKS:
    world = REASONING_GYM.world(task=task, index=2, split="evaluation")
    rest = [REASONING_GYM.world(task=task, index=2, split="evaluation") for _ in HOSTILE]
    events.clear()
    assert world.step(world.parse_action(str(world._entry["answer"]))).success, task
    for other, answer in zip(rest, HOSTILE):
        assert 0.0 <= other.step(other.parse_action(answer)).reward <= 1.0, (task, answer)
    assert not events, (task, events)
    print(task, hex_digest(world.render()))
assert shared == (random.getstate(), numpy.random.get_state()[1].tolist())
refused = reasoning_gym.create_dataset("spiral_matrix", seed=1, size=1)
events.clear()
refused.score_answer(HOSTILE[0], refused[0])
print("refused:", *sorted(set(events)))
"""


@pytest.mark.nightly
def test_no_offered_dataset_runs_an_answer_and_all_depend_on_their_seed_only():
    """In two processes that differ in their hash seed; the audit hook does notice what a refused dataset runs."""
    printed = run_python(_EVERY_DATASET, hash_seed="1")
    assert printed == run_python(_EVERY_DATASET, hash_seed="2")
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(TASKS)
    assert lines[-1] == "refused: compile exec os.system"
