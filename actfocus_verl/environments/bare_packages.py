"""Packages whose pins exclude ours, so that they are installed without their dependencies, and imported in part."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from actfocus_verl.errors import ConfigurationError


def require_bare(name: str) -> ModuleType:
    """The module of that name. Raises ConfigurationError, which says how to install it, when it cannot be imported."""
    try:
        return import_module(name)
    except ImportError as error:
        remedy = "Install it: pip install --no-deps -r requirements/tool_worlds.txt"
        raise ConfigurationError("env.name", name, f"the package cannot be imported ({error})", remedy) from error
