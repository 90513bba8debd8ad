"""`key=value` words of a command line, for the commands that compose no Hydra configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from actfocus_verl.errors import ConfigurationError


def read_options(words: Sequence[str]) -> dict[str, Any]:
    """The words as a dictionary, values read as YAML, dotted keys nested. Raises ConfigurationError for other words."""
    for word in words:
        if not re.match(r"[^=]+=", word):
            raise ConfigurationError("argument", word, "is no key=value", "Write for example env=frozen_lake")
    try:
        options: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
            OmegaConf.from_dotlist(list(words)), resolve=True
        )
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        problem = f"cannot be read ({str(error).splitlines()[0]})"
        raise ConfigurationError("arguments", " ".join(words), problem, "Write key=value") from error
    return options
