"""verl's vLLM server on a CPU, without an engine; with one in tests/e2e."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os
from actfocus_verl.platforms.vllm_cpu import CPUvLLMHttpServer, vLLMHttpServer
vLLMHttpServer.__init__ = lambda self: print(os.environ["OMP_WAIT_POLICY"])
os.environ.pop("OMP_WAIT_POLICY", None)
CPUvLLMHttpServer()
os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
CPUvLLMHttpServer()
"""


def test_threads_of_the_engine_sleep_while_they_wait() -> None:
    """Its process inherits the server's environment, in which a user's own word stands."""
    found = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    assert found.stdout.split()[-2:] == ["PASSIVE", "ACTIVE"]
