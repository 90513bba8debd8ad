"""Stages of a run's start: verl reports nothing until its first step, but creates its actors in a known order."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import ray

from actfocus_verl.config import ray_address

_ENGINES: Final = {"vllm": "vLLM", "sglang": "SGLang"}
_SERVER: Final = "server_"
"""In the names of rollout servers, which are created once the models are loaded."""
_AGENT_LOOP: Final = "agent_loop_worker_"
"""In the names of agent-loop workers, which are created once the servers answer."""


class StartUp:
    """Returns the stage that a run's start has reached, and notes how long each took.

    config: the whole configuration. seconds: takes those of each stage that another has followed, by its name; half a
    second passes between two looks. began: when the command did, in seconds of `clock`.
    """

    def __init__(
        self,
        config: Any,
        seconds: dict[str, float] | None = None,
        *,
        began: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds, self._clock = {} if seconds is None else seconds, clock
        self._stage, self._since = "checking the configuration", began
        engine = str(config.actor_rollout_ref.rollout.name)
        self._engine = _ENGINES.get(engine, engine)
        self._evaluates = bool(config.trainer.get("val_before_train", True))
        self._before = "starting Ray" if ray_address(config) is None else "connecting to Ray"

    def __call__(self) -> str | None:
        """The current stage, as far as the cluster shows it; None when it does not answer."""
        stage = self._look()
        if stage is not None and stage != self._stage:
            now = self._clock()
            self._seconds[self._stage] = round(now - self._since, 1)
            self._stage, self._since = stage, now
        return stage

    def _look(self) -> str | None:
        if not ray.is_initialized():
            return self._before
        try:
            names = ray.util.list_named_actors()
        except (ray.exceptions.RayError, RuntimeError, ValueError):  # half connected, or ending
            return None
        if any(_AGENT_LOOP in name for name in names):
            return "evaluating" if self._evaluates else "playing the first episodes"
        if any(_SERVER in name for name in names):
            return f"starting {self._engine}"
        return "loading the models"
