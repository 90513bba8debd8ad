"""Arguments of the commands without a Hydra configuration: `key=value` words, read into a dataclass.

A command's dataclass is a structured config of OmegaConf: annotations are the types, fields the known keys. `option`
gives a field its line of `--help` and its bounds:

    @dataclass(frozen=True)
    class Arguments:
        run: Path = option("a run's folder")
        episodes: int = option("episodes played", 512, low=1)

A value may be an integer, a number, true or false, a text, a path, or a mapping (`name.key=value`); `null` stands for
the default. A home folder may be written as `~` in a path.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from actfocus_verl.checks import bounds
from actfocus_verl.errors import ConfigurationError, first_line

T = TypeVar("T")

_KINDS: Mapping[type, tuple[str, str]] = {
    int: ("an integer", "<integer>"),
    float: ("a number", "<number>"),
    bool: ("true or false", "<true or false>"),
    str: ("text", "<text>"),
    Path: ("a path", "<path>"),
    dict: ("a mapping", "<value>"),
}
"""A type's name in errors, and its placeholder in the help."""
_HELP_WIDTH = 100


def option(
    text: str,
    default: Any = MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A field of a command's dataclass; without a default the key is required.

    text: its line of `--help`. low, high: inclusive bounds of a number. choices: the allowed values.
    """
    metadata = {"text": text, "low": low, "high": high, "choices": tuple(choices)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def read_options(words: Sequence[str]) -> dict[str, Any]:
    """The words as a dictionary, values read as YAML, dotted keys nested. Raises ConfigurationError for other words."""
    for word in words:
        if not re.match(r"[^=]+=", word):
            raise ConfigurationError("argument", word, "must be key=value", "--help lists the keys")
    try:
        options: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
            OmegaConf.from_dotlist(list(words)), resolve=True
        )
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        problem = f"cannot be read ({first_line(error)})"
        raise ConfigurationError("arguments", " ".join(words), problem, "Write key=value") from error
    return options


def read_arguments(schema: type[T], words: Sequence[str]) -> T:
    """An instance of a command's dataclass.

    Raises ConfigurationError for an unknown key, a value of another type or out of bounds, or a required key that is
    not given.
    """
    return build_arguments(schema, read_options(words))


def build_arguments(schema: type[T], options: Mapping[str, Any]) -> T:
    """As `read_arguments`, from options already read."""
    fields = {field.name: field for field in dataclasses.fields(schema)}  # type: ignore[arg-type]
    for key, value in options.items():
        if key not in fields:
            raise ConfigurationError(key, value, "is not a known key", f"Known: {', '.join(fields)}")
    kinds = {key: _kind(hint) for key, hint in get_type_hints(schema).items()}
    given = {key: _as_text(value, kinds[key]) for key, value in options.items() if value is not None}
    for key, field in fields.items():
        if key not in given and field.default is MISSING:
            raise ConfigurationError(key, None, "is required", f"Add {_usage(field, kinds[key])}")
    try:
        arguments = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), given))
    except OmegaConfBaseException as error:
        key = str(error.full_key).partition(".")[0]
        raise _refusal(fields[key], kinds[key], given[key]) from error
    for key, value in given.items():
        if not _within(fields[key].metadata, getattr(arguments, key)):
            raise _refusal(fields[key], kinds[key], value)
    return arguments  # type: ignore[return-value]


def help_text(text: str, schema: type) -> str:
    """A command's `--help`: its module's docstring, then a line for each key with its default or kind of value."""
    hints = get_type_hints(schema)
    usages = [(_usage(field, _kind(hints[field.name])), field) for field in dataclasses.fields(schema)]
    width = max(len(usage) for usage, _ in usages) + 2
    lines = [
        textwrap.fill(
            field.metadata["text"] + (" (required)" if field.default is MISSING else ""),
            _HELP_WIDTH,
            initial_indent=usage.ljust(width),
            subsequent_indent=" " * width,
            break_on_hyphens=False,
        )
        for usage, field in usages
    ]
    return "\n".join([text.rstrip(), "", *lines, ""])


def _kind(hint: Any) -> type:
    """The type of a given value: `int` for `int | None`, `dict` for `dict[str, Any]`."""
    (kind,) = [each for each in get_args(hint) if each is not NoneType] if NoneType in get_args(hint) else [hint]
    return get_origin(kind) or kind


def _as_text(value: Any, kind: type) -> Any:
    """A path as text: YAML reads a folder named 7 as a number."""
    if kind is not Path or isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    return Path(str(value)).expanduser() if value != "" else value


def _within(metadata: Mapping[str, Any], value: Any) -> bool:
    low, high, choices = metadata["low"], metadata["high"], metadata["choices"]
    if choices:
        return value in choices
    return (low is None or value >= low) and (high is None or value <= high)  # NaN is not


def _usage(field: dataclasses.Field[Any], kind: type) -> str:
    """`key=<default>`, or with the kind of value in angle brackets where there is none."""
    if kind is dict:
        return f"{field.name}.<name>={_KINDS[kind][1]}"
    default = field.default
    if default is None or default is MISSING or default == "":
        return f"{field.name}={_KINDS[kind][1]}"
    return f"{field.name}={str(default).lower() if kind is bool else default}"


def _refusal(field: dataclasses.Field[Any], kind: type, value: Any) -> ConfigurationError:
    low, high, choices = (field.metadata[name] for name in ("low", "high", "choices"))
    wanted = _KINDS[kind][0]
    if choices:
        wanted = f"one of: {', '.join(choices)}"
    elif low is not None:
        wanted += f" {bounds(low, high)}"
    shown = str(value) if isinstance(value, Path) else value
    return ConfigurationError(field.name, shown, f"must be {wanted}", f"Write for example {_usage(field, kind)}")
