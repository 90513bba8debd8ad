"""One more log-prob pass of the actor over probes: rows of their own, a prompt and a response that is scored.

Probes live in their own partition during the pass. The policy is the one that sampled, not yet updated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.utils.tensordict_utils import list_of_dict_to_tensordict
from verl.workers.utils.padding import response_from_nested

Pass = Callable[[KVBatchMeta], KVBatchMeta]
"""Pads and balances a batch, and has the actor write `log_probs` to its rows; returns the batch it ran on."""

Probe = dict[str, torch.Tensor]


def probe_of(prompt: torch.Tensor, response: torch.Tensor) -> Probe:
    """The columns that verl's log-prob pass reads, from the ids of a prompt and a response."""
    mask = torch.ones_like(response)
    ids = torch.cat([prompt, response])
    columns = {"prompts": prompt, "responses": response, "response_mask": mask, "loss_mask": mask, "input_ids": ids}
    return columns | {"position_ids": torch.arange(len(ids))}


def score_probes(probes: Mapping[str, Probe], partition: str, log_prob_pass: Pass) -> dict[str, torch.Tensor]:
    """The log-probs of each probe's response, float32, one per token, by its key."""
    if not probes:
        return {}
    keys, rows = list(probes), list(probes.values())
    lengths = [(len(row["prompts"]), len(row["responses"])) for row in rows]
    tags: list[dict[str, Any]] = [
        {"prompt_len": prompt, "response_len": response, "seq_len": prompt + response} for prompt, response in lengths
    ]
    sent = tq.kv_batch_put(keys=keys, partition_id=partition, fields=list_of_dict_to_tensordict(rows), tags=tags)
    sent = log_prob_pass(sent)
    data = tq.kv_batch_get(keys=keys, partition_id=partition, select_fields=["log_probs", "response_mask"])
    tq.kv_clear(keys=sent.keys, partition_id=partition)
    log_probs = response_from_nested(data["log_probs"], data["response_mask"])
    return dict(zip(keys, log_probs.unbind(), strict=True))
