"""WebShop as a `World`: a goal, a catalogue with a search engine, and the page the buyer is on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from actfocus_verl.environments.base import Action, StepResult, World
from actfocus_verl.environments.settings import LENIENT, PAPER
from actfocus_verl.environments.splits import hex_digest, stable_hash
from actfocus_verl.environments.webshop import generator, pages, paper, prompt
from actfocus_verl.environments.webshop.actions import (
    CLICK,
    NOTHING,
    SEARCH,
    Command,
    parse_command,
    parse_original,
)
from actfocus_verl.environments.webshop.catalogue import SHORT, catalogue
from actfocus_verl.environments.webshop.config import PRESETS, WebShopConfig
from actfocus_verl.environments.webshop.goals import Goal
from actfocus_verl.environments.webshop.pages import Page, PageKind
from actfocus_verl.environments.webshop.reward import purchase_score
from actfocus_verl.environments.webshop.scripted import PLAYER
from actfocus_verl.environments.webshop.search import search_engine


class WebShop(World):
    """A synthetic shop; the score of the purchase is the reward, and the purchase ends the episode."""

    name = "webshop"
    configs = PRESETS
    split_sizes: ClassVar = {"clean": generator.CLEAN_SPLIT_SIZES}
    script = PLAYER

    def __init__(self, goal: Goal, config: WebShopConfig, *, preset: str, split: str, index: int) -> None:
        super().__init__(preset=preset, split=split, index=index, limits=config.limits())
        self.goal = goal
        self.config = config
        self.products = catalogue(config.products)
        self.instruction = goal.instruction
        self.score = 0.0
        self.steps = 0
        self.show(Page())

    @classmethod
    def create(cls, config: WebShopConfig, *, preset: str, split: str, index: int, episode_seed: int) -> WebShop:
        """The shop before its first page; nothing in it is random, so `episode_seed` changes nothing."""
        goal = generator.make_goal(config, preset, split, index)
        return cls(goal, config, preset=preset, split=split, index=index)

    def show(self, page: Page) -> None:
        """Go to a page."""
        self.page = page
        self._links = pages.links(
            page, self.products, self.config.results_per_page, numbered=self.config.pages == SHORT
        )
        self._clicks = {element.lower(): element for element in self._links}
        self._rendered: str | None = None

    def system_prompt(self) -> str:
        if self.limits.prompts == PAPER:
            return paper.SYSTEM_PROMPT
        return prompt.system_prompt(self.limits, self.config.pages)

    def render(self) -> str:
        if self._rendered is None:
            config = self.config
            plain = prompt.render(
                self.instruction, self.page, self._links, self.products, config.results_per_page, config.pages
            )
            self._rendered = self._advised(plain) if self.limits.prompts == PAPER else plain
        return self._rendered

    def _advised(self, plain: str) -> str:
        """The page with the paper's advice and a list of all that can be done, in the place of its buttons."""
        if self.done:
            return plain
        page = plain.partition(f"\n{prompt.BUTTONS}")[0]
        offered = paper.choices(self._links, may_search=self.page.kind is PageKind.SEARCH)
        return f"{page}\n{paper.advice(self.limits)}\n{offered}"

    def parse_action(self, text: str) -> Command | None:
        """The command, when the present page allows it: a search on the search page, a click on what is shown.

        Where replies are read leniently, a search on any page, as in the original; what is not allowed does nothing.
        """
        if self._lenient:
            command = parse_original(text)
            return command if self._allows(command) else NOTHING
        read = parse_command(text)
        return read if read is not None and self._allows(read) else None

    @property
    def _lenient(self) -> bool:
        return self.limits.reply == LENIENT

    def _allows(self, command: Command) -> bool:
        if command.verb == SEARCH:
            return self.page.kind is PageKind.SEARCH or (self._lenient and not self.done)
        return command.argument in self._clicks

    def step(self, action: Action) -> StepResult:
        """Perform a command that the present page allows. Raises ValueError for any other."""
        if self.done:
            raise RuntimeError("WebShop.step after the episode ended")
        command = Command(*action)
        if command != NOTHING and not self._allows(command):
            raise ValueError(f"the {self.page.kind.value} page does not allow {command}")
        self.steps += 1
        if command == NOTHING:
            return StepResult(reward=0.0, done=False, success=False)
        if command.verb == SEARCH:
            self.show(pages.results(search_engine(self.config.products).search(command.argument)))
        else:
            self.show(self._links[self._clicks[command.argument]])
        if self.page.kind is PageKind.BOUGHT and self.page.product is not None:
            bought = self.products[self.page.product]
            self.score = purchase_score(self.goal, bought, dict(self.page.chosen), self.config.pages)
        return StepResult(reward=self.score, done=self.done, success=self.success)

    def reseed(self, episode_seed: int) -> None:
        """Nothing is random during play."""

    def anchor(self) -> int:
        """A hash of goal and page as it is shown: ways that lead to the same page lead to the same state."""
        return stable_hash(f"{self.goal.canonical}\n{self.render()}")

    @property
    def done(self) -> bool:
        return self.page.kind is PageKind.BOUGHT

    @property
    def success(self) -> bool:
        """Whether the purchase has score 1: the strict success, which buying something else is not."""
        return self.score == 1.0

    def outcome(self) -> Mapping[str, float]:
        """purchased: 1 when anything was bought. score: of the purchase, 0 before it."""
        return {"purchased": float(self.done), "score": self.score}

    def known_answer(self) -> str | None:
        """A click on the product the goal is made from, whatever page is shown: the goal does not move."""
        return str(Command(CLICK, self.goal.product.key))

    def optimal_return(self) -> float:
        """The score of the goal's product with as many of the wanted options as the limits leave time for."""
        actions = min(self.limits.max_turns, self.limits.max_actions_per_episode)
        chosen = min(actions - generator.SHORTEST_SOLUTION, len(self.goal.options))
        if chosen < 0:
            return 0.0
        others = len(self.goal.attributes) + 1
        return (others + chosen) / (others + len(self.goal.options))

    def board_hash(self) -> str:
        return hex_digest(f"{self.config.products}/{self.goal.canonical}")

    def stratum(self) -> int:
        return generator.SHORTEST_SOLUTION + len(self.goal.options)
