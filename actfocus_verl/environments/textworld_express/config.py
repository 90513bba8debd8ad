"""Everything about TextWorldExpress that a preset sets and a user may override."""

from __future__ import annotations

import re
from dataclasses import dataclass

from actfocus_verl.checks import require_integer
from actfocus_verl.environments.settings import WorldConfig
from actfocus_verl.errors import ConfigurationError

GAMES = ("simonsays", "peckingorder", "arithmetic", "sorting", "mapreader", "coin", "twc", "cookingworld")
"""From the shortest solutions to the longest."""


@dataclass(frozen=True, kw_only=True)
class TextWorldExpressConfig(WorldConfig):
    """games: joined by `|`, each with the package's parameters behind it; board i is of game i modulo them.

    For example `coin numLocations=4,includeDoors=0|twc`.
    """

    games: str = "|".join(GAMES)
    max_turns: int = 60
    max_actions_per_turn: int = 1
    max_actions_per_episode: int = 60
    max_words: int = 120
    max_turn_tokens: int = 400

    def __post_init__(self) -> None:
        named = [name for name, _ in self.parsed_games] if isinstance(self.games, str) else []
        if not named or not set(named) <= set(GAMES):
            raise ConfigurationError(
                "env.games", self.games, "must be known games joined by |", f"Known: {', '.join(GAMES)}"
            )
        for name, parameters in self.parsed_games:
            if parameters and not re.fullmatch(r"\w+=-?\d+(,\w+=-?\d+)*", parameters):
                raise ConfigurationError(
                    "env.games",
                    f"{name} {parameters}",
                    "must have parameters of the form name=integer, joined by commas",
                    "Write them like: coin numLocations=4,includeDoors=0",
                )
        # a command is admissible in the state it was chosen in
        require_integer("env.max_actions_per_turn", self.max_actions_per_turn, low=1, high=1)
        super().__post_init__()

    @property
    def parsed_games(self) -> tuple[tuple[str, str], ...]:
        """(game, parameters), as the package takes them."""
        parts = (part.strip().partition(" ") for part in self.games.split("|"))
        return tuple((name, parameters.replace(" ", "")) for name, _, parameters in parts)


_EASY = (
    "simonsays",
    "peckingorder",
    "coin numLocations=4,includeDoors=0,numDistractorItems=0",
    "twc numLocations=1,numItemsToPutAway=1,includeDoors=0",
)

PRESETS: dict[str, TextWorldExpressConfig] = {
    "package": TextWorldExpressConfig(),
    "easy": TextWorldExpressConfig(
        games="|".join(_EASY), max_turns=12, max_actions_per_episode=12, max_words=60, max_turn_tokens=160
    ),
}
