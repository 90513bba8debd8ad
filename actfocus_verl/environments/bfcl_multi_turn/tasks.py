"""The tasks of the package `bfcl_eval`, their order and splits, and the functions that each of them offers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from actfocus_verl.environments.bare_packages import require_bare
from actfocus_verl.environments.splits import hex_digest, split_of
from actfocus_verl.environments.tools import Schema
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.files import json_text

ALL: Final = "all"
CATEGORIES: Final = ("base", "miss_func", "miss_param", "long_context")
"""The four sets; task i of each is a variation of task i of `base`."""

_VARIATION: Final = "multi_turn_"
_TYPES: Final = {
    "integer": "integer",
    "number": "number",
    "float": "number",
    "string": "string",
    "boolean": "boolean",
    "bool": "boolean",
    "array": "array",
    "list": "array",
    "dict": "object",
    "object": "object",
    "tuple": "array",
    "any": "string",
}
"""The package's names of types (GORILLA_TO_OPENAPI) in JSON Schema."""


@dataclass(frozen=True)
class Task:
    """One task. entry: as the package has it. gold: the calls of each turn of the user, as Python expressions."""

    entry: Mapping[str, Any]
    gold: tuple[tuple[str, ...], ...]

    @property
    def name(self) -> str:
        """The package's id, such as `multi_turn_base_7`."""
        return str(self.entry["id"])

    @property
    def category(self) -> str:
        """One of CATEGORIES."""
        return self.name.removeprefix(_VARIATION).rpartition("_")[0]

    @property
    def number(self) -> int:
        """Its number, the same for the four variations of a task."""
        return int(self.name.rpartition("_")[2])

    @property
    def long_context(self) -> bool:
        """Whether the simulated APIs answer at length."""
        return self.category == "long_context"

    @property
    def classes(self) -> tuple[str, ...]:
        """The simulated APIs it plays in."""
        return tuple(self.entry["involved_classes"])

    @cached_property
    def digest(self) -> str:
        """A hash of everything the task consists of."""
        return hex_digest(json_text([self.entry, self.gold], sort_keys=True))

    def withheld(self) -> Mapping[int, tuple[str, ...]]:
        """Names of the functions that are shown only from a later turn on, by that turn."""
        return {int(turn): tuple(names) for turn, names in self.entry.get("missed_function", {}).items()}

    def functions(self) -> tuple[Schema, ...]:
        """The functions shown from the start, in the package's order."""
        later = {name for names in self.withheld().values() for name in names}
        return tuple(schema for schema in self._schemas() if schema["function"]["name"] not in later)

    def shown_in(self, turn: int) -> tuple[Schema, ...]:
        """The functions that are shown from this turn on."""
        names = self.withheld().get(turn, ())
        return tuple(schema for schema in self._schemas() if schema["function"]["name"] in names)

    def user_words(self, turn: int) -> str:
        """What the user says in this turn; empty where only functions are added."""
        return "\n".join(message["content"] for message in self.entry["question"][turn])

    def _schemas(self) -> list[Schema]:
        return [schema for name in self.classes for schema in documented(name)]


def package() -> ModuleType:
    """The package's constants. Raises ConfigurationError where it is not installed."""
    return require_bare("bfcl_eval.constants.executable_backend_config")


def _root() -> Path:
    return Path(str(require_bare("bfcl_eval").__file__)).parent / "data"


@cache
def documented(class_name: str) -> tuple[Schema, ...]:
    """The functions of a simulated API, as the package documents them, in OpenAI's form."""
    path = _root() / "multi_turn_func_doc" / package().MULTI_TURN_FUNC_DOC_FILE_MAPPING[class_name]
    functions = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return tuple(
        {
            "type": "function",
            "function": {
                "name": each["name"],
                "description": each["description"],
                "parameters": _json_schema(each["parameters"]),
            },
        }
        for each in functions
    )


def _json_schema(given: Mapping[str, Any]) -> dict[str, Any]:
    """The package's notation of a type as JSON Schema."""
    schema = dict(given)
    schema["type"] = _TYPES.get(str(given.get("type", "any")), "string")
    if "properties" in given:
        schema["properties"] = {name: _json_schema(each) for name, each in given["properties"].items()}
    if "items" in given:
        schema["items"] = _json_schema(given["items"])
    return schema


@cache
def every_task() -> tuple[Task, ...]:
    """The 800 tasks, by number and then by category."""
    tasks = [task for category in CATEGORIES for task in _read(category)]
    return tuple(sorted(tasks, key=lambda task: (task.number, CATEGORIES.index(task.category))))


def _read(category: str) -> list[Task]:
    name = f"BFCL_v4_multi_turn_{category}.json"
    entries, answers = (
        [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        for folder in (_root(), _root() / "possible_answer")
    )
    gold = {answer["id"]: tuple(map(tuple, answer["ground_truth"])) for answer in answers}
    return [Task(entry, gold[entry["id"]]) for entry in entries]


@cache
def tasks_of(category: str, split: str) -> Sequence[Task]:
    """The tasks of a split: all variations of a task are in the same one."""
    if category != ALL and category not in CATEGORIES:
        known = ", ".join((ALL, *CATEGORIES))
        raise ConfigurationError("env.category", category, "is not a known set of tasks", f"Use one of: {known}")
    return tuple(
        task
        for task in every_task()
        if category in (ALL, task.category) and split_of(f"bfcl_multi_turn/{task.number}") == split
    )
