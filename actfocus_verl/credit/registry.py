"""Methods by name, and a section of YAML turned into a method that is ready to call.

Every method is a function whose keyword-only parameters are its YAML keys, with their defaults: weightings (below),
advantage estimators (:mod:`~actfocus_verl.credit.estimation`), filters and early-stop rules. A decorator gives
it a name and states what it needs; ``package.module:function`` selects one without a name. Your own weighting takes
one function and one line, and no registration::

    # my_package/my_module.py
    def half_reasoning(columns, *, share=0.5):
        roles = columns["token_roles"]                                # (B, T), values of TokenRole
        return (roles == 2) + share * ((roles == 1) | (roles == 3))   # (B, T), at least 0

    credit: {name: "my_package.my_module:half_reasoning", share: 0.3}

A weighting with an additive term returns ``(weights, shift)`` instead: the loss then multiplies each token's weight
with the clipped surrogate of ``A + shift``, where every other weighting leaves the advantage A alone.

With ``@register_weighting("half_reasoning", required_columns=("energy",))`` on top it also gets a short name (once its
module is imported), and says which computed columns it reads (:mod:`actfocus_verl.columns`), so that the trainer runs
the pass that gives them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from torch import Tensor

from actfocus_verl.checks import require_choice, require_flag
from actfocus_verl.errors import ConfigurationError

NORMALIZE_MODES: Final = ("batch", "mini_batch", "none")
"""Scopes of :func:`actfocus_verl.credit.weighting.normalize`."""

Params = Mapping[str, Any]
RequiredColumns = Sequence[str] | Callable[[Params], Sequence[str]]


@dataclass(frozen=True)
class Method:
    """A function and what its decorator said about it."""

    function: Callable[..., Any]
    """Its keyword-only parameters are its YAML keys."""
    required_columns: RequiredColumns = ()
    """Names in `actfocus_verl.columns` that it reads, or a function of its parameters giving them."""
    check: Callable[..., None] | None = None
    """Called with all parameters by keyword before the run starts; raises ConfigurationError."""

    def columns_for(self, params: Params) -> tuple[str, ...]:
        """The required columns under these parameters."""
        return resolved(self.required_columns, params)


M = TypeVar("M", bound=Method)
F = TypeVar("F", bound=Callable[..., Any])


def resolved(columns: RequiredColumns, params: Params) -> tuple[str, ...]:
    """The names of columns, where they may depend on the parameters."""
    return tuple(columns(params) if callable(columns) else columns)


class Registry(Generic[M]):
    """The methods of one kind: those that were given a name, and any function by its path.

    kind: what the methods are called in messages. section: the configuration section with their parameters. modules:
    those that register what we ship; imported when a name is looked up. define: makes the method of a function that
    has no decorator.
    """

    def __init__(self, kind: str, section: str, modules: Sequence[str], define: Callable[..., M]) -> None:
        self.kind, self.section = kind, section
        self.entries: dict[str, M] = {}
        self._modules, self._define = tuple(modules), define

    def add(self, name: str, method: M) -> None:
        """Give a method a name.

        Raises:
            ValueError: the name is empty or looks like a path, is taken by another function, or a single string was
                given for the columns.
        """
        if not name or ":" in name or "." in name:
            raise ValueError(
                f"{self.kind} name {name!r} is empty or looks like a path; choose a name without ':' and '.'"
            )
        columns = method.required_columns
        if isinstance(columns, str):
            raise ValueError(f"required_columns={columns!r} is one string; write ({columns!r},)")
        known = self.entries.get(name)
        if known is not None and _identity(known.function) != _identity(method.function):
            raise ValueError(
                f"{self.kind} name {name!r} is taken by {_identity(known.function)}; choose another for "
                f"{_identity(method.function)}"
            )
        self.entries[name] = method

    def known(self) -> tuple[str, ...]:
        """The registered names, sorted."""
        for module in self._modules:
            importlib.import_module(module)
        return tuple(sorted(self.entries))

    def get(self, name: Any, key: str = "name") -> M:
        """The method with a registered name, or of a path ``package.module:function``.

        Raises:
            ConfigurationError: with the bare key: unknown (lists the known ones), or a path that leads to no function.
        """
        if is_path(name):
            return self._at(key, name)
        known = self.known()
        if name not in known:
            problem = "is missing" if name is None else f"is not a known {self.kind}"
            remedy = f"Choose one of {', '.join(known)}, or package.module:function"
            raise ConfigurationError(key, name, problem, remedy)
        return self.entries[name]

    def _at(self, key: str, path: str) -> M:
        """The method at ``package.module:function``, with what its decorator declared if it has one."""
        module_name, _, function_name = path.partition(":")
        try:
            function = getattr(importlib.import_module(module_name), function_name, None)
        except (ImportError, ValueError) as error:  # ValueError: an empty or relative module name
            problem = f"its module cannot be imported ({error})"
            raise ConfigurationError(key, path, problem, "Write package.module:function, importable") from error
        if not callable(function):
            problem = f"module {module_name} has no function {function_name!r}"
            raise ConfigurationError(key, path, problem, "Write package.module:function")
        registered = (method for method in self.entries.values() if method.function is function)
        return next(registered, self._define(function))

    def complete(self, name: str, method: Method, options: Params, *, also: Sequence[str] = ()) -> dict[str, Any]:
        """The options with the function's defaults filled in, checked.

        Args:
            also: further keys of the section, read elsewhere.

        Raises:
            ConfigurationError: with the bare key: it is not a parameter of the function, is missing, or has a value
                that the method's check refuses.
        """
        named, takes_any = parameters(method.function)
        known = ", ".join((*also, *named))
        for key, value in options.items():
            if key not in named and not takes_any:
                remedy = f"Known keys: {known}" if known else f"Remove {self.section}.{key}"
                raise ConfigurationError(key, value, f"is not a parameter of the {self.kind} {name}", remedy)
        for key, default in named.items():
            if key not in options and default is inspect.Parameter.empty:
                remedy = f"Set {self.section}.{key}"
                raise ConfigurationError(key, None, f"is missing, and {name} has no default for it", remedy)
        params = {key: default for key, default in named.items() if key not in options} | dict(options)
        if method.check is not None:
            method.check(**params)
        return params


def is_path(name: object) -> bool:
    """Whether a method is named as ``package.module:function``."""
    return isinstance(name, str) and ":" in name


def parameters(function: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """The defaults of a function's keyword-only parameters, by name; and whether it takes any others by keyword."""
    found = inspect.signature(function).parameters.values()
    named = {each.name: each.default for each in found if each.kind is each.KEYWORD_ONLY}
    return named, any(each.kind is each.VAR_KEYWORD for each in found)


@contextmanager
def keys_under(section: str) -> Iterator[None]:
    """Put ``section.`` before the key of a ConfigurationError raised inside."""
    try:
        yield
    except ConfigurationError as error:
        key = f"{section}.{error.key}"
        raise ConfigurationError(key, error.value, error.problem, error.remedy) from error.__cause__


def _identity(function: Callable[..., Any]) -> str:
    """``module:qualified name``, equal for a function and its copy after a reload of the module."""
    return f"{function.__module__}:{function.__qualname__}"


# Weightings

WeightingResult = Tensor | tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Definition(Method):
    """A weighting: ``(columns: Mapping[str, Tensor], *, parameters) -> Tensor``.

    (B, T) weights >= 0; or these and a (B, T) advantage shift. It gets the columns that every weighting gets
    (`actfocus_verl.columns.PASSED_ON`), and those it requires.
    """

    granularity: str = ""
    """``token`` or ``turn``: what it gives weights to; empty: not declared."""


WEIGHTINGS: Final = Registry(
    "weighting",
    "credit",
    (
        "actfocus_verl.credit.weighting",
        "actfocus_verl.credit.entropy_weighting",
        "actfocus_verl.credit.hindsight",
        "actfocus_verl.credit.influence",
    ),
    Definition,
)


def register_weighting(
    name: str,
    *,
    required_columns: RequiredColumns = (),
    check: Callable[..., None] | None = None,
    granularity: str = "",
) -> Callable[[F], F]:
    """Decorator: register a weighting function as ``credit.name=<name>``. The function itself is returned unchanged.

    Args:
        name: a short name without ``:`` and ``.``, which mark a path.
        required_columns, check: see :class:`Method`.
        granularity: see :class:`Definition`.

    Raises:
        ValueError: the name is empty, looks like a path or is taken, or the columns are a single string.
    """

    def register(function: F) -> F:
        WEIGHTINGS.add(name, Definition(function, required_columns, check, granularity))
        return function

    return register


def known_weightings() -> tuple[str, ...]:
    """The registered names, sorted."""
    return WEIGHTINGS.known()


@dataclass(frozen=True)
class WeightingSpec:
    """A weighting with its parameters, validated: what the trainer keeps for the whole run."""

    name: str
    """The name or path it was selected by."""
    definition: Definition
    params: Mapping[str, Any]
    """All parameters of the function, defaults filled in."""
    normalize: str
    """``batch``, ``mini_batch`` or ``none``: see :func:`actfocus_verl.credit.weighting.normalize`."""
    required_columns: tuple[str, ...]
    """Columns to compute beyond ``token_roles`` and ``response_mask``. With ``energy`` among them a reference pass
    is needed."""
    placebo: bool = False
    """Whether weights are shuffled among the tokens of a role: see :mod:`actfocus_verl.credit.placebo`."""

    def __call__(self, columns: Mapping[str, Tensor]) -> WeightingResult:
        """The function's result, raw weights (B, T) or these and a shift, from the columns of a training batch."""
        result: WeightingResult = self.definition.function(columns, **self.params)
        return result


def build_weighting(config: Mapping[str, Any]) -> WeightingSpec:
    """Validate the ``credit`` section of a configuration before anything expensive starts.

    Args:
        config: ``name``, optionally ``normalize`` (default ``batch``) and ``placebo`` (default false), and the
            parameters of that weighting, e.g. ``{name: actfocus, alpha: 0.1, beta: 0.5, signal: energy}``.
            ``action_span`` is ignored.

    Raises:
        ConfigurationError: with keys as in ``credit.<key>``: missing or unknown name, unknown key (lists the known
            ones), a missing parameter, a value out of range.
    """
    options = {str(key): value for key, value in config.items()}
    name = options.pop("name", None)
    mode = options.pop("normalize", "batch")
    placebo = options.pop("placebo", False)
    options.pop("action_span", None)  # says what the roles are made of: the rollout room reads it
    with keys_under(WEIGHTINGS.section):
        definition = WEIGHTINGS.get(name)
        require_choice("normalize", mode, choices=NORMALIZE_MODES)
        require_flag("placebo", placebo)
        also = ("name", "normalize", "placebo", "action_span")
        params = WEIGHTINGS.complete(str(name), definition, options, also=also)
    return WeightingSpec(str(name), definition, params, mode, definition.columns_for(params), placebo)
