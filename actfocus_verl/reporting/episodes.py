"""The sampled episodes of a run for its page: a short entry for the list, and the tokens for the viewer.

A run that was recorded by an older version lacks columns; whatever is there is shown. What contradicts itself is an
error that names the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from actfocus_verl.columns import COLOURED
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reporting.curves import finite
from actfocus_verl.reporting.run_folder import Record, RunFolder
from actfocus_verl.run_files import rollouts_file

ROLE_NAMES: Final[tuple[str, ...]] = ("environment", "reasoning", "action", "format")
"""Names of the token roles, by their number in `token_roles`."""

_COLUMNS: Final[tuple[str, ...]] = ("token_texts", "token_roles", "turn_ids", *(column.name for column in COLOURED))
_PERCENTILES: Final[tuple[int, int]] = (2, 98)
"""Percentiles at the ends of a colour scale, so that outliers do not make all other tokens look alike."""


@dataclass(frozen=True)
class Episode:
    """One sampled episode.

    entry: what the list shows: step, row, group, session, return, success, stop, turns, valid, tokens (sampled ones),
    roles (tokens by role) and calls (of tools); None where it was not recorded. chains: where a conversation has
    several rows, their places among the chosen ones.
    detail: prompt, tokens (texts), ids, roles, turns (turn ids) and the value columns, each with one entry a token of
    the response, or None; and by turn states, replies, valid, rewards and calls (name, arguments); and final_state.
    """

    entry: dict[str, Any]
    detail: dict[str, Any]


def read_episodes(run: RunFolder, limit: int) -> tuple[list[Episode], int]:
    """At most `limit` of the run's sampled episodes, evenly chosen, in the order of steps; and how many there are.

    Raises:
        ConfigurationError: an episode's columns contradict each other, or a file is damaged.
    """
    records = [(step, row, record) for step in run.rollout_steps() for row, record in enumerate(run.rollouts(step))]
    chosen = np.linspace(0, len(records) - 1, min(limit, len(records))).round().astype(int)
    episodes = [_episode(run, *records[index]) for index in chosen]
    _join_chains([episode.entry for episode in episodes], [records[index][2].get("output") for index in chosen])
    return episodes, len(records)


def _join_chains(entries: Sequence[dict[str, Any]], outputs: Sequence[int | None]) -> None:
    """Tell the rows of one conversation, which differ in their output, of each other."""
    conversations: dict[tuple[Any, ...], dict[int, int]] = {}
    for place, (entry, output) in enumerate(zip(entries, outputs, strict=True)):
        if output is not None:
            rows = conversations.setdefault((entry["step"], entry["group"], entry["session"]), {})
            rows.setdefault(output, place)
    for rows in conversations.values():
        if len(rows) > 1:
            for place in rows.values():
                entries[place]["chains"] = list(rows.values())


def colourings(episodes: Iterable[Episode]) -> list[dict[str, Any]]:
    """The values to colour tokens by: key, label, kind; and low and high, the ends of the scale.

    The ends are the 2nd and 98th percentile over all sampled tokens, symmetric about 0 for a diverging scale.
    """
    found: list[dict[str, Any]] = [{"key": "roles", "label": "role", "kind": "role"}]
    details = [episode.detail for episode in episodes]
    for column in COLOURED:
        key, kind = column.name, column.colour
        values = [
            value
            for detail in details
            if detail.get(key) is not None
            for value, role in zip(detail[key], detail["roles"] or [1] * len(detail[key]), strict=True)
            if role and value is not None
        ]
        if values:
            low, high = np.percentile(values, _PERCENTILES)
            if kind == "diverging":
                high = max(abs(low), abs(high))
                low = -high
            found.append({"key": key, "label": column.label, "kind": kind, "low": finite(low), "high": finite(high)})
    return found


def _episode(run: RunFolder, step: int, row: int, record: Record) -> Episode:
    ids = record.get("responses")
    columns = {name: record[name] for name in _COLUMNS if record.get(name) is not None}
    length = len(ids) if ids is not None else max(map(len, columns.values()), default=0)
    for name, column in columns.items():
        if len(column) != length:
            raise _damaged(run, step, row, f"{name} has {len(column)} entries, the response has {length} tokens")
    roles, turn_ids = columns.get("token_roles"), columns.get("turn_ids")
    if roles is not None and not set(roles) <= set(range(len(ROLE_NAMES))):
        raise _damaged(run, step, row, f"token_roles has values outside 0 to {len(ROLE_NAMES) - 1}")
    texts: Sequence[Mapping[str, Any]] = record.get("texts") or []
    sampled = Counter(roles) if roles is not None else None
    turns = max(len(texts), max(turn_ids or [-1]) + 1)
    entry = {
        "step": step,
        "row": row,
        "group": record.get("group"),
        "session": record.get("session"),
        "return": finite(record.get("return")),
        "success": record.get("success"),
        "stop": record.get("stop_reason"),
        "turns": turns,
        "valid": sum(bool(text.get("valid")) for text in texts) if texts else None,
        "tokens": length - sampled[0] if sampled is not None else length,
        "calls": sum(map(len, record["turn_calls"])) if record.get("turn_calls") is not None else None,
        "chains": None,
        "roles": [sampled[number] for number in range(len(ROLE_NAMES))] if sampled is not None else None,
    }
    detail = {
        "prompt": record.get("prompt_text"),
        "prompt_tokens": len(record["prompt_ids"]) if record.get("prompt_ids") is not None else None,
        "tokens": columns.get("token_texts"),
        "ids": ids,
        "roles": roles,
        "turns": turn_ids,
        "states": [text.get("state") for text in texts],
        "replies": [text.get("reply") for text in texts],
        "valid": [text.get("valid") for text in texts],
        "rewards": [finite(reward) for reward in record.get("turn_rewards") or []],
        "calls": record.get("turn_calls"),
        "final_state": record.get("final_state"),
    }
    for column in COLOURED:
        if column.name in columns:
            detail[column.name] = [_short(value) for value in columns[column.name]]
    return Episode(entry, detail)


def _short(value: Any) -> float | None:
    """Four significant digits: a page of 1,000 episodes has millions of these."""
    number = finite(value)
    return number if number is None or isinstance(number, int) else float(f"{number:.4g}")


def _damaged(run: RunFolder, step: int, row: int, problem: str) -> ConfigurationError:
    file = rollouts_file(run.path, step)
    return ConfigurationError("file", str(file), f"episode {row + 1}: {problem}", "Repair it, or move it away")
