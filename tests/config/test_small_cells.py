"""The small twins: one of every cell of the paper; arms differ in what they compare alone."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from actfocus_verl.reproduction.report.tables import paper
from tests.config.conftest import compose_config
from tests.config.test_cells import CELLS, MATRICES, expected
from tests.config.test_paper_cells import CELLS as PAPER
from tests.config.test_paper_cells import SWEEPS

GRPO = "frozen_lake_grpo_actfocus"
CONTROLS = [
    *(
        (f"{world}_{algorithm}_uniform", f"{world}_{algorithm}_actfocus", {"credit=uniform"})
        for world in ("frozen_lake", "sokoban", "sudoku", "webshop")
        for algorithm in ("ppo", "grpo")
    ),
    ("frozen_lake_ppo_placebo", "frozen_lake_ppo_actfocus", {"credit.placebo=true"}),
    ("sudoku_grpo_placebo", "sudoku_grpo_actfocus", {"credit.placebo=true"}),
    (f"{GRPO}_lr_9e-4", GRPO, {"actor_rollout_ref.actor.optim.lr=9.0e-4"}),
    (f"{GRPO}_format_weight_1", GRPO, {"credit.format_weight=1.0"}),
    ("frozen_lake_coupled_grpo_actfocus", GRPO, {"tiny_policy.coupling=coupled"}),
]


def differing(one: Any, other: Any, path: str = "") -> set[str]:
    """Dotted keys whose values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        below = [differing(one.get(key), other.get(key), f"{path}.{key}") for key in {*one, *other}]
        return set().union(*below) if below else set()
    return set() if one == other else {path.removeprefix(".")}


def settings(name: str) -> dict[str, Any]:
    config = compose_config(*CELLS[f"small/{name}"].settings, "run.name=the_same")
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def test_every_cell_and_sweep_of_the_paper_has_a_small_twin() -> None:
    assert {f"small/{world}_{algorithm}_{credit}" for world, _, algorithm, credit in PAPER} <= CELLS.keys()
    for key, names in SWEEPS.items():
        for name in names:
            twin = f"small/{name.replace('_3b_', '_')}"
            credit = {key: value for key, value in expected(twin).items() if key.startswith("credit.")}
            assert credit.items() <= expected(f"paper/{name}").items()
            assert f"credit.{key}" in credit


def test_weightings_differ_in_the_weighting_alone() -> None:
    uniform, actfocus = (settings(f"frozen_lake_grpo_{credit}") for credit in ("uniform", "actfocus"))
    assert all(key.startswith("credit.") for key in differing(uniform, actfocus)), differing(uniform, actfocus)
    credit = actfocus["credit"]
    assert (credit["alpha"], credit["beta"], credit["format_weight"]) == (0.1, 0.5, None)
    assert uniform["actor_rollout_ref"]["actor"]["kl_loss_coef"] == 0.03
    assert (uniform["env"]["name"], uniform["env"]["preset"], uniform["platform"]["name"]) == (
        "frozen_lake",
        "clean",
        "cpu",
    )


def test_ppo_is_grpo_with_a_critic() -> None:
    ppo, grpo = settings("frozen_lake_ppo_actfocus"), settings("frozen_lake_grpo_actfocus")
    assert {key.partition(".")[0] for key in differing(ppo, grpo)} <= {"algorithm", "algorithm_name", "critic"}
    assert (ppo["algorithm"]["adv_estimator"], grpo["algorithm"]["adv_estimator"]) == ("gae", "grpo")


@pytest.mark.parametrize(("name", "base", "more"), CONTROLS)
def test_a_control_changes_one_thing(name: str, base: str, more: set[str]) -> None:
    of_the_base, found = (
        {each for each in CELLS[f"small/{cell}"].settings if not each.startswith("run.name=")} for cell in (base, name)
    )
    assert found - of_the_base == more
    assert of_the_base <= found


def test_no_cell_is_in_two_matrices_but_those_of_longer() -> None:
    assert not MATRICES["pilot"].keys() & MATRICES["small"].keys()
    for name, longer in MATRICES["longer"].items():
        assert set(longer.settings) == {*MATRICES["pilot"][name].settings, "trainer.total_training_steps=32"}


def test_the_numbers_beside_a_cell_are_the_paper_s() -> None:
    for cells in MATRICES.values():
        assert all(cell.paper and set(cell.paper) <= paper()["cells"].keys() for cell in cells.values() if cell.paper)
    assert all(cell.paper == (name.removeprefix("paper/"),) for name, cell in MATRICES["paper"].items())
