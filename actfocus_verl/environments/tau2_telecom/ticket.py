"""One ticket being worked on: the package's environment in solo mode, and its own judgement."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from threading import Lock
from types import SimpleNamespace
from typing import Any, Final
from uuid import UUID

from actfocus_verl.environments.bare_packages import require_bare
from actfocus_verl.environments.splits import stable_hash
from actfocus_verl.environments.tools import Schema
from actfocus_verl.files import json_text

_DOMAIN: Final = "tau2.domains.telecom"


class Ticket:
    """A task of the package in progress."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        _keep_quiet()
        self.task = require_bare("tau2.data_model.tasks").Task.model_validate(entry)
        self._env = _environment()
        self._calls: list[Any] = []
        self.errors = 0
        initial = self.task.initial_state
        if initial is not None:
            with self._bill_numbers():
                self._env.set_state(initial.initialization_data, initial.initialization_actions, [])

    @property
    def policy(self) -> str:
        """The package's policy for the agent, whole."""
        return str(self._env.get_policy())

    @property
    def gold(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Names and arguments of the package's solution."""
        return [(action.name, action.arguments) for action in self.task.evaluation_criteria.actions or []]

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """What a function says, the user's phone included; `sync_tools` follows, as in the package. Raises nothing."""
        message = require_bare("tau2.data_model.message")
        call = message.ToolCall(id=str(len(self._calls)), name=name, arguments=dict(arguments), requestor="assistant")
        self._calls.append(call)
        with self._bill_numbers():
            answer = self._env.get_response(call)
        self.errors += bool(answer.error)
        return answer.content or ""

    def solved(self) -> bool:
        """Whether the package's assertions hold in the present state, and its actions are among those taken, if it
        asks for them."""
        criteria = self.task.evaluation_criteria
        if not all(
            self._env.run_env_assertion(each, raise_assertion_error=False) for each in criteria.env_assertions or []
        ):
            return False
        actions = (criteria.actions or []) if any(each.value == "ACTION" for each in criteria.reward_basis) else []
        return all(any(action.compare_with_tool_call(call) for call in self._calls) for action in actions)

    @contextmanager
    def _bill_numbers(self) -> Iterator[None]:
        """Within, bills get numbers by ticket and call: the package draws them anew in every process."""
        tools: Any = require_bare(f"{_DOMAIN}.tools")
        seed = f"{self.task.id}/{len(self._calls)}"
        with _lock:
            drawn, tools.uuid = tools.uuid, SimpleNamespace(uuid4=lambda: UUID(int=stable_hash(seed, bits=128)))
            try:
                yield
            finally:
                tools.uuid = drawn


_lock = Lock()


@cache
def _databases() -> tuple[Any, Any]:
    """The package's customers and phone, as they are at first. Reading them takes longer than an episode."""
    paths = require_bare(f"{_DOMAIN}.utils")
    return (
        require_bare(f"{_DOMAIN}.data_model").TelecomDB.load(paths.TELECOM_DB_PATH),
        require_bare(f"{_DOMAIN}.user_data_model").TelecomUserDB.load(paths.TELECOM_USER_DB_PATH),
    )


@cache
def _keep_quiet() -> None:
    """The package logs every response to stderr."""
    require_bare("loguru").logger.disable("tau2")


@cache
def _template() -> Any:
    """An environment in solo mode that the package has made and checked: only its policy and functions are read."""
    _keep_quiet()
    return require_bare(f"{_DOMAIN}.environment").get_environment(solo_mode=True)


def _environment() -> Any:
    """A fresh one; made without the package's check of the functions' names, which takes a third of a second."""
    data, user_data = _databases()
    made = require_bare(f"{_DOMAIN}.environment").TelecomEnvironment(
        domain_name=_template().get_domain_name(),
        policy=_template().get_policy(),
        tools=require_bare(f"{_DOMAIN}.tools").TelecomTools(data.model_copy(deep=True)),
        user_tools=require_bare(f"{_DOMAIN}.user_tools").TelecomUserTools(user_data.model_copy(deep=True)),
    )
    made.solo_mode = True
    return made


@cache
def functions() -> tuple[Schema, ...]:
    """The functions of the agent and of the user's phone, in the package's order."""
    env = _template()
    schemas = [tool.openai_schema for tool in [*env.get_tools(), *env.get_user_tools()]]
    return tuple(json.loads(json_text(schema)) for schema in schemas)
