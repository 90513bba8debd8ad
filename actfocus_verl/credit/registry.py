"""Weightings by name, and a line of YAML turned into a weighting that is ready to call.

A weighting is a function ``(columns, *, parameters) -> weights``. Its keyword-only parameters are its YAML keys, and
their defaults are the YAML's defaults. One's own takes one function and one line, and no registration::

    # my_package/my_module.py
    def half_reasoning(columns, *, share=0.5):
        roles = columns["token_roles"]                                # (B, T), values of TokenRole
        return (roles == 2) + share * ((roles == 1) | (roles == 3))   # (B, T), at least 0

    credit: {name: "my_package.my_module:half_reasoning", share: 0.3}

A method with an additive term returns ``(weights, shift)`` instead: the loss then multiplies each token's weight with
the clipped surrogate of ``A + shift``, where every other weighting leaves the advantage A alone.

With ``@register_weighting("half_reasoning", required_columns=("energy",))`` on top it also gets a short name (once its
module is imported), and says which computed columns it reads, so that the trainer runs the pass that gives them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from torch import Tensor

from actfocus_verl.credit.checks import check_flag, check_normalize
from actfocus_verl.errors import ConfigurationError

WeightingResult = Tensor | tuple[Tensor, Tensor]
WeightingFunction = Callable[..., WeightingResult]
F = TypeVar("F", bound=WeightingFunction)
RequiredColumns = Sequence[str] | Callable[[Mapping[str, object]], Sequence[str]]

_BUILTIN_MODULES: Final[tuple[str, ...]] = (
    "actfocus_verl.credit.weighting",
    "actfocus_verl.credit.entropy_weighting",
)
"""Modules that register the weightings we ship; imported when a name is looked up."""

_REGISTRY: dict[str, Definition] = {}


@dataclass(frozen=True)
class Definition:
    """A weighting function and what it declared about itself."""

    function: WeightingFunction
    """``(columns: Mapping[str, Tensor], *, parameters) -> Tensor``: (B, T) weights of at least 0; or these and a (B, T)
    advantage shift."""
    required_columns: RequiredColumns = ()
    """Columns it reads beyond ``token_roles`` and ``response_mask``, or a function of its parameters giving them."""
    check: Callable[..., None] | None = None
    """Called with all parameters by keyword before the run starts; raises ConfigurationError."""

    def columns_for(self, params: Mapping[str, object]) -> tuple[str, ...]:
        """The required columns under these parameters."""
        required = self.required_columns
        return tuple(required(params) if callable(required) else required)


def register_weighting(
    name: str, *, required_columns: RequiredColumns = (), check: Callable[..., None] | None = None
) -> Callable[[F], F]:
    """Decorator: make a weighting function known as ``credit.name=<name>``. The function itself is returned unchanged.

    Args:
        name: a short name without ``:`` and ``.``, which mark a path.
        required_columns: see :class:`Definition`.
        check: see :class:`Definition`.

    Raises:
        ValueError: the name is not short, is taken by another function, or a single string was given for the columns.
    """
    if not name or ":" in name or "." in name:
        raise ValueError(f"weighting name {name!r} is empty or looks like a path; choose a name without ':' and '.'")
    if isinstance(required_columns, str):
        raise ValueError(f"required_columns={required_columns!r} is one string; write ({required_columns!r},)")

    def register(function: F) -> F:
        known = _REGISTRY.get(name)
        if known is not None and _identity(known.function) != _identity(function):
            raise ValueError(
                f"weighting name {name!r} is taken by {_identity(known.function)}; choose another for "
                f"{_identity(function)}"
            )
        _REGISTRY[name] = Definition(function, required_columns, check)
        return function

    return register


def known_weightings() -> tuple[str, ...]:
    """The registered names, sorted."""
    for module in _BUILTIN_MODULES:
        importlib.import_module(module)
    return tuple(sorted(_REGISTRY))


def get_weighting(name: str) -> Definition:
    """The weighting with a registered name, or of a path ``package.module:function``.

    Raises:
        ConfigurationError: unknown name (lists the known ones), or a path that leads to no function.
    """
    if isinstance(name, str) and ":" in name:
        return _import_weighting(name)
    known = known_weightings()
    if name not in known:
        raise ConfigurationError(
            "name", name, "is no known weighting", f"Choose one of {', '.join(known)}, or package.module:function"
        )
    return _REGISTRY[name]


def _import_weighting(path: str) -> Definition:
    """The weighting at ``package.module:function``, with what its decorator declared if it has one."""
    module_name, _, function_name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name, None)
    except (ImportError, ValueError) as error:  # ValueError: an empty or relative module name
        raise ConfigurationError(
            "name", path, f"its module cannot be imported ({error})", "Write package.module:function, importable"
        ) from error
    if not callable(function):
        raise ConfigurationError(
            "name", path, f"module {module_name} has no function {function_name!r}", "Write package.module:function"
        )
    registered = (definition for definition in _REGISTRY.values() if definition.function is function)
    return next(registered, Definition(function))


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
    """Columns to be computed beyond ``token_roles`` and ``response_mask``. With ``energy`` among them a reference pass
    is needed."""
    placebo: bool = False
    """Whether weights are shuffled among the tokens of a role: see :mod:`actfocus_verl.credit.placebo`."""

    def __call__(self, columns: Mapping[str, Tensor]) -> WeightingResult:
        """The function's result, raw weights (B, T) or these and a shift, from the columns of a training batch."""
        return self.definition.function(columns, **self.params)


def build_weighting(config: Mapping[str, Any]) -> WeightingSpec:
    """Validate the ``credit`` section of a configuration before anything expensive starts.

    Args:
        config: ``name``, optionally ``normalize`` (default ``batch``) and ``placebo`` (default false), and the
            parameters of that weighting, e.g. ``{name: actfocus, alpha: 0.1, beta: 0.5, signal: energy}``.
            ``action_span`` is not looked at.

    Raises:
        ConfigurationError: with keys as in ``credit.<key>``: no or unknown name, unknown key (lists the known ones), a
            missing parameter, a value out of range.
    """
    options = {str(key): value for key, value in config.items()}
    name = options.pop("name", None)
    mode = options.pop("normalize", "batch")
    placebo = options.pop("placebo", False)
    options.pop("action_span", None)  # says what the roles are made of: the rollout room reads it
    try:
        if name is None:
            raise ConfigurationError("name", None, "is missing", f"Choose one of {', '.join(known_weightings())}")
        check_normalize(mode)
        check_flag("placebo", placebo)
        definition = get_weighting(name)
        params = _complete(name, definition.function, options)
        if definition.check is not None:
            definition.check(**params)
    except ConfigurationError as error:
        raise ConfigurationError(f"credit.{error.key}", error.value, error.problem, error.remedy) from error.__cause__
    return WeightingSpec(name, definition, params, mode, definition.columns_for(params), placebo)


def _complete(name: str, function: WeightingFunction, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the function's defaults filled in; every key must be one of its parameters."""
    parameters = list(inspect.signature(function).parameters.values())[1:]  # the first one takes the columns
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {parameter.name: parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    known = ", ".join(("name", "normalize", "placebo", "action_span", *named))
    for key, value in options.items():
        if key not in named and not takes_any:
            raise ConfigurationError(key, value, f"is no parameter of the weighting {name}", f"Known keys: {known}")
    for key, parameter in named.items():
        if key not in options and parameter.default is parameter.empty:
            raise ConfigurationError(key, None, f"is missing, and {name} has no default for it", f"Set credit.{key}")
    return {key: parameter.default for key, parameter in named.items() if key not in options} | dict(options)


def _identity(function: WeightingFunction) -> str:
    """``module:qualified name``, equal for a function and its copy after a reload of the module."""
    return f"{function.__module__}:{function.__qualname__}"
