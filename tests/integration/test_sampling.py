"""What our agent loops ask the engine for, and what vLLM's own output processor then makes of a reply."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from omegaconf import OmegaConf

from actfocus_verl.integration.sampling import reply_sampling

VERL = {"temperature": 0.7, "top_p": 0.9, "logprobs": True}

OUTPUTS = """
import pickle, sys
import verl  # loads the plugin, which makes vLLM importable on a CPU
import numpy as np
from omegaconf import OmegaConf
from actfocus_verl.integration.sampling import reply_sampling

def sent(mode):
    rollout = {"actor_rollout_ref": {"rollout": {"name": "vllm"}}}
    config = OmegaConf.create(rollout | {"trainer": {"v1": {"trainer_mode": mode}}})
    return pickle.dumps(reply_sampling({"temperature": 0.7}, [2], config))

params = {mode: sent(mode) for mode in ("actfocus_sync", "actfocus_colocate_async")}
print("imported", "vllm" in sys.modules)

from vllm import SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
from vllm.v1.outputs import LogprobsLists

for mode, asked in params.items():
    sampling = SamplingParams(max_tokens=8, logprobs=0, **pickle.loads(asked))
    processor = OutputProcessor(None, log_stats=False)
    queues = {}
    for name in ("ended", "aborted"):
        queues[name] = RequestOutputCollector(sampling.output_kind, request_id=name)
        request = EngineCoreRequest(name, [5, 6], None, sampling, None, 0.0, None, None, None, external_req_id=name)
        processor.add_request(request, None, queue=queues[name])
    counts, last = dict.fromkeys(queues, 0), {}
    for token, log_prob in ((10, -0.5), (11, -1.5), (12, -2.5), (2, -0.25)):
        found = LogprobsLists(np.array([[token]]), np.array([[log_prob]], dtype=np.float32), np.array([0]))
        end = FinishReason.STOP if token == 2 else None
        processor.process_outputs(
            [EngineCoreOutput(name, [token], found, finish_reason=end) for name in processor.request_states]
        )
        if token == 12:
            processor.abort_requests(["aborted"], internal=True)
        for name, queue in queues.items():
            output = queue.get_nowait()
            if output is not None:
                counts[name] += 1
                last[name] = output.outputs[0]
    for name, output in last.items():
        values = [by_id[token].logprob for token, by_id in zip(output.token_ids, output.logprobs, strict=True)]
        print(mode, name, counts[name], output.finish_reason, list(output.token_ids), values, repr(output.text))
"""


def config(mode: str = "actfocus_sync", engine: str = "vllm") -> Any:
    return OmegaConf.create(
        {"actor_rollout_ref": {"rollout": {"name": engine}}, "trainer": {"v1": {"trainer_mode": mode}}}
    )


def test_vllm_gives_the_whole_reply_as_ids() -> None:
    """In one output, or in one for each token where verl has to see the first; so too where a request is aborted."""
    environment = os.environ | {"VERL_PLATFORM": "cpu"}
    found = subprocess.run(
        [sys.executable, "-c", OUTPUTS], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "imported False" in found  # by the process that asks
    for mode, ended, aborted in (("actfocus_sync", 1, 1), ("actfocus_colocate_async", 4, 3)):
        assert f"{mode} ended {ended} stop [10, 11, 12, 2] [-0.5, -1.5, -2.5, -0.25] ''" in found
        assert f"{mode} aborted {aborted} abort [10, 11, 12] [-0.5, -1.5, -2.5] ''" in found


def test_ends_are_added_to_the_callers() -> None:
    found = reply_sampling(VERL | {"stop_token_ids": [9, 4]}, [4, 2], config())
    assert found["stop_token_ids"] == [2, 4, 9]
    assert VERL.items() <= found.items()


@pytest.mark.parametrize(("stop", "decoded"), [(None, False), ([], False), (["</tool>"], True)])
def test_a_text_to_stop_at_is_decoded_for(stop: list[str] | None, decoded: bool) -> None:
    given = VERL if stop is None else VERL | {"stop": stop}
    assert reply_sampling(given, [2], config())["detokenize"] == decoded


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
def test_only_where_no_update_aborts_a_reply_it_comes_in_one_piece(mode: str) -> None:
    for prefix in ("", "actfocus_"):
        assert ("output_kind" in reply_sampling(VERL, [2], config(prefix + mode))) == (mode == "sync")


def test_another_engine_gets_verls_own_parameters() -> None:
    assert reply_sampling(VERL, [2], config(engine="sglang")) == VERL | {"stop_token_ids": [2]}
