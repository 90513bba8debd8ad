"""Group files named on the command line, checked before Hydra composes, for a one-line error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import actfocus_verl_configs
from hydra._internal.utils import get_args_parser  # private, but the only reading of argv that equals Hydra's own
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from actfocus_verl.errors import ConfigurationError

GROUPS: Final = (
    *("env", "rollout", "algorithm", "credit", "filter", "early_stop"),
    *("model", "platform", "schedule", "experiment"),
)

_AGENT: Final = "agent="
_SEARCH_PATH: Final = "hydra.searchpath"
_FILE_SCHEME: Final = "file://"


def check_overrides(argv: Sequence[str]) -> None:
    """Raise ConfigurationError, listing the known names, when `group=name` names no file of that group.

    argv: the command line without the program's name. Value overrides (`algorithm.gamma=1`), deletions (`~group`) and
    Hydra's own options pass; what cannot be parsed is left to Hydra, whose message points at the character.
    """
    arguments, _ = get_args_parser().parse_known_args(list(argv))
    overrides = list(_parsed(arguments.overrides))
    folders = [config_folder(), *_added_folders(arguments.config_dir, overrides)]
    for override in overrides:
        if override.key_or_group not in GROUPS or override.package is not None or override.is_delete():
            continue
        known = known_names(override.key_or_group, folders)
        for name in _names(override):
            if name.removesuffix(".yaml") not in known:
                raise ConfigurationError(
                    override.key_or_group,
                    name,
                    f"there is no such file in configs/{override.key_or_group}",
                    _remedy(override.key_or_group, name, known),
                )


def expand_agent(words: Sequence[str]) -> list[str]:
    """The command line with `agent=module:function` written as the key that it sets."""
    return [f"agent.function={word.removeprefix(_AGENT)}" if word.startswith(_AGENT) else word for word in words]


def _remedy(group: str, name: str, known: Sequence[str]) -> str:
    """List the names, or say how to write out a cell of recipes/matrices, which has no file."""
    start = max((each for each in known if name.startswith(f"{each}_")), key=len, default=None)
    if group != "experiment" or start is None:
        return f"Choose one of: {', '.join(known)}"
    cells = "scripts/reproduce.py show recipes/matrices/<matrix>.yaml prints the settings of each cell"
    return f"Write experiment={start} algorithm=... credit=...; {cells}"


def config_folder() -> Path:
    """The folder of the shipped configuration."""
    return Path(actfocus_verl_configs.__path__[0])


def known_names(group: str, folders: Sequence[Path] | None = None) -> tuple[str, ...]:
    """Names of the group's files, sorted; those in subfolders with a slash. folders: default, the shipped ones."""
    roots = [folder / group for folder in (folders if folders is not None else [config_folder()])]
    found = {file.relative_to(root).with_suffix("").as_posix() for root in roots for file in root.rglob("*.yaml")}
    return tuple(sorted(found))


def _parsed(arguments: Sequence[str]) -> Iterator[Override]:
    parser = OverridesParser.create()
    for argument in arguments:
        try:
            yield from parser.parse_overrides([argument])
        except HydraException:
            continue


def _names(override: Override) -> list[str]:
    """The names an override chooses: several for a list or a sweep, none for null."""
    if override.is_sweep_override():
        return [str(name) for name in override.sweep_string_iterator()]
    value = override.value()
    return [str(name) for name in (value if isinstance(value, list) else [value]) if name is not None]


def _added_folders(config_dir: str | None, overrides: Sequence[Override]) -> list[Path]:
    """Folders the user adds to Hydra's search path, whose files are known too."""
    added = [Path(config_dir)] if config_dir else []
    for override in overrides:
        if override.key_or_group == _SEARCH_PATH:
            added += [Path(path.removeprefix(_FILE_SCHEME)) for path in _names(override)]
    return added
