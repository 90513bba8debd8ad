"""Everything about BabyAI that a preset sets and a user may override."""

from __future__ import annotations

from dataclasses import dataclass

from actfocus_verl.environments.settings import WorldConfig
from actfocus_verl.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class BabyAIConfig(WorldConfig):
    """levels: names of BabyAI's levels joined by commas, the easiest first: board i is one of level i modulo them."""

    levels: str = "GoToObj,GoToRedBall,GoToLocal,PickupLoc,PutNextLocal,UnlockLocal"
    max_turns: int = 24
    max_actions_per_turn: int = 3
    max_actions_per_episode: int = 64
    max_words: int = 120
    max_turn_tokens: int = 400

    def __post_init__(self) -> None:
        if not isinstance(self.levels, str) or not all(self.level_names):
            raise ConfigurationError(
                "env.levels", self.levels, "must be names joined by commas", "Write for example GoToObj,GoToLocal"
            )
        super().__post_init__()

    @property
    def level_names(self) -> tuple[str, ...]:
        """The levels, each by its name without `BabyAI-` and version."""
        return tuple(name.strip() for name in self.levels.split(","))


PRESETS: dict[str, BabyAIConfig] = {
    "one_room": BabyAIConfig(),
    "easy": BabyAIConfig(
        levels="GoToObjS6,GoToLocalS6N2,GoToLocalS8N2",
        max_turns=8,
        max_actions_per_turn=3,
        max_actions_per_episode=24,
        max_words=60,
        max_turn_tokens=160,
    ),
    "maze": BabyAIConfig(
        levels="GoTo,Open,Pickup,Unlock,GoToSeq,Synth,BossLevel",
        max_turns=60,
        max_actions_per_turn=6,
        max_actions_per_episode=320,
    ),
}
