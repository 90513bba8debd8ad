"""BabyAI in words: missions in rooms of objects and doors. See README.md in this folder."""

from actfocus_verl.environments.babyai.world import BabyAI

__all__ = ["BabyAI"]
