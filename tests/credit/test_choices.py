"""The files of configs/credit, and what holds for every one of them: neutral settings, padding, masks, order, scale."""

import math
from pathlib import Path

import pytest
import torch
import yaml

from actfocus_verl.credit.registry import build_weighting, known_weightings
from actfocus_verl.credit.token_weights import compute_token_credit
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.credit.weighting import ACTFOCUS_SIGNALS, uniform

E, R, A, F = (int(role) for role in TokenRole)
FOLDER = Path(__file__).resolve().parents[2] / "configs" / "credit"
GROUPS = torch.tensor([0, 0, 7, 7, 0, 7])
MINI_BATCHES = torch.tensor([1, 1, 1, 2, 2, 2])


def section(path):
    content = yaml.safe_load(path.read_text())
    return content.get("credit", content)


CHOICES = {path.stem: section(path) for path in sorted(FOLDER.glob("*.yaml"))}
SETTINGS = [
    *CHOICES.values(),
    *(CHOICES["actfocus"] | {"signal": signal} for signal in ACTFOCUS_SIGNALS if signal != "energy"),
    CHOICES["aem"] | {"scope": "batch"},
    CHOICES["empg"] | {"center": False},
    CHOICES["hindsight"] | {"tokens": "all", "decay_steps": None},
    CHOICES["influence"] | {"level": "token"},
]
every_setting = pytest.mark.parametrize("config", SETTINGS, ids=lambda config: "-".join(map(str, config.values())))


def random_columns(seed=0, rows=6, tokens=18):
    """Columns of the trainer: two turns an episode with a message of the environment between them."""
    generator = torch.Generator().manual_seed(seed)
    roles = torch.randint(1, 4, (rows, tokens), generator=generator)
    roles[:, 8:10] = E
    ends = torch.randint(11, tokens + 1, (rows, 1), generator=generator)
    roles = torch.where(torch.arange(tokens) < ends, roles, E)
    turn_ids = torch.where(roles == E, -1, (torch.arange(tokens) > 9).long().expand_as(roles))
    floats = ("advantages", "old_log_probs", "ref_log_prob", "energy", "reference_entropy", "gauge_free_energy")
    columns = {name: torch.randn(rows, tokens, generator=generator) for name in floats}
    columns["hindsight_log_probs"] = columns["old_log_probs"] + torch.randn(rows, tokens, generator=generator) / 4
    columns["relevance"] = torch.rand(rows, tokens, generator=generator)
    columns["entropy"] = torch.rand(rows, tokens, generator=generator) * 2
    mask = (roles != E).long()
    of_rows = {"group_ids": GROUPS[:rows], "influence": torch.full((rows,), 0.3)}
    of_rows["training_step"] = torch.full((rows,), 5)
    return columns | of_rows | {"token_roles": roles, "turn_ids": turn_ids, "response_mask": mask}


def credit(columns, config, **options):
    """Weights and shift as two tensors; no shift is a shift of 0."""
    weights, shift = compute_token_credit(columns, build_weighting(config), **options)
    return weights, torch.zeros_like(weights) if shift is None else shift


def assert_same(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        if tolerance:
            torch.testing.assert_close(one, other, **tolerance)
        else:
            assert torch.equal(one, other)


def test_every_weighting_has_a_file_of_its_name():
    assert tuple(CHOICES) == known_weightings()
    assert all(config["name"] == name for name, config in CHOICES.items())


@pytest.mark.parametrize("name", CHOICES)
def test_a_file_says_all_parameters_and_their_defaults(name):
    stated = {key: value for key, value in CHOICES[name].items() if key not in ("normalize", "placebo")}
    spec = build_weighting({"name": name})
    assert stated == {"name": name, **spec.params}
    assert CHOICES[name]["placebo"] is False
    assert CHOICES[name]["normalize"] == ("none" if name in ("aem", "empg", "hindsight") else "batch")


@pytest.mark.parametrize(
    "config",
    [
        {"name": "uniform"},
        {"name": "actfocus", "alpha": 1, "beta": 0},
        {"name": "entropy_quantile", "fraction": 1},
        {"name": "aem", "lam": 0},
        {"name": "aem", "lam": 0, "scope": "trajectory"},
        {"name": "aem", "gate": 1e9},
        {"name": "empg", "k": 0, "zeta": 0, "center": False},
        {"name": "hindsight", "lam": 0},
        {"name": "hindsight", "clip": 0},
        {"name": "influence", "floor": 1},
        {"name": "influence", "floor": 1, "level": "token"},
    ],
)
@pytest.mark.parametrize("normalize", ["batch", "mini_batch", "none"])
@pytest.mark.parametrize("placebo", [False, True])
def test_a_neutral_setting_is_uniform_to_the_bit(config, normalize, placebo):
    columns = random_columns(1)
    options = {"normalize": normalize, "placebo": placebo}
    weights, shift = compute_token_credit(columns, build_weighting(config | options), mini_batch_ids=MINI_BATCHES)
    assert torch.equal(weights, uniform(columns["token_roles"]))
    assert shift is None


def test_action_only_is_actfocus_at_its_base_to_the_bit():
    columns = random_columns(2)
    assert_same(credit(columns, {"name": "action_only"}), credit(columns, {"name": "actfocus", "alpha": 0, "beta": 0}))


@every_setting
def test_weights_are_finite_and_not_negative_and_say_something(config):
    columns = random_columns(3)
    weights, shift = credit(columns, config)
    response = columns["token_roles"] != E
    assert bool(torch.isfinite(weights).all())
    assert bool((weights >= 0).all())
    assert not weights[~response].any()
    assert not shift[~response].any()
    assert (config["name"] == "uniform") == (len(weights[response].unique()) == 1)


@every_setting
@pytest.mark.parametrize("junk", [math.nan, math.inf, -1e30])
def test_padding_rows_and_masked_tokens_are_in_no_statistic(config, junk):
    columns = random_columns(4)
    expected = credit(columns, config, mini_batch_ids=MINI_BATCHES)

    masked = columns["token_roles"] == E
    dirty = {
        name: torch.where(masked, junk, column) if column.is_floating_point() and column.dim() == 2 else column
        for name, column in columns.items()
    }
    dirty["token_roles"] = torch.where(masked, A, columns["token_roles"])  # only the mask says that they are masked
    dirty["turn_ids"] = torch.where(masked, 3, columns["turn_ids"])
    padding = {
        name: torch.full_like(column[:2], junk) if column.is_floating_point() else column[:2].clone()
        for name, column in columns.items()
    }
    padded = {name: torch.cat((padding[name][:1], dirty[name], padding[name][1:])) for name in columns}
    valid = torch.tensor([False] + [True] * 6 + [False])
    ids = torch.tensor([1, *MINI_BATCHES.tolist(), 2])
    found = credit(padded, config, valid_rows=valid, mini_batch_ids=ids)

    assert_same([column[1:-1] for column in found], expected)
    assert not any(column[[0, -1]].any() for column in found)


@every_setting
def test_the_order_of_rows_does_not_matter(config):
    columns = random_columns(5)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    shuffled = {name: column[order] for name, column in columns.items()}
    expected = [column[order] for column in credit(columns, config)]
    assert_same(credit(shuffled, config), expected, rtol=1e-5, atol=1e-6)


@every_setting
@pytest.mark.parametrize("normalize", ["batch", "mini_batch"])
def test_any_weighting_can_be_scaled_to_mean_one(config, normalize):
    columns = random_columns(6)
    weights, _ = credit(columns, config | {"normalize": normalize}, mini_batch_ids=MINI_BATCHES)
    for rows in [MINI_BATCHES > 0] if normalize == "batch" else [MINI_BATCHES == 1, MINI_BATCHES == 2]:
        kept = weights[rows][columns["token_roles"][rows] != E]
        assert float(kept.double().mean()) == pytest.approx(1.0, rel=1e-6)


@every_setting
def test_columns_are_left_as_they_were(config):
    columns = random_columns(7)
    before = {name: column.clone() for name, column in columns.items()}
    credit(columns, config | {"placebo": True})
    assert all(torch.equal(columns[name], column) for name, column in before.items())


@every_setting
def test_the_placebo_keeps_the_weights_of_each_role(config):
    columns = random_columns(8, rows=6)
    plain, placebo = (credit(columns, config | {"placebo": value}) for value in (False, True))
    for role in TokenRole:
        mine = columns["token_roles"] == role
        assert_same([c[mine].sort().values for c in placebo], [c[mine].sort().values for c in plain])
    moved = not torch.equal(plain[0], placebo[0])
    one_per_role = config["name"] in ("uniform", "action_only") or config.get("level") == "role"
    assert moved != one_per_role
