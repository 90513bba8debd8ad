"""Token columns: per-token data of a trajectory, in the form that verl's TransferQueue carries."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.workers.utils.padding import response_to_nested

from actfocus_verl.columns import ANY_LOOP, COLUMNS, TOKEN_ROLES, TURN_IDS, TURN_REWARDS, given_by, of_turns
from actfocus_verl.errors import ConfigurationError

PROBE_COLUMNS = ("probe_starts", "probe_lengths", "answer_lengths", "probe_ids")
"""What the agent loop writes where the policy is probed for a known answer (`rollout.probe_columns`)."""

FEEDBACK_COLUMNS = ("feedback_starts", "feedback_lengths", "feedback_ids")
"""What the agent loop writes where replies are scored with feedback in their prompt (`rollout.feedback_columns`)."""

OUTCOME_PREFIX = "outcome/"
"""Prefix of a world's additional metrics (`World.outcome`) in verl's `reward_extra_info`."""

TURN_CALLS = "turn_calls"
"""Field of a row of a user's agent: by turn its tool calls, each as (name, arguments)."""

_OF_TOKENS = tuple(given_by(ANY_LOOP, COLUMNS))
"""Columns with one entry per response token that an agent loop may give."""

NO_NUMBER = "no_number"
"""In `reward_extra_info` of an episode whose reward was not a number and became NaN: the original value."""

FORK = "fork"
"""In `reward_extra_info` of forked rollouts: turns replayed, 0 for an episode from the beginning, or MISMATCH."""
MISMATCH = -1


def group_and_session(key: str) -> tuple[str, str]:
    """Return the uid of the prompt group and the session of a row's key, verl's `{uid}_{session}_{index}`."""
    uid, session, _ = key.rsplit("_", 2)
    return uid, session


def group_ids(keys: Sequence[str]) -> torch.Tensor:
    """Return numbers, int64 (B,), equal for rows of one prompt group."""
    return _numbered([group_and_session(key)[0] for key in keys])


def conversation_ids(keys: Sequence[str]) -> torch.Tensor:
    """Return numbers, int64 (B,), equal for rows of one conversation: the outputs of one run of an agent loop."""
    return _numbered([group_and_session(key) for key in keys])


def last_outputs(keys: Sequence[str]) -> list[int]:
    """Return for each row the position of its conversation's last output, whose return is the conversation's.

    An agent loop may return several outputs, each a row. verl's GRPO compares the last ones of a group.
    """
    last: dict[tuple[str, str], tuple[int, int]] = {}
    for position, key in enumerate(keys):
        place = (output_index(key), position)
        conversation = group_and_session(key)
        last[conversation] = max(place, last.get(conversation, place))
    return [last[group_and_session(key)][1] for key in keys]


def first_outputs(keys: Sequence[str]) -> list[int]:
    """Return the position of each conversation's first output, in the order of rows."""
    first: dict[tuple[str, str], tuple[int, int]] = {}
    for position, key in enumerate(keys):
        place = (output_index(key), position)
        conversation = group_and_session(key)
        first[conversation] = min(place, first.get(conversation, place))
    return sorted(position for _, position in first.values())


def conversation_rows(keys: Sequence[str]) -> list[int]:
    """Return the position of each conversation's last output, in the order of rows."""
    return [position for position, last in enumerate(last_outputs(keys)) if position == last]


def output_index(key: str) -> int:
    """Return which output of its conversation a row is, from 0."""
    return int(key.rpartition("_")[2])


def _numbered(names: Sequence[Hashable]) -> torch.Tensor:
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(name, len(numbers)) for name in names], dtype=torch.int64)


def valid_rows_of(batch: KVBatchMeta) -> torch.Tensor:
    """Return bool (B,): False for the rows that verl added to fill a mini-batch."""
    return torch.tensor([not tag.get("is_padding", False) for tag in batch.tags])


def fetch_episodes(batch: KVBatchMeta) -> TensorDict:
    """The columns that a step's checks and metrics read, as far as the agent loop gives them."""
    fields = [
        *("response_mask", "rollout_log_probs", "rm_scores"),
        *(TOKEN_ROLES, TURN_IDS, TURN_REWARDS, "extra_fields"),
    ]
    return tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)


def plain(value: Any) -> Any:
    """Return the Python object that TransferQueue has wrapped."""
    return getattr(value, "data", value)


def require_lengths(batch: KVBatchMeta, data: TensorDict) -> None:
    """Raise ValueError, naming column and lengths, for a token column that is not as long as its row's response.

    Log-probs and energies are sliced by the mask's length: with a shorter mask, each token gets its neighbour's.
    """
    for name in _OF_TOKENS:
        if name not in data.keys():  # noqa: SIM118  (a TensorDict iterates over rows)
            continue
        for key, tag, row in zip(batch.keys, batch.tags, data[name].unbind(), strict=True):
            if row.numel() != tag["response_len"]:
                raise ValueError(
                    f"{name} has {row.numel()} entries, the response has {tag['response_len']} tokens (row {key}); "
                    "the agent loop must give one per token"
                )


def require_columns(data: TensorDict, names: Sequence[str], key: str, value: str, *, otherwise: str) -> None:
    """Raise ConfigurationError, naming them, for columns that the setting `key=value` needs and a batch lacks."""
    missing = [name for name in names if name not in data.keys()]  # noqa: SIM118  (a TensorDict iterates over rows)
    if missing:
        raise ConfigurationError(
            key,
            value,
            f"needs the column {', '.join(missing)}, which the agent loop of this run does not give",
            f"Use an agent loop whose output has it (docs/use_with_your_verl_run.md), or {otherwise}",
        )


def padded_columns(data: TensorDict) -> dict[str, torch.Tensor]:
    """Return the token columns as (B, T) tensors, T the longest response; what lies outside a row's response is 0.

    Columns are read row by row up to the response's own length: verl's padding rows carry a one-token response beside
    columns cloned from a longer row.
    """
    lengths = [row.numel() for row in data["response_mask"].unbind()]
    width = max(lengths)
    columns = {}
    for name in data.keys():  # noqa: SIM118  (a TensorDict iterates over rows)
        rows = data[name].unbind() if isinstance(data[name], torch.Tensor) else None
        if rows is None:
            continue
        column = rows[0].new_zeros((len(rows), width))
        for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            kept = row[:length]
            column[index, : kept.numel()] = kept
        columns[name] = column
    return columns


def padded_turns(data: TensorDict, valid_rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the turn columns as (B, K) tensors, K the most turns, and `turn_counts` (B,); padding rows have none.

    Raises ValueError when an episode's columns differ in length.
    """
    rows = {name: data[name].unbind() for name in data.keys()}  # noqa: SIM118  (a TensorDict iterates over rows)
    lengths = {
        name: [row.numel() * int(valid) for row, valid in zip(column, valid_rows, strict=True)]
        for name, column in rows.items()
    }
    counts = next(iter(lengths.values()))
    for name, found in lengths.items():
        if found != counts:
            raise ValueError(
                f"{name} and {next(iter(lengths))} of an episode differ in length; both need one entry per turn"
            )
    columns = {"turn_counts": torch.tensor(counts, dtype=torch.int64)}
    for name, column in rows.items():
        columns[name] = column[0].new_zeros((len(counts), max(counts, default=0)))
        for index, (row, count) in enumerate(zip(column, counts, strict=True)):
            columns[name][index, :count] = row[:count]
    return columns


def method_columns(data: TensorDict, valid_rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the token columns as (B, T) tensors, and the turn columns with `turn_counts` as `padded_turns` does."""
    turns = of_turns(data.keys())
    columns = padded_columns(data.select(*(name for name in data.keys() if name not in turns)))  # noqa: SIM118
    return columns | padded_turns(data.select(*turns), valid_rows) if turns else columns


def write_columns(batch: KVBatchMeta, columns: Mapping[str, torch.Tensor], nested_mask: torch.Tensor) -> KVBatchMeta:
    """Store (B, T) columns in the queue, cut to each row's response; return the batch, which then names them.

    nested_mask: the response mask, jagged, as the queue gives it.
    """
    nested = {name: response_to_nested(column, nested_mask) for name, column in columns.items()}
    fields = TensorDict(nested, batch_size=len(batch.keys))
    return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
