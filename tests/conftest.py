"""The platform of every test, and their order: fast ones first, whole runs (tests/e2e) last and marked as such."""

from __future__ import annotations

import functools
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings

# verl asks for its platform once, while it is imported; subprocesses inherit it.
os.environ.setdefault("VERL_PLATFORM", "cpu")
# As configs/platform says: else importing vLLM silences the warnings that tests look for.
os.environ.setdefault("SAGEMAKER_CONTAINER_LOG_LEVEL", "WARNING")

# A shell that runs the tests in the background has made them, and every process they start, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run: whoever looks for new ones sets HYPOTHESIS_PROFILE=default.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

E2E = Path(__file__).parent / "e2e"


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """A run ignores both signals at its end. In a test's process that would make every later child deaf to them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.hookimpl(tryfirst=True)  # before -m is applied
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.option.markexpr
    if "cluster" not in asked:  # not even without -m: they make network namespaces as root
        clusters = [item for item in items if item.get_closest_marker("cluster")]
        unwanted = [item for item in clusters if not ("nightly" in asked and item.get_closest_marker("nightly"))]
        config.hook.pytest_deselected(items=unwanted)
        items[:] = [item for item in items if item not in unwanted]
    for item in items:
        if E2E in item.path.parents:
            item.add_marker(pytest.mark.e2e)
    items.sort(key=lambda item: item.get_closest_marker("e2e") is not None)


def _parse_each_yaml_text_once() -> None:
    """Hydra reads some forty files of verl's and ours for each configuration, and tests compose hundreds of them."""
    parse = yaml.load

    @functools.cache
    def parsed(text: str, loader: str) -> bytes:
        return pickle.dumps(parse(text, Loader=loaders[loader]))

    loaders: dict[str, type] = {}

    def load(stream: Any, Loader: type) -> Any:
        name = f"{Loader.__module__}.{Loader.__qualname__}"
        loaders.setdefault(name, Loader)
        return pickle.loads(parsed(stream if isinstance(stream, str) else stream.read(), name))

    yaml.load = load


_parse_each_yaml_text_once()
