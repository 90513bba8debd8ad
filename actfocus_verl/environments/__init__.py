"""Text worlds to act in: pure Python and NumPy, one folder a world. See `base` for what a world is."""

from actfocus_verl.environments.answers import ACTION_SEPARATOR, action_rules
from actfocus_verl.environments.base import Action, Observation, StepResult, World, observe
from actfocus_verl.environments.protocol import PlayedTurns, TurnOutcome, execute_turn, turn_message
from actfocus_verl.environments.registry import (
    acts_by_tools,
    is_slow,
    known_presets,
    known_worlds,
    make_world,
    register_world,
    scripted_player,
    split_size,
    world_config,
)
from actfocus_verl.environments.scripted import COUPLINGS, ScriptedPlayer
from actfocus_verl.environments.settings import Limits, WorldConfig
from actfocus_verl.environments.splits import SPLITS
from actfocus_verl.environments.tools import ToolCall, ToolWorld, ToolWorldConfig, function_schema

__all__ = [
    "ACTION_SEPARATOR",
    "COUPLINGS",
    "SPLITS",
    "Action",
    "Limits",
    "Observation",
    "PlayedTurns",
    "ScriptedPlayer",
    "StepResult",
    "ToolCall",
    "ToolWorld",
    "ToolWorldConfig",
    "TurnOutcome",
    "World",
    "WorldConfig",
    "action_rules",
    "acts_by_tools",
    "execute_turn",
    "function_schema",
    "is_slow",
    "known_presets",
    "known_worlds",
    "make_world",
    "observe",
    "register_world",
    "scripted_player",
    "split_size",
    "turn_message",
    "world_config",
]
