"""Fixtures of this folder: a fixed seed, and slow, independent implementations of the formulas."""

import pytest
import torch

from tests.helpers import slow_weightings


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def oracle():
    return slow_weightings
