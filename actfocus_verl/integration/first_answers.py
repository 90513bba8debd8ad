"""How much the reasoning decides the answer, measured on a step's rows right after verl's log-prob pass."""

from __future__ import annotations

import math

import transfer_queue as tq
from transfer_queue import KVBatchMeta

from actfocus_verl.columns import ENTROPY, RESPONSES, TOKEN_ROLES, TURN_IDS
from actfocus_verl.credit.influence import ALPHA, UNKNOWN, MovingInfluence, answer_entropies
from actfocus_verl.integration.columns import first_outputs, group_ids, padded_columns, valid_rows_of

_FIELDS = [TOKEN_ROLES, TURN_IDS, RESPONSES, ENTROPY, "response_mask"]


def measure_influence(batch: KVBatchMeta, moving: MovingInfluence) -> tuple[float, dict[str, float]]:
    """Add a step's first answers to the moving averages; return the influence and the step's metrics.

    The influence is `UNKNOWN` as long as it could not be measured, and NaN if an entropy that it needs is not finite.
    The metrics are empty in a step that has nothing to compare, or no entropies (`rollout_correction.bypass_mode`).
    """
    valid = valid_rows_of(batch)
    keys = [batch.keys[position] for position in first_outputs(batch.keys) if valid[position]]
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=_FIELDS)
    has_entropy = ENTROPY in data.keys()  # noqa: SIM118  (a TensorDict iterates over rows)
    found = answer_entropies(padded_columns(data), group_ids(keys)) if has_entropy else None
    metrics = {} if found is None else found.metrics()
    moving.add_step(metrics)
    if found is not None and math.isnan(found.given_reasoning):
        return math.nan, metrics
    if moving.value is None:
        return UNKNOWN, metrics
    return moving.value, metrics | ({ALPHA: moving.value} if metrics else {})
