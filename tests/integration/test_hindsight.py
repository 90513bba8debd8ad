"""credit=hindsight in a step of the trainer: probes through verl's engine, columns, padding, refusals. No Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.settings import check_config
from tests.config.conftest import changed, composed
from tests.helpers import slow_weightings
from tests.helpers.engines import VOCABULARY
from tests.helpers.probes import Rows
from tests.helpers.queue import LocalQueue
from tests.helpers.trainer import MakeTrainer, to_advantages

WITHOUT = ("a_1_0", 1)
"""The row and turn whose feedback did not fit."""


@pytest.fixture
def rows(rows: Rows) -> Rows:
    """Two turns a row, the second behind three tokens of the first; each with feedback of a few random ids."""
    generator = torch.Generator().manual_seed(17)
    for key, row in rows.items():
        lengths = [0 if (key, turn) == WITHOUT else 3 + turn for turn in range(2)]
        row["feedback_starts"] = torch.tensor([0, len(row["prompts"]) + 3])
        row["feedback_lengths"] = torch.tensor(lengths)
        row["feedback_ids"] = torch.randint(3, VOCABULARY, (sum(lengths),), generator=generator)
    return rows


@torch.no_grad()
def slow_log_probs(row: dict[str, Any], old: list[float], model: Any, temperature: float) -> list[float]:
    """The log-probs of the replies behind their feedback, one forward pass a turn; elsewhere the old ones."""
    found, taken = list(old), 0
    sequence = [*row["prompts"].tolist(), *row["responses"].tolist()]
    for turn in range(2):
        length = int(row["feedback_lengths"][turn])
        ids = row["feedback_ids"].tolist()[taken : taken + length]
        taken += length
        places = [t for t, each in enumerate(row["turn_ids"].tolist()) if each == turn and row["response_mask"][t]]
        if not ids or not places:
            continue
        context = sequence[: int(row["feedback_starts"][turn])] + ids
        whole = context + [int(row["responses"][t]) for t in places]
        log_probs = (model(torch.tensor([whole])).logits[0] / temperature).log_softmax(dim=-1)
        for rank, place in enumerate(places):
            found[place] = float(log_probs[len(context) + rank - 1, whole[len(context) + rank]])
    return found


@pytest.mark.parametrize("tokens", ["action", "all"])
def test_a_step(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, model_folder: Path, tokens: str) -> None:
    trainer = make_trainer("credit=hindsight", f"credit.tokens={tokens}", "credit.decay_steps=4")
    trainer.global_steps = 3  # half of lam is left
    batch, metrics = to_advantages(trainer, queue.fill(rows))
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    probes = sampled = 0
    for key, row in rows.items():
        stored = queue.rows[key]
        old, found = stored["old_log_probs"].tolist(), stored["hindsight_log_probs"].tolist()
        expected = slow_log_probs(row, old, model, temperature=0.9)
        assert found == pytest.approx(expected, abs=1e-4)
        turns = [turn for turn in (0, 1) if (row["turn_ids"] == turn).any()]
        sampled += len(turns)
        probes += len([turn for turn in turns if (key, turn) != WITHOUT])
        columns = [stored["advantages"].tolist()], [old], [found], [row["token_roles"].tolist()]
        weights = slow_weightings.hindsight(*columns, lam=0.25, clip=0.2, every=tokens == "all")[0]
        assert stored["token_weights"].tolist() == pytest.approx(weights, abs=1e-6)
    assert {"hindsight_log_probs", "token_weights"} <= set(batch.fields)
    assert metrics["credit/hindsight/turns_without_feedback"] == pytest.approx(1 - probes / sampled)
    assert probes == sampled - 1
    padding = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if tag.get("is_padding")]
    assert len(padding) == 2
    assert set(queue.rows) == {*rows, *padding}  # the probes are gone
    assert all(queue.rows[key]["token_weights"].tolist() == [0.0] for key in padding)
    weights = torch.cat([queue.rows[key]["token_weights"] for key in rows])
    assert len(weights.unique()) > 3


def test_the_order_of_rows_does_not_matter(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows) -> None:
    found = []
    for keys in (list(rows), list(rows)[::-1]):
        queue.rows.clear()
        to_advantages(make_trainer("credit=hindsight"), queue.fill({key: rows[key] for key in keys}))
        found.append({key: queue.rows[key]["token_weights"] for key in keys})
    for key, weights in found[0].items():
        torch.testing.assert_close(weights, found[1][key], atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [["credit.lam=0"], ["credit.decay_steps=2"]])
def test_without_strength_there_is_no_pass_and_weights_are_uniform(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, monkeypatch: pytest.MonkeyPatch, settings: list[str]
) -> None:
    trainer = make_trainer("credit=hindsight", *settings)
    trainer.global_steps = 3
    partitions = []
    run = trainer.actor_rollout_wg.compute_log_prob

    def record(batch: Any) -> Any:
        partitions.append(batch.partition_id)
        return run(batch)

    monkeypatch.setattr(trainer.actor_rollout_wg, "compute_log_prob", record)
    to_advantages(trainer, queue.fill(rows))
    assert set(partitions) == {"train"}
    for key, row in rows.items():
        assert torch.equal(queue.rows[key]["token_weights"], (row["token_roles"] > 0).float())


def test_a_loop_without_feedback_is_refused(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows) -> None:
    for row in rows.values():
        del row["feedback_ids"]
    with pytest.raises(ConfigurationError, match=r"credit.name='hindsight': needs the column feedback_ids, which the"):
        to_advantages(make_trainer("credit=hindsight"), queue.fill(rows))


def test_a_run_that_gives_no_feedback_is_refused_before_it_starts() -> None:
    check_config(composed("credit=hindsight"))
    config = changed(composed("credit=hindsight"), **{"algorithm.rollout_correction.bypass_mode": True})
    with pytest.raises(ConfigurationError, match=r"reads the policy's log-probs, and .* skips the pass") as caught:
        check_config(config)
    assert "\n" not in str(caught.value)
