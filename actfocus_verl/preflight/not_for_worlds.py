"""verl settings for its own prompts and turns, which have no effect in a world: refused, not ignored."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from omegaconf import DictConfig, OmegaConf

from actfocus_verl.errors import ConfigurationError

_MULTI_TURN: Final = "actor_rollout_ref.rollout.multi_turn"


class _Refused(NamedTuple):
    """neutral: verl's default, which is accepted."""

    neutral: Any
    problem: str
    remedy: str


_NO_TOOLS = _Refused(
    None, "a world has no tools: actions are read from the reply's text", "Leave it out, or use env=none"
)
_NO_TURNS = _Refused(None, "a world counts its own turns", "Leave it out, and set env.max_turns")
NOT_FOR_WORLDS: Final = {
    f"{_MULTI_TURN}.tool_config_path": _NO_TOOLS,
    f"{_MULTI_TURN}.function_tool_path": _NO_TOOLS,
    f"{_MULTI_TURN}.max_assistant_turns": _NO_TURNS,
    f"{_MULTI_TURN}.max_user_turns": _NO_TURNS,
    f"{_MULTI_TURN}.use_inference_chat_template": _Refused(
        False, "sampled ids are never re-encoded, so the template is never applied to them again", "Leave it out"
    ),
    "data.truncation": _Refused(
        "error",
        "a world's prompt is never truncated",
        "Leave it out, and set data.max_prompt_length to what the prompt needs",
    ),
    "data.tokenizer": _Refused(
        None, "the tokenizer is the model's", "Leave it out, or set actor_rollout_ref.model.tokenizer_path"
    ),
}
"""By key. Other settings without effect (docs/configuration.md) are harmless in a world."""


def check_not_for_worlds(config: DictConfig) -> None:
    """Raise ConfigurationError for a setting in NOT_FOR_WORLDS that is not neutral."""
    for key, (neutral, problem, remedy) in NOT_FOR_WORLDS.items():
        value = OmegaConf.select(config, key)
        if value is not None and value != neutral:
            raise ConfigurationError(key, value, problem, remedy)
