"""The simulated APIs of one task, called without `eval`: by name from a list, with the values of parsed JSON.

The package runs a call as a line of Python that it evaluates. Here the name must be that of a documented function of
the task's APIs, and the arguments are values, so that nothing a model writes is ever code. What comes back has the
package's form to the letter, since its checker compares these texts.
"""

from __future__ import annotations

import ast
import copy
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from actfocus_verl.environments.bare_packages import require_bare
from actfocus_verl.environments.bfcl_multi_turn.tasks import Task, documented, package
from actfocus_verl.files import json_text

_FAILED: Final = "Error during execution: {}"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_LARGEST: Final = 1e15
_LARGEST_POWER: Final = 1_000
_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What an API may make of arguments of any kind: the package tells the model. RecursionError is one of them."""
_POWERS: Final = ("precision", "exponent")
"""Arguments of the calculator whose size is work: 10 ** 10 ** 10 would never end."""


class Apis:
    """The APIs of one task in their present state."""

    def __init__(self, task: Task) -> None:
        paths, stateless = package().CLASS_FILE_PATH_MAPPING, package().STATELESS_CLASSES
        self.instances: dict[str, Any] = {}
        """By the name of the class."""
        self._methods: dict[str, Any] = {}
        for name in task.classes:
            instance = getattr(require_bare(paths[name]), name)()
            if name not in stateless:
                scenario = copy.deepcopy(task.entry["initial_config"].get(name, {}))
                instance._load_scenario(scenario, long_context=task.long_context)
            self.instances[name] = instance
            for schema in documented(name):
                method = schema["function"]["name"]
                self._methods[method] = getattr(instance, method)

    def __contains__(self, name: object) -> bool:
        return name in self._methods

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The package's text of what the call returns, or of why it failed. Raises nothing."""
        if name not in self._methods:
            return unknown(name)
        if _too_large(arguments):
            return _FAILED.format("an argument is too large")
        try:
            return _text(self._methods[name](**arguments))
        except _ERRORS as error:
            return _FAILED.format(error)

    def bound(self, expression: str) -> tuple[str, dict[str, Any]]:
        """Name and named arguments of a gold call, a Python expression of the package's with literal arguments."""
        call = ast.parse(expression, mode="eval").body
        assert isinstance(call, ast.Call), expression
        assert isinstance(call.func, ast.Name), expression
        values = [ast.literal_eval(value) for value in call.args]
        named = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
        names = list(inspect.signature(self._methods[call.func.id]).parameters)
        return call.func.id, dict(zip(names, values, strict=False)) | named


def unknown(name: str) -> str:
    """What Python says of a name that is none."""
    shown = name if _NAME.fullmatch(name) else "that"
    return _FAILED.format(f"name {shown!r} is not defined")


def _text(result: object) -> str:
    if isinstance(result, str):
        return result
    if isinstance(result, dict):
        try:
            return json_text(result)
        except (TypeError, ValueError):
            return str(result)
    return str(result)


def _too_large(arguments: Mapping[str, Any]) -> bool:
    powers = (arguments.get(name) for name in _POWERS)
    if any(isinstance(value, int | float) and abs(value) > _LARGEST_POWER for value in powers):
        return True
    return any(abs(number) > _LARGEST for number in _numbers(arguments))


def _numbers(value: object) -> Iterable[float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _numbers(each)
    elif isinstance(value, list):
        for each in value:
            yield from _numbers(each)
