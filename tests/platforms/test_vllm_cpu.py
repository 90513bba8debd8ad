"""verl's vLLM server on a CPU, without an engine; with one in tests/e2e."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os
from actfocus_verl.platforms.vllm_cpu import CPUvLLMHttpServer, vLLMHttpServer
vLLMHttpServer.__init__ = lambda self: print(os.environ["OMP_WAIT_POLICY"])
CPUvLLMHttpServer()
"""


@pytest.mark.parametrize(("given", "inherited"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_the_engine_sleep_while_they_wait(given: str | None, inherited: str) -> None:
    """Its process inherits the server's environment, in which a user's own word stands."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    found = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.split()[-1] == inherited
