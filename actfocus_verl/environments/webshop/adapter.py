"""The original WebShop (princeton-nlp/WebShop, Yao et al. 2022) behind our interface, where a user has installed it.

Choose it by the path of its class: `env.name=actfocus_verl.environments.webshop.adapter:WebShopOriginal
env.preset=original`. Its goals and splits are the original's: shuffled goals, 500 to test, 1,000 to evaluate, the rest
to train. Nothing of it is copied here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any, ClassVar

from actfocus_verl.checks import require_integer
from actfocus_verl.environments.base import Action, StepResult, World
from actfocus_verl.environments.distinct import no_such_board
from actfocus_verl.environments.settings import WorldConfig
from actfocus_verl.environments.splits import hex_digest, stable_hash
from actfocus_verl.environments.webshop import prompt
from actfocus_verl.environments.webshop.actions import SEARCH, Command, parse_command
from actfocus_verl.environments.webshop.catalogue import FULL
from actfocus_verl.environments.webshop.generator import RAGEN_EVALUATION, RAGEN_TEST, SHORTEST_SOLUTION
from actfocus_verl.errors import ConfigurationError, one_line

_FIRST_TRAINING_GOAL = RAGEN_TEST + RAGEN_EVALUATION
_QUERY_LINE = "current query"
_SEARCH_BUTTON = "search"
_PRICE_SEED = 0
_SESSIONS = count()
_INSTALL = (
    "Clone https://github.com/princeton-nlp/WebShop, run its ./setup.sh -d small (it installs the requirements with "
    "pyserini, an OpenJDK 11 through conda, the data files items_*.json, spaCy's en_core_web_lg and the Lucene index), "
    "and put the clone on PYTHONPATH of every process; or use env.name=webshop, which needs none of this"
)


@dataclass(frozen=True, kw_only=True)
class WebShopOriginalConfig(WorldConfig):
    """products: 100, 1000 or 100000, for which the original has an index; 0 for all that its data files hold.

    human_goals: 1 for the instructions that people wrote, 0 for the generated ones.
    """

    products: int = 1000
    human_goals: int = 0
    max_turns: int = 9
    max_actions_per_turn: int = 1
    max_actions_per_episode: int = 9
    max_words: int = 200
    max_turn_tokens: int = 400

    def __post_init__(self) -> None:
        require_integer("env.products", self.products, low=0)
        require_integer("env.human_goals", self.human_goals, low=0, high=1)
        require_integer("env.max_actions_per_turn", self.max_actions_per_turn, low=1, high=1)
        super().__post_init__()


class WebShopOriginal(World):
    """One session in the original shop. Raises ConfigurationError, which says how to install it, where it is not."""

    name = "webshop_original"
    configs: ClassVar = {"original": WebShopOriginalConfig()}
    # Training goals begin anew after the last one: how many there are, only the installed data knows.
    split_sizes: ClassVar = {"original": {"test": RAGEN_TEST, "evaluation": RAGEN_EVALUATION}}

    def __init__(self, config: WebShopOriginalConfig, *, preset: str, split: str, index: int) -> None:
        super().__init__(preset=preset, split=split, index=index, limits=config.limits())
        self.config = config
        server = _server(config.products, config.human_goals)
        self._goal_number = _goal_number(split, index, len(server.goals))
        self._options = len(server.goals[self._goal_number]["goal_options"])
        self._env = _text_env(config.products, config.human_goals, server=server, prefix=f"actfocus-{next(_SESSIONS)}-")
        self._env.reset(session=self._goal_number)
        self._score = 0.0
        self._done = False

    @classmethod
    def create(
        cls, config: WebShopOriginalConfig, *, preset: str, split: str, index: int, episode_seed: int
    ) -> WebShopOriginal:
        return cls(config, preset=preset, split=split, index=index)

    def system_prompt(self) -> str:
        return prompt.system_prompt(self.limits, FULL)

    def render(self) -> str:
        """The page in the original's words, less the line that repeats the model's query, and what can be clicked."""
        lines = (" ".join(line.split()) for line in self._env.observation.splitlines())
        shown = [line for line in lines if line and not line.lower().startswith(_QUERY_LINE)]
        elements = ", ".join(self._elements().values())
        return "\n".join([*shown, f"Elements: {elements}"] if elements else shown)

    def _elements(self) -> dict[str, str]:
        """What can be clicked, by its text in lower case and single spaces."""
        clickable = self._env.get_available_actions()["clickables"]
        return {" ".join(text.lower().split()): text for text in clickable if text != _SEARCH_BUTTON}

    def parse_action(self, text: str) -> Command | None:
        """As in the synthetic shop. A query keeps its words only: the original runs commands hidden in queries."""
        command = parse_command(text)
        if command is None or self._done:
            return None
        if command.verb == SEARCH:
            return command if self._env.get_available_actions()["has_search_bar"] else None
        return command if command.argument in self._elements() else None

    def step(self, action: Action) -> StepResult:
        if self.done:
            raise RuntimeError("WebShopOriginal.step after the episode ended")
        verb, argument = action
        element = argument if verb == SEARCH else self._elements()[argument]
        _, reward, self._done, _ = self._env.step(f"{verb}[{element}]")
        self._score = float(reward)
        return StepResult(reward=self._score, done=self.done, success=self.success)

    def reseed(self, episode_seed: int) -> None:
        """Nothing is random during play."""

    def anchor(self) -> int:
        return stable_hash(f"{self.board_hash()}\n{self.render()}")

    @property
    def done(self) -> bool:
        return self._done

    @property
    def success(self) -> bool:
        """Whether the purchase has score 1."""
        return self._score >= 1.0

    def outcome(self) -> Mapping[str, float]:
        return {"purchased": float(self.done), "score": self._score}

    def optimal_return(self) -> float:
        """1: nobody searched for the best play, but the goal's own product scores 1."""
        return 1.0

    def board_hash(self) -> str:
        return hex_digest(f"{self.name}/{self.config.products}/{self.config.human_goals}/{self._goal_number}")

    def stratum(self) -> int:
        return SHORTEST_SOLUTION + self._options


def _goal_number(split: str, index: int, goals: int) -> int:
    if goals <= _FIRST_TRAINING_GOAL:
        raise no_such_board(split, index, f"more than {_FIRST_TRAINING_GOAL} goals", f"{goals} goals in the data")
    if split == "train":
        return _FIRST_TRAINING_GOAL + index % (goals - _FIRST_TRAINING_GOAL)
    return index if split == "test" else RAGEN_TEST + index


@lru_cache(maxsize=2)
def _server(products: int, human_goals: int) -> Any:
    """Catalogue, index and goals of the original, loaded once a process (minutes for all products).

    It draws prices and price bounds from Python's global generator without a seed: they are fixed here, or every
    process would have other goals.
    """
    state = random.getstate()
    random.seed(_PRICE_SEED)
    try:
        return _text_env(products, human_goals, server=None, prefix=None).server
    finally:
        random.setstate(state)


def _text_env(products: int, human_goals: int, *, server: Any, prefix: str | None) -> Any:
    try:
        from web_agent_site.envs import WebAgentTextEnv

        return WebAgentTextEnv(
            observation_mode="text_rich",
            server=server,
            num_products=products or None,
            human_goals=bool(human_goals),
            session_prefix=prefix,
        )
    except Exception as error:  # what lacks a JVM, an index, a model or a file fails with types of its own
        cause = f"{type(error).__name__}: {one_line(error, 200)}"
        raise ConfigurationError(
            "env.name", WebShopOriginal.name, f"the original WebShop cannot be loaded ({cause})", _INSTALL
        ) from error
