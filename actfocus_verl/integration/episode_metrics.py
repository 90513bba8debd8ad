"""Metrics that a step's episodes report."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.integration.columns import OUTCOME_PREFIX
from actfocus_verl.integration.forked_loop import fork_metrics


def episode_metrics(extra_fields: list[dict[str, Any]], token_roles: torch.Tensor) -> dict[str, float]:
    """Return means over the episodes of a step: success, turns, valid actions, the world's own, stops, roles.

    Metrics that only our agent loop reports are left out for another loop's episodes.

    Args:
        extra_fields: of each episode's last output.
        token_roles: jagged, of all rows.
    """
    infos = [row.get("reward_extra_info") or {} for row in extra_fields]
    reported = set.intersection(*(set(info) for info in infos))
    named = {"success_rate": "success", "turns": "turns", "valid_action_rate": "valid_action_rate"}
    metrics = {
        f"episode/{name}": float(np.mean([info[key] for info in infos]))
        for name, key in named.items()
        if key in reported
    }
    stops = Counter(info["stop_reason"] for info in infos if "stop_reason" in reported)
    figures = {key for info in infos for key in info if key.startswith(OUTCOME_PREFIX)}
    metrics |= {f"episode/{key}": float(np.mean([info[key] for info in infos])) for key in sorted(figures)}
    metrics |= fork_metrics(infos)
    metrics |= {f"stop/{reason}": count / len(infos) for reason, count in sorted(stops.items())}
    roles = token_roles.values()
    for role in TokenRole:
        metrics[f"response_tokens/{role.name.lower()}"] = float((roles == role).sum()) / len(infos)
    return metrics
