"""Files and names of the user's own code. Files are parsed, not run."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, Final

from actfocus_verl.errors import ConfigurationError

_PACKAGE: Final = "pkg://"
_FILE: Final = "file://"


def require_file(key: str, path: Any, *, beside: Path | None = None) -> None:
    """Raise ConfigurationError unless `path` is null or an existing file, also looked for in the folder `beside`."""
    if path is None:
        return
    candidates = [Path(path), *([beside / path] if beside is not None else [])] if isinstance(path, str) else []
    if not any(candidate.is_file() for candidate in candidates):
        raise ConfigurationError(key, path, "there is no such file", f"Correct {key}; a ~ is not expanded, write $HOME")


def require_object(key: str, path: Any, name_key: str, name: Any) -> None:
    """Raise ConfigurationError unless the Python file `path` defines `name`, judging by its source.

    Args:
        key, path: the configuration key and its value: a file, `file://...` or `pkg://package.module`; null passes.
        name_key, name: the same for a function's or class's name.
    """
    if path is None:
        return
    file = _module_file(key, path)
    if file is None:
        return
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        raise ConfigurationError(key, path, f"is not a Python file ({where})", f"Correct {key}") from error
    names = sorted(set(_names(tree.body)))
    if name not in names and "*" not in names:
        known = ", ".join(each for each in names if not each.startswith("_"))
        raise ConfigurationError(
            name_key, name, f"is not defined in {key}={path}", f"Use one of: {known}" if known else f"Correct {key}"
        )


def _module_file(key: str, path: Any) -> Path | None:
    """The file of the code; None for a module without a Python file, which cannot be checked."""
    if isinstance(path, str) and path.startswith(_PACKAGE):
        module = path.removeprefix(_PACKAGE).replace("/", ".")
        try:
            spec = _spec(module)
        except (ImportError, ValueError) as error:
            raise ConfigurationError(key, path, f"cannot be imported ({error})", f"Correct {key}") from error
        if spec is None:
            raise ConfigurationError(key, path, "there is no such module", f"Correct {key}")
        return Path(spec.origin) if spec.origin is not None and spec.origin.endswith(".py") else None
    file = path.removeprefix(_FILE) if isinstance(path, str) else path
    require_file(key, file)
    return Path(file)


def _spec(module: str) -> ModuleSpec | None:
    """`importlib.util.find_spec` without importing the packages above: what they import may come too early."""
    first, *names = module.split(".")
    spec, full = importlib.util.find_spec(first), first
    for name in names:
        if spec is None or spec.submodule_search_locations is None:
            return None
        full = f"{full}.{name}"
        spec = PathFinder.find_spec(full, list(spec.submodule_search_locations))
    return spec


def _names(statements: list[ast.stmt]) -> Iterator[str]:
    """Names that the statements bind in their module, in any branch; `*` when there may be others."""
    for statement in statements:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                yield from ((alias.asname or alias.name).partition(".")[0] for alias in aliases)
            case ast.Assign(targets=targets):
                yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case _:
                for part in ("body", "orelse", "finalbody"):
                    yield from _names(getattr(statement, part, []))
                for handler in getattr(statement, "handlers", []):
                    yield from _names(handler.body)
