"""After a weight sync vLLM's log-probs are the actor's: for every group of weights, packed and not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from actfocus_verl.evaluation.engine import platform_environment
from tests.e2e.runs import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.nightly, pytest.mark.timeout(1800)]

LARGEST_GAP = 1e-4
"""In nat, on any token. float32 kernels differ by about 1e-5; a stale layer, by more than 0.01."""


@pytest.mark.parametrize("packed", ["1", "0"], ids=["packed", "unpacked"])
def test_log_probs_follow_every_group_of_weights(packed: str, tiny_policy: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.helpers.vllm_gap", tiny_policy],
        cwd=ROOT,
        env=os.environ | platform_environment("cpu") | {"ACTFOCUS_VLLM_PREPACK": packed},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    gaps = json.loads(result.stdout.splitlines()[-1])
    assert "embedding and tied head" in gaps
    assert {group: gap for group, gap in gaps.items() if gap > LARGEST_GAP} == {}
