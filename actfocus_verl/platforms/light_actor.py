"""An actor class that is imported only where its actor lives.

Ray loads an actor's class in every process that receives a handle of it. verl's vLLM server is handed to a dozen
processes that only call it, and each would import vLLM for that, which takes seconds.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from typing import Any


def light_actor(heavy: type) -> type:
    """Return a class for `ray.remote` with the public methods of `heavy`, imported when it is constructed.

    heavy: a class that can be imported by its name. Its methods must not be decorated for Ray (`ray.method`), and what
    they return may not be the instance itself.

    The class is made in a function, so that Ray sends its few lines, and no reference to the module of `heavy`.
    """
    module, name = heavy.__module__, heavy.__qualname__

    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        self._actor = pkgutil.resolve_name(f"{module}:{name}")(*args, **kwargs)

    methods = {
        method: _forward(method, inspect.iscoroutinefunction(function))
        for method, function in inspect.getmembers(heavy, inspect.isfunction)
        if not method.startswith("_")
    }
    return type(heavy.__name__, (), {"__init__": construct, "__module__": __name__, "__doc__": heavy.__doc__} | methods)


def _forward(method: str, is_coroutine: bool) -> Callable[..., Any]:
    """A method that calls the heavy object's; a coroutine where that is one, by which Ray knows an async actor."""

    async def call_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self._actor, method)(*args, **kwargs)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._actor, method)(*args, **kwargs)

    forward = call_async if is_coroutine else call
    forward.__name__ = method
    return forward
