"""TextCraft as a `World`: the package's environment behind one task."""

from __future__ import annotations

from actfocus_verl.environments.answers import join_actions
from actfocus_verl.environments.base import Action, StepResult, World
from actfocus_verl.environments.distinct import no_such_board
from actfocus_verl.environments.splits import hex_digest, stable_hash
from actfocus_verl.environments.textcraft import prompt
from actfocus_verl.environments.textcraft.commands import parse_command
from actfocus_verl.environments.textcraft.config import PRESETS, TextCraftConfig
from actfocus_verl.environments.textcraft.planner import shortest_plan
from actfocus_verl.environments.textcraft.recipes import new_game, readable
from actfocus_verl.environments.textcraft.scripted import PLAYER
from actfocus_verl.environments.textcraft.tasks import Task, goals, task


class TextCraft(World):
    """One task of TextCraft; reward 1 when the goal is crafted, which ends the episode."""

    name = "textcraft"
    configs = PRESETS
    script = PLAYER

    def __init__(self, chosen: Task, config: TextCraftConfig, *, preset: str, split: str, index: int) -> None:
        super().__init__(preset=preset, split=split, index=index, limits=config.limits())
        self.task = chosen
        self._game = new_game(chosen.goal)
        self._done = False
        self._result = ""

    @classmethod
    def create(cls, config: TextCraftConfig, *, preset: str, split: str, index: int, episode_seed: int) -> TextCraft:
        known = goals(split, config.min_depth, config.max_depth)
        if not known or (split != "train" and index >= len(known)):
            settings = f"env.min_depth={config.min_depth}, env.max_depth={config.max_depth}"
            raise no_such_board(split, index, f"{index + 1} goals", settings)
        draw, place = divmod(index, len(known))
        chosen = task(split, known[place], draw, config.distractors)
        return cls(chosen, config, preset=preset, split=split, index=index)

    @classmethod
    def split_size(cls, preset: str, split: str) -> int | None:
        """Goals of the split; training goes through its goals again with other distractors, without an end."""
        config = cls.configs[preset]
        return None if split == "train" else len(goals(split, config.min_depth, config.max_depth))

    @property
    def inventory(self) -> dict[str, int]:
        """Amounts by the names of items, in the order in which they came."""
        return {readable(item): amount for item, amount in self._game.inventory.items() if amount}

    def system_prompt(self) -> str:
        return prompt.system_prompt(self.task, self.limits)

    def render(self) -> str:
        return prompt.render(self.task, self.inventory, self._result)

    def parse_action(self, text: str) -> str | None:
        """The command in its plainest spelling; see `parse_command`."""
        return parse_command(text)

    def step(self, action: Action) -> StepResult:
        if self.done:
            raise RuntimeError("TextCraft.step after the episode ended")
        observation, reward, self._done, _, _ = self._game.step(action)
        self._result = prompt.result_of(observation)
        return StepResult(reward=float(reward), done=self.done, success=self.success)

    def reseed(self, episode_seed: int) -> None:
        """Nothing is random during play."""

    def anchor(self) -> int:
        return stable_hash(f"{self.board_hash()}/{self.done}/{sorted(self.inventory.items())}")

    @property
    def done(self) -> bool:
        return self._done

    success = done

    def known_answer(self) -> str | None:
        """The next commands of the shortest plan, as many as a reply may hold."""
        return None if self.done else join_actions(self.oracle())

    def optimal_return(self) -> float:
        """1, or 0 where the shortest plan is longer than an episode."""
        limits = self.limits
        most = min(limits.max_turns * limits.max_actions_per_turn, limits.max_actions_per_episode)
        return float(len(shortest_plan(self.task.goal)) <= most)

    def board_hash(self) -> str:
        shown = "\n".join(sorted(self.task.shown))
        return hex_digest(f"{self.name}/{self.task.goal}/{shown}")

    def stratum(self) -> int:
        """Depth of the goal's recipe tree."""
        return self.task.depth
