"""The `agent` section of a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from actfocus_verl.checks import require_choice, require_integer, require_number
from actfocus_verl.errors import ConfigurationError

UNFINISHED: Final = ("count", "mask", "punish")
SAMPLING: Final = ("trainer", "strict")


@dataclass(frozen=True)
class AgentSettings:
    """The agent, its limits, and what becomes of a conversation that it does not finish."""

    function: str | None = None
    """`module:function`."""
    command: str | None = None
    """Or a command to run."""
    timeout: float = 600.0
    """Seconds for one conversation."""
    max_turns: int = 64
    """Replies per conversation."""
    max_tokens: int | None = None
    """Sampled tokens per conversation."""
    sampling: str = "trainer"
    """Requests with another temperature and the like: ignored, or refused (`strict`)."""
    unfinished: str = "count"
    """A conversation whose agent raises, hangs or returns no reward has reward 0 and trains (`count`), has reward 0 and
    trains nothing (`mask`), or has reward `punishment` and trains (`punish`). In each case it counts in its group."""
    punishment: float = -1.0

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> AgentSettings:
        """Raises ConfigurationError, naming the key, for an unknown key or an impossible value."""
        for key in section:
            if key not in cls.__dataclass_fields__:
                known = ", ".join(f"agent.{name}" for name in cls.__dataclass_fields__)
                raise ConfigurationError(f"agent.{key}", section[key], "is not a known key", f"Known: {known}")
        settings = cls(**section)
        for key in ("function", "command"):
            value = getattr(settings, key)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise ConfigurationError(f"agent.{key}", value, "must be a text", "Write agent=module:function")
        require_number("agent.timeout", settings.timeout, low=0.0, open_low=True)
        require_integer("agent.max_turns", settings.max_turns, low=1)
        if settings.max_tokens is not None:
            require_integer("agent.max_tokens", settings.max_tokens, low=1)
        require_choice("agent.sampling", settings.sampling, choices=SAMPLING)
        require_choice("agent.unfinished", settings.unfinished, choices=UNFINISHED)
        require_number("agent.punishment", settings.punishment)
        return settings

    def reward(self, given: float | None, posted: float | None, *, finished: bool) -> float:
        """The conversation's reward. given: what the agent returned. posted: to `reward_info`, which wins."""
        known = given if posted is None else posted
        if finished:
            return float(known or 0.0)
        return self.punishment if self.unfinished == "punish" else float(known or 0.0)
