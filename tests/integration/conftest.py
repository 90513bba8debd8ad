"""A tiny model's folder, a process group of one, and verl's engine on both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import engines


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engines.save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with engines.process_group(tmp_path_factory.mktemp("group")):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def engine(group: None, model_folder: Path) -> Any:
    """Actor or reference: verl's registered FSDP2 engine on this platform."""
    return engines.build_engine(model_folder)
