"""Text worlds to act in: pure Python and NumPy, one folder a world. See `base` for what a world is."""

from actfocus_verl.environments.base import Action, Limits, StepResult, World
from actfocus_verl.environments.protocol import ACTION_SEPARATOR, turn_message
from actfocus_verl.environments.registry import known_presets, known_worlds, make_world, register_world, split_size
from actfocus_verl.environments.splits import SPLITS

__all__ = [
    "ACTION_SEPARATOR",
    "SPLITS",
    "Action",
    "Limits",
    "StepResult",
    "World",
    "known_presets",
    "known_worlds",
    "make_world",
    "register_world",
    "split_size",
    "turn_message",
]
