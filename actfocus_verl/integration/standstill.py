"""A tool that never returns ends the run, and an episode that fails leaves its reason in the run's folder.

verl waits for an agent loop for ever, and of one that fails it tells the trainer only that it did. Both are met around
`AgentLoopWorker._run_agent_loop`, for which verl 0.9.1 has no hook: it is replaced once it is imported. The worker's
client of the servers tells which episodes wait for the policy.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

from omegaconf import OmegaConf

from actfocus_verl.errors import one_line
from actfocus_verl.integration.dataset import GATEWAY_AGENT_NAME
from actfocus_verl.integration.episode_notes import note_episode
from actfocus_verl.rollout import StandstillWatch, waiting_elsewhere
from actfocus_verl.run_files import FAILED_EPISODES_FILE

TOOL_TIMEOUT: Final = "run.tool_timeout"
_WATCH: Final = "_actfocus_standstill"


def install(agent_loops: ModuleType) -> None:
    """Replace the method; idempotent. agent_loops: `verl.experimental.agent_loop`."""
    worker = agent_loops.AgentLoopWorker
    original = worker._run_agent_loop
    if hasattr(original, _WATCH):
        return

    @functools.wraps(original)
    async def run(self: Any, sampling_params: Any, trajectory: Any, *, agent_name: str, **row: Any) -> Any:
        episode = original(self, sampling_params, trajectory, agent_name=agent_name, **row)
        try:
            # the gateway's agents have their own limit, `agent.timeout`, and ask the policy from another task
            watch = None if agent_name == GATEWAY_AGENT_NAME else watch_of(self)
            return await (episode if watch is None else watch.play(_name(agent_name, row), episode))
        except Exception as error:
            note_failure(self.config, error, row)
            raise

    setattr(run, _WATCH, True)
    worker._run_agent_loop = run


def watch_of(worker: Any) -> StandstillWatch | None:
    """The watch of an agent-loop worker; None without a limit, as in a command of verl's own."""
    seconds = OmegaConf.select(worker.config, TOOL_TIMEOUT)
    if seconds is None:
        return None
    watch: StandstillWatch | None = vars(worker).get(_WATCH)
    if watch is None:
        watch = StandstillWatch(float(seconds), TOOL_TIMEOUT)
        setattr(worker, _WATCH, watch)
        generate = worker.llm_client.generate

        async def generate_elsewhere(*words: Any, **fields: Any) -> Any:
            with waiting_elsewhere():
                return await generate(*words, **fields)

        worker.llm_client.generate = generate_elsewhere
    return watch


def note_failure(config: Any, error: Exception, row: Mapping[str, Any]) -> None:
    """Append why an episode failed to the run's folder, where the trainer finds it; elsewhere it is in the log only."""
    with contextlib.suppress(OSError):  # the error itself is in the worker's log
        note_episode(config, FAILED_EPISODES_FILE, row, error=f"{type(error).__name__}: {one_line(error, 2000)}")


def _name(agent_name: str, row: Mapping[str, Any]) -> str:
    return f"an episode ({agent_name}, row {row.get('index', '?')}, session {row.get('session_id', '?')})"
