"""A run's records, written by the trainer as they happen: metrics.jsonl, evaluations.jsonl, rollouts/<step>.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transfer_queue as tq
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta

from actfocus_verl.columns import RECORDED
from actfocus_verl.config import has_world, section
from actfocus_verl.credit.early_stop import History
from actfocus_verl.credit.influence import MovingInfluence
from actfocus_verl.files import append_json, json_text, naming, write_json, write_text
from actfocus_verl.integration.columns import (
    FORK,
    OUTCOME_PREFIX,
    TURN_CALLS,
    group_and_session,
    last_outputs,
    output_index,
)
from actfocus_verl.rollout import TokenDecoder
from actfocus_verl.run_files import (
    EVALUATIONS_FILE,
    FAILED_EPISODES_FILE,
    LOCAL_UPDATES_FILE,
    METRICS_FILE,
    PLAYED_STEP_FILE,
    complete_lines,
    rollouts_file,
)


class RunLog:
    """Appends to the files of `config.run.dir`; a line is complete or absent, even if the run is killed.

    Without a `run` section, in a command of verl's own, nothing is written.
    """

    def __init__(self, config: Any) -> None:
        run = section(config, "run")
        self.folder = Path(run["dir"]) if run else None
        self.rollouts_a_step = int(run.get("rollouts_a_step", 0))
        self.rollouts_every = int(run.get("rollouts_every", 1))
        self.seed = int(OmegaConf.select(config, "env.seed", default=0))
        self.has_world = has_world(config)
        self.evaluates_first = bool(config.trainer.get("val_before_train", True))
        self.temperature = float(config.actor_rollout_ref.rollout.val_kwargs.temperature)
        self.history = History()
        self.influence = MovingInfluence()
        failures = None if self.folder is None else self.folder / FAILED_EPISODES_FILE
        self._failures_before = failures.stat().st_size if failures is not None and failures.exists() else 0

    def recover(self, step: int) -> bool:
        """Record the step of the checkpoint if an earlier start was killed before it could; return whether it was.

        Between a step's checkpoint and its record verl evaluates. What is lost is what follows the update in it: the
        evaluation, and the times.
        """
        path = None if self.folder is None else self.folder / PLAYED_STEP_FILE
        if path is None or not path.exists():
            return False
        line = json.loads(path.read_text(encoding="utf-8"))
        metrics = path.with_name(METRICS_FILE)
        recorded = _keep_lines(metrics, lambda line: True)  # less a half-written last one, behind which none may stand
        missing = line["step"] == step and step not in [each["step"] for each in recorded]
        if missing:
            append_json(metrics, line)
        path.unlink()
        return missing

    def continue_from(self, step: int) -> None:
        """Drop what an earlier, interrupted start recorded after the checkpoint of `step`: those steps run again.

        The evaluation at `step` itself is dropped too if verl evaluates again before training on.
        """
        if self.folder is None:
            return
        for line in _keep_lines(self.folder / METRICS_FILE, lambda line: line["step"] <= step):
            self.history.add_step(line)
            self.influence.add_step(line)
        _keep_lines(self.folder / LOCAL_UPDATES_FILE, lambda line: line["step"] <= step)
        last_kept = step - 1 if self.evaluates_first else step
        kept = _keep_lines(self.folder / EVALUATIONS_FILE, lambda line: line["step"] <= last_kept)
        self.history.add_evaluations(kept)

    def last_failure(self) -> str | None:
        """Why the last episode of this start that failed did so; None where the folder does not say."""
        path = None if self.folder is None else self.folder / FAILED_EPISODES_FILE
        if path is None or not path.exists():
            return None
        lines = complete_lines(path.read_bytes()[self._failures_before :])
        return str(json.loads(lines[-1])["error"]) if lines else None

    def played(self, metrics: Mapping[str, Any], step: int) -> None:
        """Keep what a step has measured until `metrics` records it, for `recover`."""
        if self.folder is not None:
            write_json(self.folder / PLAYED_STEP_FILE, _scalars(metrics, step))

    def metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Append one flat object: `step` and every scalar of the step."""
        if self.folder is not None:
            append_json(self.folder / METRICS_FILE, _scalars(metrics, step))
            (self.folder / PLAYED_STEP_FILE).unlink(missing_ok=True)

    def local_updates(self, lines: Sequence[Mapping[str, float]], step: int) -> None:
        """Append one object per local update of a step (`LocalUpdates.lines`)."""
        if self.folder is not None:
            for line in lines:
                append_json(self.folder / LOCAL_UPDATES_FILE, {"step": step, **line})

    def evaluations(
        self, data_sources: Sequence[str], uids: Sequence[str], infos: Mapping[str, Sequence[Any]], step: int
    ) -> None:
        """Append one object per data source (`env/preset/split`) with its success rate and 95 % Wilson interval.

        The interval treats episodes as independent, so it holds for one rollout per board; `boards` counts the boards.
        Without a world there is no such rate: then nothing is written; see verl's own validation metrics.
        """
        if not self.has_world:
            return
        lines = self._evaluation_lines(data_sources, uids, infos, step)
        self.history.add_evaluations(lines)
        if self.folder is not None:
            for line in lines:
                append_json(self.folder / EVALUATIONS_FILE, line)

    def _evaluation_lines(
        self, data_sources: Sequence[str], uids: Sequence[str], infos: Mapping[str, Sequence[Any]], step: int
    ) -> list[dict[str, Any]]:
        from scipy.stats import binomtest  # half a second in every process that imports verl, if it were at the top

        lines = []
        for source in sorted(set(data_sources)):
            rows = [position for position, name in enumerate(data_sources) if name == source]
            env, preset, split = source.split("/")
            successes = int(sum(infos["success"][row] for row in rows))
            interval = binomtest(successes, len(rows)).proportion_ci(0.95, method="wilson")
            lines.append(
                {
                    "step": step,
                    "env": env,
                    "preset": preset,
                    "split": split,
                    "episodes": len(rows),
                    "boards": len({uids[row] for row in rows}),
                    "successes": successes,
                    "rate": successes / len(rows),
                    "ci_low": interval.low,
                    "ci_high": interval.high,
                    "mean_return": float(np.mean([infos["reward"][row] for row in rows])),
                    "valid_action_rate": float(np.mean([infos["valid_action_rate"][row] for row in rows])),
                    "seed": self.seed,
                    "temperature": self.temperature,
                    **{
                        name: float(np.mean([values[row] for row in rows]))
                        for name, values in infos.items()
                        if name.startswith(OUTCOME_PREFIX)
                    },
                },
            )
        return lines

    def rollouts(self, batch: KVBatchMeta, keys: Sequence[str], step: int, tokenizer: Any) -> None:
        """Write the first `run.rollouts_a_step` conversations of every `run.rollouts_every`-th step.

        One JSON object per row: the outputs of one conversation follow each other, each with the conversation's return.
        """
        if self.folder is None or self.rollouts_a_step <= 0 or step % self.rollouts_every:
            return
        chosen = first_conversations(keys, self.rollouts_a_step)
        data = tq.kv_batch_get(keys=chosen, partition_id=batch.partition_id)
        decoder = TokenDecoder(tokenizer)
        path = rollouts_file(self.folder, step)
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path), path.open("w", encoding="utf-8") as file:
            for row, last in enumerate(last_outputs(chosen)):
                entry = _rollout(data, row, chosen[row], step, decoder)
                file.write(json_text(entry | {"return": float(data["rm_scores"][last].sum())}) + "\n")


def first_conversations(keys: Sequence[str], count: int) -> list[str]:
    """Return the rows of `count` conversations, whole groups first, in the order of groups, sessions and outputs."""
    by_place = sorted(keys, key=lambda key: (*_place(key), output_index(key)))
    chosen = set(list(dict.fromkeys(_place(key) for key in by_place))[:count])
    return [key for key in by_place if _place(key) in chosen]


def _place(key: str) -> tuple[str, int]:
    group, session = group_and_session(key)
    return group, int(session)


def _rollout(data: Any, row: int, key: str, step: int, decoder: TokenDecoder) -> dict[str, Any]:
    uid, session = group_and_session(key)
    extra = data["extra_fields"][row]
    extra = getattr(extra, "data", extra)
    info = extra.get("reward_extra_info") or {}
    prompt_ids = _values(data["prompts"][row])
    entry: dict[str, Any] = {
        "step": step,
        "group": uid,
        "session": int(session),
        "output": output_index(key),
        "prompt_ids": prompt_ids,
        "prompt_text": decoder.decode(prompt_ids).text,
        "token_texts": decoder.decode(_values(data["responses"][row])).texts,
    }
    # what an agent loop that is not ours may leave out
    if "success" in info:
        entry["success"] = bool(info["success"])
    if "stop_reason" in info:
        entry["stop_reason"] = info["stop_reason"]
    if "turn_rewards" in data.keys():  # noqa: SIM118  (a TensorDict iterates over rows)
        entry["turn_rewards"] = _values(data["turn_rewards"][row])
    entry |= {name: extra[name] for name in ("texts", "final_state", "stratum", TURN_CALLS) if name in extra}
    if FORK in info:
        entry["replayed_turns"] = max(int(info[FORK]), 0)
    length = data["responses"][row].numel()
    for name in ("responses", *RECORDED):
        if name in data.keys():  # noqa: SIM118  (a TensorDict iterates over rows)
            entry[name] = _values(data[name][row][:length])
    return entry


def _values(tensor: Any) -> list[Any]:
    if tensor.is_floating_point():
        return [round(float(value), 6) for value in tensor]
    return [int(value) for value in tensor]


def _number(value: Any) -> float | int | str | None:
    if isinstance(value, str | bool):
        return value
    number: float | int | None = value.item() if hasattr(value, "item") else value
    return number


def _scalars(metrics: Mapping[str, Any], step: int) -> dict[str, Any]:
    scalars = {key: _number(value) for key, value in metrics.items() if np.isscalar(value) or np.ndim(value) == 0}
    return {"step": step} | scalars


def _keep_lines(path: Path, keep: Any) -> list[dict[str, Any]]:
    """Rewrite a JSON-lines file with the lines `keep` accepts, and return them; a half-written last line is dropped."""
    if not path.exists():
        return []
    read = ((text, json.loads(text)) for text in complete_lines(path.read_bytes()))
    kept = [(text, line) for text, line in read if keep(line)]
    write_text(path, "".join(text.decode() + "\n" for text, _ in kept))
    return [line for _, line in kept]
