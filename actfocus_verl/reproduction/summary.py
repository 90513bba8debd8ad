"""The small JSON kept of a finished run: all that tables and figures need, and no weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.folder import EVALUATION_FILE
from actfocus_verl.evaluation.models import weights_digest
from actfocus_verl.files import json_text
from actfocus_verl.reporting.run_folder import Evaluation, Record, RunFolder
from actfocus_verl.reproduction.folders import Places, read_json
from actfocus_verl.reproduction.matrix import Run
from actfocus_verl.run_files import METRICS_FILE, TINY_POLICY_FILE

FORMAT: Final = 1

_SETTINGS: Final = (
    "env",
    "algorithm_name",
    "algorithm.adv_estimator",
    "algorithm.gamma",
    "algorithm.lam",
    "credit",
    "filter",
    "platform.name",
    "tiny_policy",
    "data.train_batch_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "actor_rollout_ref.actor.optim.lr",
    "actor_rollout_ref.actor.optim.lr_scheduler_type",
    "actor_rollout_ref.actor.use_kl_loss",
    "actor_rollout_ref.actor.kl_loss_coef",
    "actor_rollout_ref.actor.entropy_coeff",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.clip_ratio_low",
    "actor_rollout_ref.actor.clip_ratio_high",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.temperature",
    "actor_rollout_ref.rollout.val_kwargs.n",
    "actor_rollout_ref.rollout.val_kwargs.temperature",
    "critic.enable",
    "critic.optim.lr",
    "trainer.total_training_steps",
    "trainer.test_freq",
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
)
"""Sections and keys of config.yaml that are kept, without paths; config.yaml itself stays in the run's folder."""

METRICS: Final = (
    "actor/perf/cpu_memory_used_gb",
    "episode/success_rate",
    "perf/total_num_tokens",
    "response_length/max",
    "response_length/mean",
    "response_length/min",
    "response_tokens/action",
    "response_tokens/environment",
    "response_tokens/format",
    "response_tokens/reasoning",
    "timing_s/adv",
    "timing_s/ref",
    "timing_s/step",
    "timing_s/update_actor",
)
"""Metrics by step that are kept: those that a report reads. The run folder's metrics.jsonl has all of them."""

_DIGITS: Final = 6
"""Significant digits of a kept metric."""

Summary = dict[str, Any]


def summarise(matrix: str, run: Run, places: Places, start: Mapping[str, Any], source_after: str) -> Summary:
    """Make the summary of a run whose training has finished.

    Args:
        matrix: its name.
        run: experiment and seed.
        places: its files; where there is a final evaluation, it is part of the summary.
        start: what the runner wrote down when it started the run: code and settings.
        source_after: digest of the source now, after the run.

    Raises:
        ConfigurationError: the folder is not of a finished run, or lacks a step.
    """
    folder = places.folder
    record = RunFolder.open(folder)
    if record.info.get("exit_reason") != "finished":
        reason = record.info.get("exit_reason")
        raise ConfigurationError("run", str(folder), f"has not finished ({reason})", "Run it again; it resumes")
    steps = [line["step"] for line in record.metrics]
    total = _get(record.config, "trainer.total_training_steps")
    if steps != list(range(1, len(steps) + 1)) or (total is not None and len(steps) != total):
        problem = f"its {METRICS_FILE} has {len(steps)} of {total} steps, or lacks one between"
        raise ConfigurationError("run", str(folder), problem, "Delete the folder and run it again")
    if not record.evaluations:
        raise ConfigurationError("run", str(folder), "has no evaluation", "Set trainer.test_freq")
    return {
        "format": FORMAT,
        "matrix": matrix,
        "experiment": run.experiment.name,
        "seed": run.seed,
        "overrides": list(run.experiment.settings),
        "code": start["code"],
        "mixed_versions": bool(start.get("mixed_versions")) or start["code"]["source"] != source_after,
        "settings_digest": start["settings_digest"],
        "machine": record.info.get("machine"),
        "cost": _cost(record),
        "settings": {key: _get(record.config, key) for key in _SETTINGS if _get(record.config, key) is not None},
        "policy": _policy(record.config),
        "evaluations": [_evaluation(each) for each in record.evaluations if _is_scheduled(each, record.config)],
        **_final_evaluation(read_json(places.final_evaluation / EVALUATION_FILE)),
        "metrics": _columns(record.metrics),
    }


def _final_evaluation(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """`final_evaluation`: the world, and success with its 95 % interval; nothing where there was none."""
    if not evaluation:
        return {}
    settings, summary = evaluation["settings"], evaluation["summary"]
    world = {key: settings[key] for key in ("env", "preset", "split", "world", "temperature")}
    return {"final_evaluation": world | {key: summary[key] for key in ("episodes", "boards", "success")}}


def to_text(summary: Summary) -> str:
    """A summary as JSON, one key per line: a mapping in it has a line for each key, a list one for each mapping.

    Raises ValueError for a non-finite number, which JSON does not have.
    """
    lines = [f"  {_json(key)}: {_lines(value)}" for key, value in summary.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _lines(value: Any) -> str:
    if isinstance(value, Mapping) and value:
        return "{\n" + ",\n".join(f"    {_json(key)}: {_json(each)}" for key, each in value.items()) + "\n  }"
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return "[\n" + ",\n".join(f"    {_json(each)}" for each in value) + "\n  ]"
    return _json(value)


def _json(value: Any) -> str:
    return json_text(value)


def _is_scheduled(evaluation: Evaluation, config: Mapping[str, Any]) -> bool:
    """Whether an uninterrupted run makes it too: a resumed one also evaluates where it resumes."""
    frequency = _get(config, "trainer.test_freq") or -1
    last = evaluation.step == _get(config, "trainer.total_training_steps")
    return last or (evaluation.step % frequency == 0 if frequency > 0 else evaluation.step == 0)


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    line = asdict(evaluation)
    return {name: _rounded(value) for name, value in (line | line.pop("more")).items()}


def _columns(lines: Sequence[Record]) -> dict[str, list[Any]]:
    """The kept metrics, each a list over the steps; null where a step has none."""
    kept = [name for name in METRICS if any(name in line for line in lines)]
    return {name: [_rounded(line.get(name)) for line in lines] for name in ("step", *kept)}


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _cost(record: RunFolder) -> dict[str, Any]:
    """Seconds from start to end, summed over the starts with a known end; a killed start has none."""
    starts = record.info.get("starts", [])
    ended = [each for each in starts if each.get("ended")]
    seconds = [_seconds(each) for each in ended]
    return {
        "seconds": sum(seconds),
        "starts": len(starts),
        "starts_without_end": len(starts) - len(ended),
        "started": starts[0]["started"] if starts else None,
        "ended": record.info.get("ended"),
    }


def _seconds(start: Mapping[str, Any]) -> float:
    """What the start took; records of earlier versions have only its dates."""
    if "seconds" in start:
        return float(start["seconds"])
    return (_time(start["ended"]) - _time(start["started"])).total_seconds()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _policy(config: Mapping[str, Any]) -> dict[str, Any]:
    """Name of the model; of a tiny policy also its size and a hash of its weights."""
    path = _get(config, "model.path")
    if path is None:
        return {}
    report = read_json(Path(path) / TINY_POLICY_FILE)
    if not report:
        return {"name": path}
    found: dict[str, Any] = {"name": Path(path).name}
    found |= {key: report[key] for key in ("parameters", "vocabulary") if key in report}
    return found | {"weights": weights_digest(path)}


def other_weights(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    """By the name of a tiny policy, the runs that did not start from the same weights as the first of that name.

    A name stands for settings, and another machine builds other weights of them. Summaries of earlier versions do not
    have them, and are left out.
    """
    first: dict[str, str] = {}
    found: dict[str, list[Summary]] = {}
    for summary in summaries:
        policy = summary["policy"]
        if "weights" in policy and first.setdefault(policy["name"], policy["weights"]) != policy["weights"]:
            found.setdefault(policy["name"], []).append(summary)
    return found


def _get(config: Mapping[str, Any], dotted: str) -> Any:
    value: Any = config
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value
