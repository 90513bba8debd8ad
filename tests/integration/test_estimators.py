"""Our advantage estimators through verl's own `_compute_advantage`: columns, padding, metrics, refusals. No Ray."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

from actfocus_verl.config import require_estimator
from actfocus_verl.credit.estimation import ESTIMATORS
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.columns import padded_turns
from actfocus_verl.preflight.settings import check_config
from tests.config.conftest import composed
from tests.helpers.probes import add_probes
from tests.helpers.queue import LocalQueue
from tests.helpers.trainer import MakeTrainer, to_advantages

Rows = dict[str, dict[str, Any]]
OF_TURNS = ("turn_ppo", "bilevel_gae")


@pytest.fixture
def rows(rows: Rows) -> Rows:
    """With rewards before the last turn, episodes of three lengths, states that some share, and a critic's values."""
    generator = torch.Generator().manual_seed(5)
    extra = {"a_1_0": (3, [1, 1, 4]), "a_2_0": (2, [7, 2]), "b_1_0": (1, [1]), "b_2_0": (3, [1, 5, 2])}
    for key, row in rows.items():
        turns, anchors = extra.get(key, (2, [1, 2]))
        length = len(row["responses"])
        turns = min(turns, max(1, length // 2))  # two tokens a turn, and one between the first two
        row["response_mask"] = row["loss_mask"] = torch.ones(length, dtype=torch.int64)
        row["response_mask"][2] = 0  # a message of the environment between the turns
        row["turn_ids"] = torch.where(
            torch.arange(length) < 2, 0, ((torch.arange(length) - 1) // 2).clamp(max=turns - 1)
        )
        if turns == 1:
            row["response_mask"][3:] = 0
        row["turn_ids"] = torch.where(row["response_mask"] > 0, row["turn_ids"], -1)
        row["token_roles"] = row["response_mask"] * 2
        final = float(row["rm_scores"].sum())
        row["turn_rewards"] = torch.tensor([-0.1] * (turns - 1) + [final + 0.1 * (turns - 1)])
        row["anchors"] = torch.tensor(anchors[:turns])
        row["next_anchors"] = torch.tensor([*anchors[1:turns], -1 if final > 0 else 9])
        row["states"], row["replayed"] = row["anchors"], torch.zeros_like(row["anchors"])
        row["values"] = torch.where(row["response_mask"] > 0, torch.randn(length, generator=generator), float("nan"))
    add_probes(rows)
    return rows


def advantages(queue: LocalQueue, rows: Rows, name: str = "advantages") -> dict[str, list[float]]:
    return {key: queue.rows[key][name].double().tolist() for key in rows}


def numbers(row: dict[str, Any]) -> list[int]:
    """The turn of each token, -1 outside."""
    return row["turn_ids"].tolist()


def slow_gigpo(rows: Rows, gamma: float, weight: float, *, by_std: bool) -> dict[str, list[float]]:
    def normal(value: float, others: list[float]) -> float:
        if len(others) == 1:
            return 0.0
        centred = value - statistics.fmean(others)
        return centred / (statistics.stdev(others) + 1e-6) if by_std else centred

    def to_come(row: dict[str, Any], turn: int) -> float:
        rewards = row["turn_rewards"].tolist()
        return sum(gamma ** (later - turn) * rewards[later] for later in range(turn, len(rewards)))

    found = {}
    for key, row in rows.items():
        group = [other for name, other in rows.items() if name[0] == key[0]]
        episode = normal(sum(row["turn_rewards"].tolist()), [sum(other["turn_rewards"].tolist()) for other in group])
        step = [
            normal(
                to_come(row, turn),
                [
                    to_come(other, t)
                    for other in group
                    for t, state in enumerate(other["anchors"].tolist())
                    if state == anchor
                ],
            )
            for turn, anchor in enumerate(row["anchors"].tolist())
        ]
        found[key] = [episode + weight * step[turn] if turn >= 0 else 0.0 for turn in numbers(row)]
    return found


@pytest.mark.parametrize("by_std", [False, True])
@pytest.mark.parametrize("credit", ["uniform", "actfocus"])
def test_gigpo_in_a_step(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, credit: str, by_std: bool) -> None:
    trainer = make_trainer(
        "algorithm=gigpo",
        f"credit={credit}",
        "estimator.step_weight=0.7",
        "algorithm.gamma=0.9",
        f"algorithm.norm_adv_by_std_in_grpo={str(by_std).lower()}",
    )
    batch, metrics = to_advantages(trainer, queue.fill(rows))
    for key, expected in slow_gigpo(rows, 0.9, 0.7, by_std=by_std).items():
        assert advantages(queue, rows)[key] == pytest.approx(expected, abs=1e-4)
    met = [(key[0], anchor) for key, row in rows.items() for anchor in row["anchors"].tolist()]
    assert metrics["estimator/compared_turns"] == pytest.approx(sum(met.count(each) > 1 for each in met) / len(met))
    padding = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if tag.get("is_padding")]
    assert len(padding) == 2
    assert all(queue.rows[key]["advantages"].tolist() == [0.0] for key in padding)
    assert {"advantages", "returns", "token_weights"} <= set(batch.fields)


@pytest.mark.parametrize("by_std", ["true", "false"])
def test_gigpo_without_its_second_level_is_grpo_to_the_bit(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, by_std: str
) -> None:
    found = {}
    for algorithm in (["grpo"], ["gigpo", "estimator.step_weight=0"]):
        setting = f"algorithm.norm_adv_by_std_in_grpo={by_std}"
        to_advantages(make_trainer(f"algorithm={algorithm[0]}", setting, *algorithm[1:]), queue.fill(rows))
        found[algorithm[0]] = {key: queue.rows[key]["advantages"] for key in rows}
    for key in rows:
        assert torch.equal(found["gigpo"][key], found["grpo"][key])
    assert any(float(row.abs().max()) > 0.5 for row in found["grpo"].values())


def gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    values = [*values, 0.0]
    deltas = [reward + gamma * values[t + 1] - values[t] for t, reward in enumerate(rewards)]
    return [sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, len(deltas))) for t in range(len(deltas))]


def slow_over_turns(rows: Rows, name: str) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Advantages, whitened, and targets, with gamma 0.9, lam 0.8 and high_level_gamma 0.7."""
    raw, targets = {}, {}
    for key, row in rows.items():
        rewards, values = row["turn_rewards"].tolist(), row["values"].tolist()
        places = [[t for t, number in enumerate(numbers(row)) if number == turn] for turn in range(len(rewards))]
        raw[key], targets[key] = [0.0] * len(values), [0.0] * len(values)
        read, gamma = (0, 0.9) if name == "turn_ppo" else (-1, 0.7)
        at = [values[tokens[read]] for tokens in places]
        for tokens, value, high in zip(places, at, gae(rewards, at, gamma, 0.8), strict=True):
            own = [values[t] for t in tokens]
            low = [high] * len(tokens)
            if name == "bilevel_gae":
                low = gae([0.0] * (len(tokens) - 1) + [high + value], own, 0.9, 0.8)
            for t, advantage, token_value in zip(tokens, low, own, strict=True):
                raw[key][t] = advantage
                targets[key][t] = advantage + (value if name == "turn_ppo" else token_value)
    real = [raw[key][t] for key, row in rows.items() for t, number in enumerate(numbers(row)) if number >= 0]
    mean, deviation = statistics.fmean(real), math.sqrt(statistics.variance(real) + 1e-8)
    white = {
        key: [(raw[key][t] - mean) / deviation if number >= 0 else 0.0 for t, number in enumerate(numbers(row))]
        for key, row in rows.items()
    }
    return white, targets


@pytest.mark.parametrize("name", OF_TURNS)
@pytest.mark.parametrize("credit", ["uniform", "aem"])
def test_estimators_with_a_critic_in_a_step(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, name: str, credit: str
) -> None:
    overrides = ["algorithm.gamma=0.9", "algorithm.lam=0.8"]
    overrides += ["estimator.high_level_gamma=0.7"] if name == "bilevel_gae" else []
    batch, metrics = to_advantages(make_trainer(f"algorithm={name}", f"credit={credit}", *overrides), queue.fill(rows))
    white, targets = slow_over_turns(rows, name)
    for key in rows:
        assert advantages(queue, rows)[key] == pytest.approx(white[key], abs=1e-4)
        assert advantages(queue, rows, "returns")[key] == pytest.approx(targets[key], abs=1e-4)
    padding = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if tag.get("is_padding")]
    assert len(padding) == 2
    assert all(queue.rows[key][column].tolist() == [0.0] for key in padding for column in ("advantages", "returns"))
    assert "estimator/compared_turns" not in metrics


def test_a_penalty_in_the_reward_reaches_the_turn(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows) -> None:
    """verl subtracts kl_coef times a token's KL; here undiscounted, so a turn's target is what is to come."""
    for row in rows.values():
        row["values"] = torch.zeros_like(row["values"])
    trainer = make_trainer(
        "algorithm=turn_ppo",
        "credit=uniform",
        "algorithm.use_kl_in_reward=true",
        "actor_rollout_ref.actor.use_kl_loss=false",
    )
    trainer.kl_ctrl_in_reward = type("Controller", (), {"value": 0.5, "update": lambda *_, **__: None})()
    batch = queue.fill(rows)
    metrics: dict[str, Any] = {}
    batch = trainer._balance_batch(batch, metrics=metrics)
    batch = trainer._compute_old_log_prob(batch, metrics=metrics)
    for row in queue.rows.values():
        row["ref_log_prob"] = row["old_log_probs"] - 0.2
    trainer._compute_advantage(batch, metrics=metrics)
    for key, row in rows.items():
        found = advantages(queue, rows, "returns")[key]
        for t, number in enumerate(numbers(row)):
            if number >= 0:
                later = sum(other >= number for other in numbers(row))
                expected = float(row["turn_rewards"][number:].sum()) - 0.5 * 0.2 * later
                assert found[t] == pytest.approx(expected, abs=1e-5)


def test_the_order_of_rows_does_not_matter(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows) -> None:
    for name in ESTIMATORS.known():
        found = []
        for order in (list(rows), list(rows)[::-1]):
            queue.rows.clear()
            to_advantages(
                make_trainer(f"algorithm={name}", "credit=uniform"), queue.fill({key: rows[key] for key in order})
            )
            found.append(advantages(queue, rows))
        for key in rows:
            assert found[0][key] == pytest.approx(found[1][key], abs=1e-5)


# Refusals


def test_every_estimator_is_registered_and_needs_our_trainer() -> None:
    for name in ESTIMATORS.known():
        assert ADV_ESTIMATOR_REGISTRY[name].__wrapped__ is ESTIMATORS.get(name).function
        tensors = {"token_level_rewards": torch.zeros(1, 1), "response_mask": torch.ones(1, 1), "index": ["a"]}
        with pytest.raises(ConfigurationError, match=f"adv_estimator='{name}': .*trainer_mode=actfocus_sync"):
            ADV_ESTIMATOR_REGISTRY[name](**tensors, config={})


@pytest.mark.parametrize("name", ESTIMATORS.known())
def test_a_loop_without_the_columns_is_refused(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, name: str
) -> None:
    for row in rows.values():
        del row["turn_rewards"]
    trainer = make_trainer(f"algorithm={name}", "credit=uniform")
    with pytest.raises(ConfigurationError, match=f"'{name}': needs the column turn_rewards, which the agent loop"):
        to_advantages(trainer, queue.fill(rows))


def test_another_reward_than_the_turns_is_refused(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows) -> None:
    rows["b_0_0"]["rm_scores"] = rows["b_0_0"]["rm_scores"] + 1.0
    with pytest.raises(ValueError, match="turn rewards of 1 episodes do not sum to their score"):
        to_advantages(make_trainer("algorithm=gigpo", "credit=uniform"), queue.fill(rows))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["algorithm=turn_ppo", "critic.enable=false"],
            "'turn_ppo': reads a critic's values, .*Set critic.enable=true",
        ),
        (["algorithm=bilevel_gae", "critic.enable=null"], "'bilevel_gae': reads a critic's values"),
        (
            ["algorithm=bilevel_gae", "algorithm.use_kl_in_reward=true"],
            "use_kl_in_reward=True: bilevel_gae does not support",
        ),
        (["algorithm=gigpo", "estimator.step_weight=-1"], "estimator.step_weight=-1: must be a finite number >= 0"),
        (
            ["algorithm=gigpo", "+estimator.mode=1"],
            "estimator.mode=1: is not a parameter of the estimator gigpo",
        ),
        (
            ["algorithm=grpo", "+estimator.step_weight=1"],
            "estimator.step_weight=1: is not a parameter of the estimator grpo",
        ),
    ],
)
def test_what_cannot_be_is_one_line(make_trainer: MakeTrainer, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        make_trainer(*overrides)
    assert "\n" not in str(caught.value)


def test_estimators_of_verl_need_nothing(make_trainer: MakeTrainer) -> None:
    for algorithm in ("grpo", "ppo"):
        assert require_estimator(make_trainer(f"algorithm={algorithm}").config) is None


def test_columns_of_turns_end_where_the_episode_does() -> None:
    def nested(*rows: list[float]) -> torch.Tensor:
        return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)

    data = TensorDict({"turn_rewards": nested([1.0], [2.0, 3.0], [4.0, 5.0])}, batch_size=3)
    found = padded_turns(data, torch.tensor([True, True, False]))
    assert found["turn_counts"].tolist() == [1, 2, 0]
    assert found["turn_rewards"].tolist() == [[1.0, 0.0], [2.0, 3.0], [0.0, 0.0]]
    data["anchors"] = nested([1.0], [2.0], [3.0])
    with pytest.raises(ValueError, match="anchors and turn_rewards of an episode differ in length"):
        padded_turns(data, torch.tensor([True, True, False]))


def test_the_check_before_a_run_refuses_it_too(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigurationError, match="reads a critic's values"):
        check_config(composed("algorithm=turn_ppo", "critic.enable=false"))
    check_config(composed("algorithm=gigpo", "actor_rollout_ref.rollout.n=1"))
    assert "a group of one episode has no baseline for gigpo to subtract" in caplog.text
