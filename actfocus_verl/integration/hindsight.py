"""The policy's log-probs of its own replies with the feedback on each in its prompt: one more log-prob pass.

A probe is a row of its own: the context of a turn, whose last message ends with the feedback on the reply, as its
prompt, and the ids of that reply as its response.
"""

from __future__ import annotations

from typing import Final

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from actfocus_verl.columns import HINDSIGHT_LOG_PROBS, TURN_IDS
from actfocus_verl.credit.hindsight import informed_prompts
from actfocus_verl.integration.columns import FEEDBACK_COLUMNS, require_columns, valid_rows_of
from actfocus_verl.integration.probe_pass import Pass, Probe, probe_of, score_probes

PARTITION: Final = "hindsight_probes"
WITHOUT: Final = "credit/hindsight/turns_without_feedback"
"""Metric: share of the sampled turns whose feedback did not fit into the context."""
SHIFT: Final = "credit/hindsight/log_prob_shift"
"""Metric: mean change of a scored token's log-prob through the feedback, in nats."""

_OLD: Final = "old_log_probs"


def add_hindsight(
    batch: KVBatchMeta, key: str, reader: str, log_prob_pass: Pass, *, skip: bool = False
) -> tuple[KVBatchMeta, dict[str, float]]:
    """Write `hindsight_log_probs` to the rows of a batch: `old_log_probs` in turns without feedback, and elsewhere.

    key, reader: the setting that needs them, `key=reader`. skip: score nothing, where nothing would come of it.

    Returns the batch, which names the new column, and metrics. Raises ConfigurationError when the agent loop writes no
    feedback.
    """
    names = ["prompts", "responses", "response_mask", _OLD, TURN_IDS, *FEEDBACK_COLUMNS]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
    require_columns(data, names, key, reader, otherwise="credit=uniform")
    columns = {name: data[name].unbind() for name in names}
    scores = [row.clone() for row in columns[_OLD]]
    places: dict[str, tuple[int, torch.Tensor]] = {}
    probes: dict[str, Probe] = {}
    sampled = 0
    # a padding row has a copy of another row's feedback beside a sequence that is not theirs
    for index in [] if skip else valid_rows_of(batch).nonzero().flatten().tolist():
        row = {name: column[index] for name, column in columns.items()}
        sampled += len(row[TURN_IDS][row["response_mask"].bool()].unique())
        for turn, (place, probe) in probes_of(row).items():
            name = f"{batch.keys[index]}_{turn}"
            places[name], probes[name] = (index, place), probe
    shifts = []
    for name, found in score_probes(probes, PARTITION, log_prob_pass).items():
        index, place = places[name]
        shifts.append(found.double() - scores[index][place])
        scores[index][place] = found.to(scores[index].dtype)
    nested = torch.nested.as_nested_tensor(scores, layout=torch.jagged)
    fields = TensorDict({HINDSIGHT_LOG_PROBS: nested}, batch_size=len(batch.keys))
    metrics: dict[str, float] = {}
    if sampled:
        metrics[WITHOUT] = 1.0 - len(probes) / sampled
    if shifts:
        metrics[SHIFT] = float(torch.cat(shifts).mean())
    return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields), metrics


def probes_of(row: dict[str, torch.Tensor]) -> dict[int, tuple[torch.Tensor, Probe]]:
    """The probes of an episode by turn: the places of the reply in the response, int64, and the probe.

    row: see `informed_prompts`.
    """
    return {
        turn: (places, probe_of(prompt, row["responses"][places]))
        for turn, (places, prompt) in informed_prompts(row).items()
    }
