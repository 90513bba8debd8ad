"""reasoning-gym's procedural questions: one answer, scored by the dataset."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

from actfocus_verl.environments.adapters.base import (
    PRESET,
    AdaptedWorld,
    AdapterConfig,
    Board,
    PrivateRandomness,
    require_package,
)
from actfocus_verl.environments.answers import action_rules
from actfocus_verl.environments.base import Action, StepResult
from actfocus_verl.errors import ConfigurationError

_NAMES = """
ab acre aiw arc_1d base_conversion basic_arithmetic binary_alternation caesar_cipher calendar_arithmetic chain_sum
circuit_logic color_cube_rotation count_bits count_primes course_schedule decimal_chain_sum dice family_relationships
figlet_font futoshiki gcd group_anagrams knights_knaves largest_island lcm leg_counting letter_counting letter_jumble
list_functions mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid needle_haystack number_filtering
number_format number_sequence palindrome_generation path_star products rotate_matrix rotten_oranges self_reference
sentence_reordering shortest_path simple_equations simple_geometry spell_backward string_manipulation string_splitting
string_synthesis sudoku syllogism tower_of_hanoi word_sequence_reversal word_sorting zebra_puzzles
"""
TASKS = tuple(_NAMES.split())
"""Datasets whose scoring was read in reasoning-gym 0.1.25: it evaluates no part of the answer as code, and a question
depends on nothing but its seed. The README names the others and why they are left out."""

MAX_ANSWER_CHARACTERS = 2000

_UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What a scorer raises at an answer it did not expect."""


class ReasoningGymQuestion(AdaptedWorld):
    """One question of `reasoning_gym.create_dataset(task)`. Reward: the score in [0, 1]; success: the full score."""

    name = "reasoning_gym_question"
    configs: ClassVar = {
        PRESET: AdapterConfig(
            task="chain_sum",
            max_turns=1,
            max_actions_per_turn=1,
            max_actions_per_episode=1,
            max_words=120,
            max_turn_tokens=400,
        )
    }

    def __init__(self, config: AdapterConfig, board: Board, episode_seed: int) -> None:
        super().__init__(config, board, episode_seed)
        if config.task not in TASKS:
            raise ConfigurationError("env.task", config.task, "no offered dataset", f"Use one of: {', '.join(TASKS)}")
        self._dataset, self._entry = _question(config.task, board.seed())
        self._begin(self.render())

    def system_prompt(self) -> str:
        return f"Answer the question. The action is the answer itself, nothing beside it. {action_rules(self.limits)}"

    def render(self) -> str:
        return str(self._entry["question"])

    def parse_action(self, text: str) -> str | None:
        """The stripped text, unless it is empty or longer than `MAX_ANSWER_CHARACTERS`."""
        return text.strip() or None if len(text) <= MAX_ANSWER_CHARACTERS else None

    def reseed(self, episode_seed: int) -> None:
        """Nothing is random during play."""

    def _act(self, action: Action) -> StepResult:
        try:
            score = float(self._dataset.score_answer(action, self._entry))
        except _UNREADABLE:
            score = 0.0
        return StepResult(reward=score, done=True, success=score >= 1.0)


@lru_cache(maxsize=256)
def _question(task: str, seed: int) -> tuple[Any, dict[str, Any]]:
    """The dataset of one question, and the question; a group plays the same one many times."""
    with PrivateRandomness(seed)():  # some datasets draw from the shared generators as well
        reasoning_gym = require_package("reasoning_gym")
        dataset = reasoning_gym.create_dataset(task, seed=seed, size=1)
        return dataset, dataset[0]
