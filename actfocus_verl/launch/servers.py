"""The vLLM servers of a run: where they are."""

from __future__ import annotations

import contextlib
import re
from typing import Final

import ray

_SERVER_NAME: Final = re.compile(r"vllm(_omni)?_server_.+")
"""Names that verl gives the actors of its vLLM servers, which answer `/health` while they sleep. SGLang's are not
asked: to answer they generate a token, and a server without its weights cannot."""


class ServerAddresses:
    """Finds the addresses of verl's vLLM servers by their actors' names, asking each once."""

    def __init__(self) -> None:
        self._pending: dict[str, ray.ObjectRef] = {}
        self._known: dict[str, str] = {}
        self._others: set[str] = set()
        """Actors with such a name that are not verl's servers."""

    def __call__(self) -> list[str]:
        """Return the addresses known so far. If Ray does not answer, none are added: its processes show its end."""
        with contextlib.suppress(ray.exceptions.RayError, ValueError):  # ValueError: the actor is gone already
            self._ask()
        return list(self._known.values())

    def _ask(self) -> None:
        if not ray.is_initialized():
            return
        for name in ray.util.list_named_actors():
            if not _SERVER_NAME.fullmatch(name) or name in self._others | self._known.keys() | self._pending.keys():
                continue
            try:
                self._pending[name] = ray.get_actor(name).get_server_address.remote()
            except AttributeError:
                self._others.add(name)
        for name, reference in list(self._pending.items()):
            ready, _ = ray.wait([reference], timeout=0)
            if not ready:
                continue
            del self._pending[name]
            try:
                host, port = ray.get(reference)
            except (ray.exceptions.RayError, AssertionError):  # not launched yet: ask again at the next look
                continue
            self._known[name] = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
