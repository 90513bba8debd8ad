"""The check of a command's output finds what a library writes between our lines."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.helpers.terminal import foreign_lines

OURS = """checking the configuration
tiny policy: training: 650 of 1300 (50%)
run folder: /home/me/outputs/quickstart
starting Ray
loading the models
starting vLLM
evaluating
step 0: evaluation 0.230 [0.196, 0.269] (512 episodes)
step 1: success 0.250, valid 0.980, 12.3 s/step
"""


@pytest.mark.parametrize(
    "line",
    [
        "Platform override from VERL_PLATFORM: cpu",
        "2026-11-26 07:57:10,263\tWARNING authentication_token_setup.py:85 -- Token authentication is enabled for this",
        "INFO 11-26 07:59:52 [importing.py:88] Triton not installed or not compatible; certain GPU-related functions",
        "Writing model shards: 100%|##########| 1/1 [00:00<00:00, 106.44it/s]",
        "UserWarning: something",
    ],
)
def test_a_line_of_a_library_is_found(line: str) -> None:
    assert foreign_lines(OURS, "train") == []
    assert foreign_lines(OURS + line + "\n", "train") == [line]


def test_libraries_are_quieted_and_their_errors_are_not() -> None:
    """In a process of its own, whose loggers it changes: Hydra's handler, and the real function of Ray."""
    code = """
import logging, sys
from actfocus_verl.launch import quiet
logging.basicConfig(stream=sys.stdout, level=logging.INFO)
quiet.quiet_libraries()
from ray._private.authentication import authentication_token_setup as ray_tokens
ray_tokens._warn_token_auth_enabled()
verl = logging.getLogger("verl.plugin")
verl.setLevel(logging.INFO)
verl.info("Platform override from VERL_PLATFORM: cpu")
verl.warning("a warning of verl's")
quiet.quiet_vllm()
logging.getLogger("vllm.triton_utils.importing").warning("Triton is installed, but doesn't include CPU backend.")
logging.getLogger("vllm.engine").error("an error of vLLM's")
logging.getLogger("ray").error("an error of Ray's")
"""
    env = {name: value for name, value in os.environ.items() if name != "VLLM_LOGGING_LEVEL"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    lines = (result.stdout + result.stderr).splitlines()
    assert [line for line in lines if " of " not in line] == []
    assert [line.rpartition(" of ")[2] for line in lines] == ["verl's", "vLLM's", "Ray's"]
