"""The small twins: one of every paper experiment; arms differ in what they compare alone; matrices list them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from actfocus_verl.preflight.overrides import config_folder, known_names
from actfocus_verl.reproduction.matrix import read_matrix
from tests.config.conftest import composed
from tests.config.test_paper_cells import CELLS, SWEEPS

ROOT = Path(__file__).resolve().parents[2]
MATRICES = ROOT / "recipes" / "matrices"
SMALL = {name for name in known_names("experiment") if name.startswith("small/")}
GRPO = "frozen_lake_grpo_actfocus"
CONTROLS = [
    ("frozen_lake_ppo_placebo", "frozen_lake_ppo_actfocus", "credit.placebo", True),
    (f"{GRPO}_lr_9e-4", GRPO, "actor_rollout_ref.actor.optim.lr", 9e-4),
    (f"{GRPO}_format_weight_1", GRPO, "credit.format_weight", 1.0),
    ("frozen_lake_coupled_grpo_actfocus", GRPO, "tiny_policy.coupling", "coupled"),
]


def body(kind: str, name: str) -> dict[str, Any]:
    """What a file sets besides the name of its run."""
    content = yaml.safe_load((config_folder() / "experiment" / kind / f"{name}.yaml").read_text())
    assert content.pop("run") == {"name": f"{name}-seed${{run.seed}}"}
    content.pop("defaults")
    return content


def differing(one: Any, other: Any, path: str = "") -> set[str]:
    """Dotted keys whose values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        below = [differing(one.get(key), other.get(key), f"{path}.{key}") for key in {*one, *other}]
        return set().union(*below) if below else set()
    return set() if one == other else {path.removeprefix(".")}


def settings(name: str) -> dict[str, Any]:
    config = composed(f"experiment=small/{name}", "run.name=the_same")
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def test_every_cell_and_sweep_of_the_paper_has_a_small_twin() -> None:
    twins = {f"{world}_{algorithm}_{credit}" for world, _, algorithm, credit in CELLS}
    for names in SWEEPS.values():
        for name in names:
            twin = name.replace("_3b_", "_")
            twins.add(twin)
            assert body("small", twin) == body("paper", name) != {}
    assert {f"small/{name}" for name in twins} <= SMALL


@pytest.mark.parametrize("world", ["frozen_lake", "sokoban", "sudoku", "webshop"])
def test_weightings_differ_in_the_weighting_alone(world: str) -> None:
    uniform, actfocus = (settings(f"{world}_grpo_{credit}") for credit in ("uniform", "actfocus"))
    assert all(key.startswith("credit.") for key in differing(uniform, actfocus)), differing(uniform, actfocus)
    credit = actfocus["credit"]
    assert (credit["alpha"], credit["beta"], credit["format_weight"]) == (0.1, 0.5, None)
    assert uniform["actor_rollout_ref"]["actor"]["kl_loss_coef"] == 0.03
    assert (uniform["env"]["name"], uniform["env"]["preset"], uniform["platform"]["name"]) == (world, "clean", "cpu")


def test_ppo_is_grpo_with_a_critic() -> None:
    ppo, grpo = settings("frozen_lake_ppo_actfocus"), settings("frozen_lake_grpo_actfocus")
    assert {key.partition(".")[0] for key in differing(ppo, grpo)} <= {"algorithm", "algorithm_name", "critic"}
    assert (ppo["algorithm"]["adv_estimator"], grpo["algorithm"]["adv_estimator"]) == ("gae", "grpo")


@pytest.mark.parametrize(("name", "base", "key", "value"), CONTROLS)
def test_a_control_changes_one_thing(name: str, base: str, key: str, value: object) -> None:
    control = settings(name)
    assert differing(settings(base), control) == {key}
    assert OmegaConf.select(OmegaConf.create(control), key) == value


def test_the_matrices_list_every_small_experiment_once() -> None:
    listed = [name for file in ("pilot", "small") for name in read_matrix(MATRICES / f"{file}.yaml").experiments]
    assert sorted(listed) == sorted(SMALL)


@pytest.mark.parametrize("file", sorted(MATRICES.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_matrix_names_the_paper_s_experiments(file: Path) -> None:
    known = known_names("experiment")
    matrix = read_matrix(file)
    assert matrix.name == file.stem
    for experiment in matrix.experiments.values():
        assert all(f"paper/{name}" in known for name in experiment.paper)
