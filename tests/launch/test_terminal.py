"""The check of a command's output finds what a library writes between our lines."""

from __future__ import annotations

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
