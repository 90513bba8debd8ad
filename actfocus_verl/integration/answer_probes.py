"""The policy's log-prob of the world's known answer before each turn: one more log-prob pass of the actor.

A probe is a row of its own: the context of a turn and the opening of a reply as its prompt, the answer as its response.
Probes live in their own partition during the pass. The policy is the one that sampled, not yet updated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.utils.tensordict_utils import list_of_dict_to_tensordict
from verl.workers.utils.padding import response_from_nested

from actfocus_verl.columns import ANSWER_SCORES
from actfocus_verl.integration.columns import PROBE_COLUMNS, require_columns, valid_rows_of

PARTITION: Final = "answer_probes"

Pass = Callable[[KVBatchMeta], KVBatchMeta]
"""Pads and balances a batch, and has the actor write `log_probs` to its rows; returns the batch it ran on."""


def score_answers(batch: KVBatchMeta, key: str, reader: str, log_prob_pass: Pass) -> KVBatchMeta:
    """Write `answer_scores` to the rows of a batch: the answer's mean log-prob before each turn, NaN without an answer.

    key, reader: the setting that needs them, `key=reader`.

    Returns the batch, which names the new column. Raises ConfigurationError when the agent loop writes no probes.
    """
    names = ["prompts", "responses", *PROBE_COLUMNS]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
    require_columns(data, names, key, reader, otherwise="algorithm=grpo credit=uniform")
    columns = {name: data[name].unbind() for name in names}
    scores = [torch.full((len(starts),), torch.nan) for starts in columns["probe_starts"]]
    probes: dict[str, tuple[int, int]] = {}
    rows: list[dict[str, torch.Tensor]] = []
    # a padding row has a copy of another row's probes beside a sequence that is not theirs
    for index in valid_rows_of(batch).nonzero().flatten().tolist():
        for turn, probe in probes_of({name: column[index] for name, column in columns.items()}):
            probes[f"{batch.keys[index]}_{turn}"] = (index, turn)
            rows.append(probe)
    for key, value in _means(list(probes), rows, log_prob_pass).items():
        index, turn = probes[key]
        scores[index][turn] = value
    nested = torch.nested.as_nested_tensor(scores, layout=torch.jagged)
    fields = TensorDict({ANSWER_SCORES: nested}, batch_size=len(batch.keys))
    return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)


def probes_of(row: dict[str, torch.Tensor]) -> list[tuple[int, dict[str, torch.Tensor]]]:
    """The probes of an episode: the turn, and the columns that verl's log-prob pass reads.

    row: `prompts`, `responses` and PROBE_COLUMNS of one episode, each flat.
    """
    probes = []
    forced = row["probe_ids"].split(row["probe_lengths"].tolist())
    for turn, ids in enumerate(forced):
        if len(ids) == 0:
            continue
        opening = len(ids) - int(row["answer_lengths"][turn])
        context = row["responses"][: int(row["probe_starts"][turn])]
        prompt, answer = torch.cat([row["prompts"], context, ids[:opening]]), ids[opening:]
        mask = torch.ones_like(answer)
        columns = {"prompts": prompt, "responses": answer, "response_mask": mask, "loss_mask": mask}
        columns["input_ids"] = torch.cat([prompt, answer])
        columns["position_ids"] = torch.arange(len(columns["input_ids"]))
        probes.append((turn, columns))
    return probes


def _means(keys: list[str], rows: list[dict[str, torch.Tensor]], log_prob_pass: Pass) -> dict[str, float]:
    """The mean log-prob of each row's response. Raises ValueError when one is not finite."""
    if not keys:
        return {}
    lengths = [(len(row["prompts"]), len(row["responses"])) for row in rows]
    tags: list[dict[str, Any]] = [
        {"prompt_len": prompt, "response_len": response, "seq_len": prompt + response} for prompt, response in lengths
    ]
    sent = tq.kv_batch_put(keys=keys, partition_id=PARTITION, fields=list_of_dict_to_tensordict(rows), tags=tags)
    sent = log_prob_pass(sent)
    data = tq.kv_batch_get(keys=keys, partition_id=PARTITION, select_fields=["log_probs", "response_mask"])
    tq.kv_clear(keys=sent.keys, partition_id=PARTITION)
    log_probs = response_from_nested(data["log_probs"], data["response_mask"])
    means = {key: float(row.double().mean()) for key, row in zip(keys, log_probs.unbind(), strict=True)}
    if not bool(torch.isfinite(torch.tensor(list(means.values()))).all()):
        raise ValueError("the log-prob of a known answer is NaN or infinite; check the actor")
    return means
