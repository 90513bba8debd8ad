"""Columns of the measured episodes, the credit that methods give to them, and its gradients by a slow loop."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console, Group

from actfocus_verl.columns import ENTROPY, GROUP_IDS, HINDSIGHT_LOG_PROBS, RELEVANCE, TRAINING_STEP
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.rollout import InformedContext, Reply, StopReason, Trajectory, TurnText
from actfocus_verl.truth.decomposition import Changes
from actfocus_verl.truth.gradients import Coordinates, board_gradients
from actfocus_verl.truth.judged_display import judged_tables
from actfocus_verl.truth.judging import Episodes, judge
from actfocus_verl.truth.methods import (
    BASE,
    chosen_methods,
    group_advantages,
    judged_methods,
    method_names,
    needed_columns,
)
from actfocus_verl.truth.segments import Boundary, Kind, Segment
from actfocus_verl.truth.steps import MeasuredStep, segment_sums, token_segments, with_logits
from tests.diagnosis.conftest import VOCABULARY, tiny_model

BOARDS = [0, 0, 1, 1]
R, A, F, E = TokenRole.REASONING, TokenRole.ACTION, TokenRole.FORMAT, TokenRole.ENVIRONMENT
TEMPERATURE = 0.8


def trajectory(number: int, turns: int) -> Trajectory:
    """Turns of 4 tokens (reasoning, reasoning, action, format), two tokens of the environment between them."""
    rng = np.random.default_rng(number)
    roles = [R, R, A, F] + [E, E, R, R, A, F] * (turns - 1)
    ids = rng.integers(VOCABULARY, size=len(roles)).tolist()
    turn_ids = [-1 if role is E else place // 6 for place, role in enumerate(roles)]
    prompt = rng.integers(VOCABULARY, size=2 + number).tolist()
    rewards = [0.0] * (turns - 1) + [float(number % 2)]
    return Trajectory(
        prompt_ids=prompt,
        response_ids=ids,
        response_mask=[int(role is not E) for role in roles],
        log_probs=None,
        token_roles=[int(role) for role in roles],
        turn_ids=turn_ids,
        turn_rewards=rewards,
        anchors=[number, 5][:turns],
        states=[number, number + 10][:turns],
        replies=[Reply([0] * 4) for _ in range(turns)],
        replayed=0,
        stop_reason=StopReason.FAILURE,
        success=bool(number % 2),
        outcome={},
        actions=turns,
        parsed_turns=turns,
        valid_turns=turns,
        texts=[TurnText("", "", True) for _ in range(turns)],
        final_state="",
        informed=[InformedContext(kept, [7, number, 3]) for kept in (0, len(prompt) + 4)[:turns]],
    )


def segments(turns: int) -> list[Segment]:
    return [
        Segment(kind, Boundary(turn, tokens, complete=kind is Kind.LUCK))
        for turn in range(turns)
        for kind, tokens in ((Kind.REASONING, 0), (Kind.ACTION, 2), (Kind.FORMAT, 3), (Kind.LUCK, 4))
    ]


def changes(number: int, turns: int) -> Changes:
    rng = np.random.default_rng([number, 1])
    cut = segments(turns)
    means = np.append(rng.random(len(cut)), float(number % 2))
    return Changes([each.kind for each in cut], [each.start.turn for each in cut], means, np.full(len(means), 0.01))


@pytest.fixture(scope="module")
def episodes() -> Episodes:
    turns = [1, 2, 2, 1]
    return Episodes(
        [trajectory(number, each) for number, each in enumerate(turns)],
        BOARDS,
        [segments(each) for each in turns],
        [changes(number, each) for number, each in enumerate(turns)],
        max_context_tokens=15,
    )


@pytest.fixture(scope="module")
def step(episodes: Episodes) -> MeasuredStep:
    return episodes.step()


def test_every_sampled_token_is_in_a_segment(episodes: Episodes, step: MeasuredStep) -> None:
    assert token_segments(trajectory(1, 2), segments(2)) == [0, 0, 1, 2, -1, -1, 4, 4, 5, 6]
    assert step.segments[0].tolist() == [0, 0, 1, 2, -1, -1, -1, -1, -1, -1]
    assert step.returns.tolist() == [0.0, 1.0, 0.0, 1.0]
    truth = step.of_segments(lambda along: along.values)
    values = episodes.changes[1].values
    assert truth[1].tolist() == pytest.approx([*values[[0, 0, 1, 2]], 0, 0, *values[[4, 4, 5, 6]]])
    assert segment_sums(step, truth)[1] == pytest.approx(values * [2, 1, 1, 0, 2, 1, 1, 0])


def slow_log_probs(model: torch.nn.Module, prompt: list[int], response: list[int]) -> torch.Tensor:
    """(T, V): one token at a time, without padding."""
    rows = []
    for position in range(len(response)):
        logits = model(input_ids=torch.tensor([[*prompt, *response[:position]]])).logits[0, -1]
        rows.append((logits / TEMPERATURE).log_softmax(dim=-1))
    return torch.stack(rows)


def test_logits_are_read_at_the_tokens_they_predict(episodes: Episodes, step: MeasuredStep) -> None:
    model = tiny_model()
    columns = with_logits(model, tiny_model(1), step, TEMPERATURE)
    for row, each in enumerate(episodes.trajectories):
        slow = slow_log_probs(model, each.prompt_ids, each.response_ids).detach()
        length = len(each.response_ids)
        expected = slow[torch.arange(length), torch.tensor(each.response_ids)]
        assert columns["old_log_probs"][row, :length].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
        entropy = -(slow.exp() * slow).sum(dim=-1)
        assert columns[ENTROPY][row, :length].tolist() == pytest.approx(entropy.tolist(), abs=1e-5)
        frozen = slow_log_probs(tiny_model(1), each.prompt_ids, each.response_ids).detach()
        expected = frozen[torch.arange(length), torch.tensor(each.response_ids)]
        assert columns["ref_log_prob"][row, :length].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_hindsight_scores_each_reply_behind_its_feedback(episodes: Episodes, step: MeasuredStep) -> None:
    """Of the episode of number 2, the second turn has a context of 8 + 3 tokens and a reply of 4: 15 fit, 16 do not."""
    model = tiny_model()
    columns = with_logits(model, model, step, TEMPERATURE)
    expected = columns["old_log_probs"].clone()
    for row, each in enumerate(episodes.trajectories):
        for turn in range(each.turns):
            informed, ids = each.informed[turn], each.response_ids[6 * turn : 6 * turn + 4]
            prompt = [*[*each.prompt_ids, *each.response_ids][: informed.kept], *informed.token_ids]
            if len(prompt) + 4 <= episodes.max_context_tokens:
                slow = slow_log_probs(model, prompt, ids).detach()
                expected[row, 6 * turn : 6 * turn + 4] = slow[torch.arange(4), torch.tensor(ids)]
    torch.testing.assert_close(columns[HINDSIGHT_LOG_PROBS], expected, rtol=0, atol=1e-5)
    changed = columns[HINDSIGHT_LOG_PROBS] != columns["old_log_probs"]
    assert [bool(row[6:].any()) for row in changed[1:3]] == [True, True]
    short = replace(episodes, max_context_tokens=14).step()
    kept = with_logits(model, model, short, TEMPERATURE)[HINDSIGHT_LOG_PROBS]
    assert torch.equal(kept[2, 6:], columns["old_log_probs"][2, 6:])


def test_gradients_are_those_of_a_loop_over_episodes(episodes: Episodes, step: MeasuredStep) -> None:
    model = tiny_model()
    credit = torch.where(step.segments >= 0, torch.randn(step.segments.shape), torch.nan)
    found = board_gradients(
        model, step, [credit.nan_to_num(), credit.nan_to_num() * 2], step.columns[GROUP_IDS], TEMPERATURE
    )
    parameters = list(model.parameters())
    for place, board in enumerate((0, 1)):
        total = torch.zeros(())
        for row in np.flatnonzero(np.array(BOARDS) == board):
            each = episodes.trajectories[row]
            slow = slow_log_probs(model, each.prompt_ids, each.response_ids)
            for position, token in enumerate(each.response_ids):
                if each.response_mask[position]:
                    total = total + credit[row, position] * slow[position, token]
        expected = torch.cat([each.reshape(-1) for each in torch.autograd.grad(total, parameters)])
        scale = 2 / sum(sum(each.response_mask) for each in episodes.trajectories)
        np.testing.assert_allclose(found[0, place], expected.numpy() * scale, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[1, place], 2 * found[0, place], rtol=1e-5, atol=1e-7)


def test_drawn_coordinates_are_those_of_the_whole_gradient(step: MeasuredStep) -> None:
    model = tiny_model()
    credit = torch.where(step.segments >= 0, torch.randn(step.segments.shape), 0.0)
    given = (model, step, [credit], step.columns[GROUP_IDS], TEMPERATURE)
    everything = Coordinates(model)
    drawn = Coordinates(model, everything.total // 3, seed=5)
    numbers = [torch.arange(each.numel()) for each in everything.parameters]
    starts = np.cumsum([0, *(each.numel() for each in everything.parameters)])
    places = drawn.flat([each + start for each, start in zip(numbers, starts[:-1].tolist(), strict=True)]).astype(int)
    assert len(set(places.tolist())) == drawn.size == everything.total // 3
    whole, part = board_gradients(*given), board_gradients(*given, coordinates=drawn)
    np.testing.assert_array_equal(part, whole[:, :, places])


def test_gradients_under_autocast_are_those_of_float32_but_for_rounding(step: MeasuredStep) -> None:
    rng = torch.Generator().manual_seed(0)
    credit = torch.where(step.segments >= 0, torch.randn(step.segments.shape, generator=rng), 0.0)
    given = tiny_model(), step, [credit], step.columns[GROUP_IDS], TEMPERATURE
    exact, rounded = board_gradients(*given)[0], board_gradients(*given, autocast=True)[0]
    assert rounded.dtype == np.float32
    for board, each in zip(exact, rounded, strict=True):
        assert np.linalg.norm(each - board) > 0
        assert each @ board > 0.99 * np.linalg.norm(each) * np.linalg.norm(board)


def test_group_advantages_are_verls() -> None:
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    rng = torch.Generator().manual_seed(0)
    returns, ids = torch.rand(8, 1, generator=rng), torch.tensor([0, 1, 0, 1, 0, 1, 2, 2])
    for by_std in (True, False):
        theirs, _ = compute_grpo_outcome_advantage(
            returns, torch.ones(8, 1), ids.numpy(), norm_adv_by_std_in_grpo=by_std
        )
        torch.testing.assert_close(group_advantages(returns, ids, by_std=by_std), theirs)


def test_every_registered_method_has_a_row_or_a_reason(step: MeasuredStep) -> None:
    from actfocus_verl.credit.estimation import ESTIMATORS
    from actfocus_verl.credit.registry import known_weightings

    methods, left_out = judged_methods(step, with_logits(tiny_model(), tiny_model(), step, TEMPERATURE))
    rows = [method.name for method in methods]
    for name in known_weightings():
        assert f"grpo + {name}" in [*rows, *left_out]
    for name in ESTIMATORS.known():
        assert f"{name} + uniform" in [*rows, *left_out]
    assert {
        "grpo + hindsight",
        "grpo + actfocus placebo",
        "truth + uniform",
        "truth + actfocus",
        "gigpo + uniform",
    } <= set(rows)
    assert left_out["carl + uniform"] == "needs forked episodes"
    assert left_out["igpo + uniform"] == "needs answer_scores"
    for method in methods:
        assert not bool((method.credit[step.segments < 0] != 0).any()), method.name


def test_named_methods_are_those_of_the_whole_table(step: MeasuredStep) -> None:
    columns = with_logits(tiny_model(), tiny_model(), step, TEMPERATURE)
    whole, left_out = judged_methods(step, columns)
    assert {method.name for method in whole} | left_out.keys() == set(method_names())
    chosen = chosen_methods("gigpo + uniform,  grpo  + actfocus placebo,carl + uniform")
    assert chosen == {"grpo + uniform", "gigpo + uniform", "grpo + actfocus placebo", "carl + uniform"}
    some, why = judged_methods(step, columns, chosen)
    assert [method.name for method in some] == [method.name for method in whole if method.name in chosen]
    assert set(why) == {"carl + uniform"}
    assert needed_columns(chosen) == {"energy"} | needed_columns({"grpo + uniform"})
    few = with_logits(tiny_model(), tiny_model(), step, TEMPERATURE, needed_columns(chosen))
    assert columns.keys() - few.keys() == {RELEVANCE, HINDSIGHT_LOG_PROBS, TRAINING_STEP}
    for method in some:
        (same,) = (each for each in whole if each.name == method.name)
        torch.testing.assert_close(method.credit, same.credit, rtol=0, atol=0)


@pytest.fixture(scope="module")
def judged(episodes: Episodes) -> dict[str, Any]:
    stages = []
    found = judge(
        tiny_model(),
        tiny_model(1),
        episodes,
        episodes,
        temperature=TEMPERATURE,
        batch=8,
        progress=lambda stage, done, total: stages.append((stage, done, total)),
    )
    finished = [stage for stage, done, total in stages if done == total]
    assert finished[:4] == ["log-probs", "relevance", "log-probs with feedback", "reference gradient"]
    return found


def test_the_whole_judgement(judged: dict[str, Any]) -> None:
    base = judged["methods"][" + ".join(BASE)]
    assert sum(base["mass"].values()) == pytest.approx(1)
    assert base["gradient"]["gain"] == {"estimate": 0.0, "low": 0.0, "high": 0.0}
    assert judged["methods"]["truth + uniform"]["turns"] is None  # it would be compared with itself
    assert judged["methods"]["turn_ppo + uniform"]["remark"] == "a critic of the measured values"
    assert judged["reference"]["episodes"] == 4


def test_the_tables_show_every_method(judged: dict[str, Any]) -> None:
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(Group(*judged_tables(judged)))
    text = console.export_text()
    for name in judged["methods"]:
        assert text.count(f"{name} ") >= 2
    assert "Not judged: " in text
    assert "a2tgpo + uniform (needs answer_scores)" in text
