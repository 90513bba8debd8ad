"""The policy's log-prob of the world's known answer before each turn: one more log-prob pass of the actor.

A probe is a row of its own: the context of a turn and the opening of a reply as its prompt, the answer as its response.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from actfocus_verl.columns import ANSWER_SCORES
from actfocus_verl.integration.columns import PROBE_COLUMNS, require_columns, valid_rows_of
from actfocus_verl.integration.probe_pass import Pass, Probe, probe_of, score_probes

PARTITION: Final = "answer_probes"


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
    places: dict[str, tuple[int, int]] = {}
    probes: dict[str, Probe] = {}
    # a padding row has a copy of another row's probes beside a sequence that is not theirs
    for index in valid_rows_of(batch).nonzero().flatten().tolist():
        for turn, probe in probes_of({name: column[index] for name, column in columns.items()}):
            name = f"{batch.keys[index]}_{turn}"
            places[name], probes[name] = (index, turn), probe
    for name, value in _means(probes, log_prob_pass).items():
        index, turn = places[name]
        scores[index][turn] = value
    nested = torch.nested.as_nested_tensor(scores, layout=torch.jagged)
    fields = TensorDict({ANSWER_SCORES: nested}, batch_size=len(batch.keys))
    return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)


def probes_of(row: dict[str, torch.Tensor]) -> list[tuple[int, Probe]]:
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
        probes.append((turn, probe_of(prompt, answer)))
    return probes


def _means(probes: dict[str, Probe], log_prob_pass: Pass) -> dict[str, float]:
    """The mean log-prob of each probe's response. Raises ValueError when one is not finite."""
    found = score_probes(probes, PARTITION, log_prob_pass)
    means = {key: float(row.double().mean()) for key, row in found.items()}
    if not all(map(math.isfinite, means.values())):
        raise ValueError("the log-prob of a known answer is NaN or infinite; check the actor")
    return means
