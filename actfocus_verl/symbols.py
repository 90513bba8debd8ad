"""Whether one external name is as the package relies on it: a symbol of the contract, and its check."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import textwrap
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Symbol:
    """One external name, and what is relied on about it."""

    path: str
    """`package.module:attribute`, as `pkgutil.resolve_name` reads it; a bare module has no colon."""
    parameters: tuple[str, ...] = ()
    """Leading parameters in this order, `self` left out: it is called by position, or overridden."""
    keywords: tuple[str, ...] = ()
    """Parameters passed by name."""
    exact: bool = False
    """It is overridden without forwarding unknown arguments: any new parameter is a problem, optional or not."""
    attributes: tuple[str, ...] = ()
    """Names read from an instance: set as `self.<name>` somewhere in the class, or members of it."""


def check_symbol(symbol: Symbol) -> list[str]:
    """Return the problems of one symbol."""
    try:
        found = pkgutil.resolve_name(symbol.path)
    except AttributeError as error:
        return [f"{symbol.path} is gone: {error}"]
    except Exception as error:  # noqa: BLE001  (any error while a module is imported is the finding)
        return [f"{symbol.path} cannot be imported: {type(error).__name__}: {error}"]
    return _check_parameters(symbol, found) + _check_attributes(symbol, found)


def _check_parameters(symbol: Symbol, found: Any) -> list[str]:
    if not (symbol.parameters or symbol.keywords or symbol.exact):
        return []
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return [f"{symbol.path} is no longer a function or class with a signature: {found!r}"]
    parameters = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
    names = [each.name for each in parameters]
    expected = list(dict.fromkeys((*symbol.parameters, *symbol.keywords)))
    shown = f"it is now ({', '.join(names)})"
    if names[: len(symbol.parameters)] != list(symbol.parameters):
        return [f"{symbol.path} no longer starts with ({', '.join(symbol.parameters)}); {shown}"]
    missing = [name for name in symbol.keywords if name not in names]
    if missing:
        return [f"{symbol.path} no longer takes {', '.join(missing)}; {shown}"]
    new = [
        each.name
        for each in parameters
        if each.name not in expected and not _is_variadic(each) and (symbol.exact or each.default is each.empty)
    ]
    if new:
        return [f"{symbol.path} has the new parameter {', '.join(new)}; {shown}"]
    return []


def _is_variadic(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _check_attributes(symbol: Symbol, found: Any) -> list[str]:
    if not symbol.attributes:
        return []
    known = _instance_attributes(found)
    return [f"{symbol.path} no longer sets self.{name}" for name in symbol.attributes if name not in known]


def _instance_attributes(cls: type) -> set[str]:
    """Names an instance has: members, annotated fields, and those its classes' source assigns to `self`."""
    names = set(dir(cls))
    for base in cls.__mro__[:-1]:
        names |= set(getattr(base, "__annotations__", {}))
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):  # a class without Python source, such as ABC's
            continue
        names |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        }
    return names
